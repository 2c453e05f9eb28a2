"""Looking at a PostgreSQL store that may be in use, and bringing its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tq.storage.checking import RULES, Finding, Rule, judge
from tq.storage.postgres_link import (
    SILENT_LONG_S,
    Connection,
    Target,
    close_quietly,
    connect,
    parse_url,
    told_as_ours,
)
from tq.storage.postgres_schema import migrate, migrations, schema_version

_KNOWN: Final = "(SELECT lives.*, tasks.id FROM lives JOIN tasks ON tasks.seq = lives.seq) AS known"
_OWN_RULES: Final = (
    Rule(
        "tasks",
        "tasks that are in one of the tables tasks and lives, or in two lanes",
        """
        SELECT CAST(coalesce(tasks.seq, lives.seq) AS text) AS which
        FROM tasks FULL JOIN lives ON lives.seq = tasks.seq
        WHERE tasks.seq IS NULL OR lives.seq IS NULL OR tasks.lane <> lives.lane
        """,
    ),
    Rule(
        "unique keys",
        "keys of tasks that have none, or have ended",
        """
        SELECT CAST(seq AS text) AS which FROM lives WHERE holds AND (unique_name IS NULL OR state >= 5)
        """,
    ),
    Rule(
        "numbers",
        "numbers that would be given out twice",
        """
        SELECT 'arrivals' AS which FROM arrivals WHERE last_value < (SELECT max(seq) FROM tasks)
        UNION ALL
        SELECT 'lanes' FROM lanes_id_seq WHERE last_value < (SELECT max(id) FROM lanes)
        """,
    ),
)
_SETTINGS: Final = ("fsync", "full_page_writes", "synchronous_commit")
_SELECT_SETTINGS: Final = "SELECT name, reset_val FROM pg_settings WHERE name = ANY ($1) ORDER BY name"
_SELECT_FORBIDDEN: Final = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND (
    relkind = 'r' AND NOT (
        has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
        AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')
    )
    OR relkind = 'S' AND NOT has_sequence_privilege(oid, 'USAGE')
)
ORDER BY relname
"""
_SELECT_INVALID: Final = """
SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = current_schema()::regnamespace AND NOT (indisvalid AND indisready)
ORDER BY relname
"""
# Everything is gone through once, however long that takes.
_WHOLE_TABLES: Final = """
SET statement_timeout = 0;
SET enable_seqscan = on;
SET enable_hashjoin = on;
SET enable_mergejoin = on;
SET enable_bitmapscan = on;
"""


def check_contents(url: str) -> list[Finding]:
    """See tq.storage.checking."""
    target = parse_url(url)
    with _connected(target, "tq db check") as db:
        version, known = schema_version(db, target), len(migrations())
        if version < known:
            return [Finding("schema", f"version {version}", f"tq db upgrade brings it to {known}")]
        db.execute(_WHOLE_TABLES, prepare=False)
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = [Finding("schema", f"version {version}"), _settings(db), _rights(db), _indexes(db)]
        return found + judge(
            (*RULES, *_OWN_RULES), _KNOWN, lambda statement: db.execute(statement).fetchall()[0]
        )


@contextmanager
def _connected(target: Target, application: str) -> Iterator[Connection]:
    db = connect(target, application=application, durable=False, silent_s=SILENT_LONG_S)
    try:
        with told_as_ours(target):
            yield db
    finally:
        close_quietly(db)


def _settings(db: Connection) -> Finding:
    found: dict[str, str] = dict(db.execute(_SELECT_SETTINGS, (list(_SETTINGS),)).fetchall())
    told = ", ".join(f"{name} = {value}" for name, value in found.items())
    is_off = [name for name in _SETTINGS if found[name] == "off"]
    return Finding("settings", told, f"set {', '.join(is_off)} to on" if is_off else "")


def _rights(db: Connection) -> Finding:
    forbidden = [name for (name,) in db.execute(_SELECT_FORBIDDEN).fetchall()]
    if not forbidden:
        return Finding("rights", f"{db.info.user} may read and write every table")
    return Finding(
        "rights",
        f"{db.info.user} may not use {', '.join(forbidden)}",
        "have the owner of the schema grant them, or connect as the owner",
    )


def _indexes(db: Connection) -> Finding:
    invalid = [name for (name,) in db.execute(_SELECT_INVALID).fetchall()]
    if not invalid:
        return Finding("indexes", "all are valid")
    return Finding("indexes", f"{', '.join(invalid)} cannot be used", "run REINDEX on them")


def upgrade(url: str) -> tuple[int, int]:
    """See tq.storage.checking."""
    target = parse_url(url)
    with _connected(target, "tq db upgrade") as db:
        before = schema_version(db, target)
        migrate(db, target, migrations())
    return before, len(migrations())
