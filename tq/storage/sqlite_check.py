"""Looking at a SQLite store that may be in use, and bringing its tables up to date."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw

from tq.storage.checking import RULES, Finding, Rule, judge
from tq.storage.sqlite_file import (
    claim_file,
    migrations,
    open_unchanged,
    open_writer,
    schema_version,
    told_as_ours,
)
from tq.storage.sqlite_sql import PAYLOAD

_KNOWN: Final = "tasks AS known"
_OWN_RULES: Final = (
    Rule(
        "texts",
        "tasks without a payload",
        f"""
        SELECT id AS which FROM tasks WHERE payload IS NULL
            AND NOT EXISTS (SELECT 1 FROM texts WHERE texts.seq = tasks.seq AND part = {PAYLOAD})
        """,
    ),
    Rule(
        "texts",
        "texts of tasks that are not there",
        """
        SELECT CAST(seq AS text) AS which FROM texts
        WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.seq = texts.seq)
        """,
    ),
    Rule(
        "unique keys",
        "keys of tasks that are not there, or have ended",
        """
        SELECT name AS which FROM holders
        WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = holders.task_id AND state < 5)
        """,
    ),
)


def check_contents(path: Path) -> list[Finding]:
    """See tq.storage.checking."""
    with told_as_ours(path), closing(open_unchanged(path)) as db:
        version, known = schema_version(db, path), len(migrations())
        if version < known:
            return [Finding("schema", f"version {version}", f"tq db upgrade brings it to {known}")]
        db.execute("BEGIN")
        found = [Finding("schema", f"version {version}"), _integrity(db)]
        if found[-1].wrong:
            # What the rest would say of a damaged file means nothing.
            return found
        return found + judge((*RULES, *_OWN_RULES), _KNOWN, lambda statement: db.execute(statement).get)


def _integrity(db: apsw.Connection) -> Finding:
    told = [str(line) for (line,) in db.execute("PRAGMA integrity_check(3)")]
    if told == ["ok"]:
        return Finding("integrity", "every page and index is as it must be")
    return Finding("integrity", "; ".join(told), "restore a copy of it")


def upgrade(path: Path) -> tuple[int, int]:
    """See tq.storage.checking."""
    path = path.resolve()
    lock = claim_file(path)
    try:
        with told_as_ours(path), closing(apsw.Connection(str(path))) as db:
            before = schema_version(db, path)
        open_writer(path, durable=True, vfs=None).close(True)
    finally:
        os.close(lock)
    return before, len(migrations())
