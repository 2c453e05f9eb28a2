"""What must be true of a store that is whole, as questions to its tables; and how one is brought up to date.

The questions are the same for each SQL store, but for where its tasks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tq.core.errors import InvalidInput
from tq.core.task import HISTORY_MAX, LOG_LINES_MAX
from tq.storage.records import STORE_LANE, SUBMITTED
from tq.storage.store import needs_psycopg, place_of


class Finding(NamedTuple):
    """What one look found. ``wrong`` says what is not as it must be; empty if all is."""

    name: str
    found: str
    wrong: str = ""


class Rule(NamedTuple):
    """*faults* gives a row for each fault, of which *what* says the kind; its column ``which`` names it."""

    name: str
    what: str
    faults: str


def judge(rules: Iterable[Rule], known: str, ask: Callable[[str], tuple[int, str | None]]) -> list[Finding]:
    """What *rules* say of a store: for each of their names what is wrong, or that nothing is.

    Args:
        known: The table of tasks, called ``known``, with their ids and all that changes.
        ask: Gives the one row of a statement.
    """
    faults: dict[str, list[str]] = {}
    for rule in rules:
        told = faults.setdefault(rule.name, [])
        statement = f"SELECT count(*), min(which) FROM ({rule.faults.format(known=known)}) AS faults"
        count, first = ask(statement)
        if count:
            told.append(f"{count} {rule.what}, such as {first}")
    return [
        Finding(name, "; ".join(told), "keep a copy of the store, and report it")
        if told
        else Finding(name, "all as it must be")
        for name, told in faults.items()
    ]


def _ring(table: str, counted: str, limit: int) -> Rule:
    return Rule(
        table,
        f"tasks with other {table} than they count",
        f"SELECT id AS which FROM {{known}}"
        f" WHERE CASE WHEN {counted} < {limit} THEN {counted} ELSE {limit} END"
        f" <> (SELECT count(*) FROM {table} WHERE {table}.seq = known.seq)",
    )


def _orphans(table: str, column: str = "seq", *, name: str | None = None) -> Rule:
    return Rule(
        name or table,
        f"{table} of tasks that are not there",
        f"SELECT CAST({column} AS text) AS which FROM {table}"
        f" WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.seq = {table}.{column})",
    )


RULES: Final = (
    Rule(
        "states",
        "tasks that contradict their state",
        """
        SELECT id AS which FROM {known}
        WHERE state NOT BETWEEN 0 AND 7
            OR (state = 3 AND (server IS NULL OR started_at IS NULL))
            OR (state IN (0, 1, 2, 4) AND (server IS NOT NULL OR started_at IS NOT NULL))
            OR (state < 5 AND (finished_at IS NOT NULL OR keep_until IS NOT NULL))
            OR (state >= 5 AND (finished_at IS NULL OR keep_until IS NULL))
        """,
    ),
    Rule(
        "lanes",
        "tasks that are in no lane",
        """
        SELECT id AS which FROM {known}
        WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.id = known.lane)
        """,
    ),
    Rule(
        "counters",
        "lanes and states whose counter is not the number of their tasks",
        f"""
        SELECT CAST(lane AS text) || '/' || CAST(state AS text) AS which
        FROM (
            SELECT lane, state, count(*) AS n FROM {{known}} GROUP BY lane, state
            UNION ALL
            SELECT lane, state, -sum(count) FROM counters WHERE lane <> {STORE_LANE} GROUP BY lane, state
        ) AS counted
        GROUP BY lane, state HAVING sum(n) <> 0
        """,
    ),
    Rule(
        "counters",
        "totals that are smaller than what there is",
        f"""
        SELECT CAST(state AS text) AS which
        FROM (
            SELECT state, count(*) AS n FROM {{known}} WHERE state >= 5 GROUP BY state
            UNION ALL
            SELECT {SUBMITTED}, count(*) FROM {{known}}
            UNION ALL
            SELECT state, -sum(count) FROM counters WHERE lane = {STORE_LANE} GROUP BY state
        ) AS counted
        GROUP BY state HAVING sum(n) > 0
        """,
    ),
    Rule(
        "blocked",
        "blocked tasks that wait for more or for fewer tasks than they count",
        """
        SELECT id AS which FROM {known}
        WHERE state = 0 AND (
            blockers = 0
            OR blockers <> (SELECT count(*) FROM dependencies WHERE dependencies.dependent = known.seq)
        )
        """,
    ),
    Rule(
        "blocked",
        "tasks that have ended and will not be told to those that wait for them",
        """
        SELECT id AS which FROM {known}
        WHERE state >= 5
            AND EXISTS (SELECT 1 FROM dependencies WHERE dependencies.dependency = known.seq)
            AND NOT EXISTS (SELECT 1 FROM unsettled WHERE unsettled.seq = known.seq)
        """,
    ),
    _orphans("dependencies", "dependency", name="blocked"),
    _orphans("dependencies", "dependent", name="blocked"),
    _orphans("unsettled"),
    _orphans("tags"),
    _ring("errors", "failures", HISTORY_MAX),
    _orphans("errors"),
    _ring("logs", "logged", LOG_LINES_MAX),
    _orphans("logs"),
)


def check_contents(url: str) -> list[Finding]:
    """What is wrong with the contents of the store *url*, which is only read; servers may have it open.

    Raises:
        InvalidInput: Not the URL of a store that can be checked.
        StorageError: It cannot be read.
    """
    match place_of(url):
        case Path() as path:
            from tq.storage import sqlite_check

            return sqlite_check.check_contents(path)
        case str():
            with needs_psycopg("store"):
                from tq.storage import postgres_check
            return postgres_check.check_contents(url)
        case None:
            raise _is_memory()


def upgrade_store(url: str) -> tuple[int, int]:
    """Bring the tables of the store *url* up to date, making it if it is not there: from, and to.

    All of it is done or nothing; once it is done, the same again does nothing.

    Raises:
        InvalidInput: Not the URL of a store that has tables.
        StorageInUse: A server has it, and it is a file.
        StorageError: It cannot be opened or changed, or is of a newer tq.
    """
    match place_of(url):
        case Path() as path:
            from tq.storage import sqlite_check

            return sqlite_check.upgrade(path)
        case str():
            with needs_psycopg("store"):
                from tq.storage import postgres_check
            return postgres_check.upgrade(url)
        case None:
            raise _is_memory()


def _is_memory() -> InvalidInput:
    return InvalidInput("memory: has no tables: name a file or a database", field="store")
