"""What the tests of the SQLite store look at beneath it: its plans, its work, its statements."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from tq.storage.sqlite import SqliteStore

BY_SEQ = "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"
BY_ID = "SEARCH tasks USING INDEX sqlite_autoindex_tasks_1 (id=?)"
BY_LANE = "SEARCH tasks USING COVERING INDEX tasks_pending (lane=?)"


def plan(store: SqliteStore, statement: str) -> list[str]:
    """The steps of *statement*, but for those that walk its arguments or its own few results."""
    arguments = max((int(number) for number in re.findall(r"\?(\d+)", statement)), default=0)
    named = dict.fromkeys(re.findall(r":([a-z]\w*)", statement), "")
    steps = store._writer.execute("EXPLAIN QUERY PLAN " + statement, named or [None] * arguments)
    told = [str(step[3]) for step in steps]
    return [step for step in told if re.search(r"tasks|texts|errors|logs|tags|TEMP B-TREE", step)]


def work(db: apsw.Connection, do: Callable[[], Any]) -> int:
    """Instructions that SQLite's machine carries out on *db*, to the nearest 100, for *do* to be true."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 100
        return False

    db.set_progress_handler(count, 100)
    assert do()
    db.set_progress_handler(None)
    return steps


@contextmanager
def said(db: apsw.Connection) -> Iterator[list[str]]:
    """The first words of the statements that *db* carries out inside."""
    words: list[str] = []
    db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: words.append(event["sql"].split()[0]))
    try:
        yield words
    finally:
        db.trace_v2(0, None)
