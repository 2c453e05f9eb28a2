"""Keeping the tables of the PostgreSQL store small while it is busy.

Each start of a task leaves an entry in the index of pending tasks that points to nothing. Claims enter that
index where they go on, but have to find that place first, past all such entries: after 100,000 of them that
costs 1 ms. Autovacuum comes once a minute at best; so whoever has started many tasks vacuums ``lives``.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Lock, Thread
from typing import Final

import psycopg

from tq.core.errors import StorageUnavailable
from tq.storage.postgres_link import SILENT_LONG_S, Readers

STARTED_MAX: Final = 50_000
"""Starts of tasks after which a server vacuums."""
SHARE_OF_ROWS: Final = 0.02
"""In a large table, whose indexes take long to go through: after starts of as many of its rows."""

# Who else vacuums now is not waited for. Cutting the file would lock out all others.
VACUUM: Final = "VACUUM (SKIP_LOCKED, INDEX_CLEANUP ON, TRUNCATE OFF, PARALLEL 0) lives"
SELECT_SIZE: Final = "SELECT reltuples FROM pg_class WHERE oid = 'lives'::regclass"


class Tidying:
    """Vacuums by itself, in a thread beside, when it has been told of enough starts."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._started = 0
        self._started_max = STARTED_MAX
        self._busy = Lock()

    def note(self, started: int) -> None:
        """So many tasks have been started."""
        self._started += started
        if self._started >= self._started_max and self._busy.acquire(blocking=False):
            self._started = 0
            Thread(target=self._run, name="tq vacuum", daemon=True).start()

    def _run(self) -> None:
        # What fails here is tried again after as many starts; autovacuum is there too.
        try:
            with suppress(psycopg.Error, StorageUnavailable), self._readers.lend() as db:
                [(rows,)] = db.execute(SELECT_SIZE).fetchall()
                self._started_max = max(STARTED_MAX, int(rows * SHARE_OF_ROWS))
                db.execute("SET statement_timeout = 0")
                with db.patient(SILENT_LONG_S):
                    db.execute(VACUUM, prepare=False)
                db.execute("RESET statement_timeout")
        finally:
            self._busy.release()
