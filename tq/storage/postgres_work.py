"""What the parts of one transaction of the PostgreSQL store share: its talk, time, counts and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from tq.core.task import LOG_LINES_MAX, AttemptError, TaskId
from tq.storage import postgres_sql as sql
from tq.storage.holders import Holders
from tq.storage.matching import lowered
from tq.storage.postgres_link import Row as Columns
from tq.storage.postgres_link import Talk
from tq.storage.postgres_sql import numbers, texts
from tq.storage.records import Row, options_text, to_json
from tq.storage.rows import VALUES, Rows

LOOK_AGAIN_MAX: Final = 5
HELD_MS: Final = 100
"""How long an impatient block waits for each lock."""
HELD_WAITS: Final = 10
"""Once so many of a transaction have waited in vain, the others wait for HELD_SHORT_MS."""
HELD_SHORT_MS: Final = 1


class Raced(Exception):
    """Another transaction was in the way: the same batch again will see what that one did."""


class Work:
    """One transaction, at the instant that *clock* gives, whose counters are kept as those of *writer*."""

    def __init__(self, talk: Talk, writer: int, clock: Callable[[], int]) -> None:
        self.talk = talk
        self.writer = writer
        self._clock = clock
        self._now: int | None = None
        self.types: dict[int, str] = {}
        """The types of the lanes that have been met: a lane never changes."""
        self.counts: Counter[tuple[int, int]] = Counter()
        """By how much the counters of lanes and states are to change."""
        self._waited = 0
        """How many waits for locks have been in vain."""
        self.started = 0
        """How many tasks have been started."""
        self.has_unsettled: bool | None = None
        """Whether there is something for Settle by now; None: as before."""

    @property
    def now(self) -> int:
        """The instant at which all of this happens."""
        if self._now is None:
            self._now = self._clock()
        return self._now

    def count(self, lane: int, state: int, change: int) -> None:
        """There are so many more tasks of *lane* in *state*."""
        self.counts[lane, state] += change

    def write_counts(self) -> None:
        """Add what has been counted to the counters."""
        changes = sorted((lane, state, change) for (lane, state), change in self.counts.items() if change)
        if changes:
            lanes, states, added = zip(*changes, strict=True)
            self.talk.tell(sql.ADD_COUNTS, (self.writer, numbers(lanes), numbers(states), numbers(added)))
        self.counts.clear()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """A block that is undone if it raises, and waits for no lock for long. Not in a pipeline."""
        before = self.counts.copy()
        try:
            with self.talk.impatient(HELD_MS if self._waited < HELD_WAITS else HELD_SHORT_MS):
                yield
        except BaseException:
            self._waited += 1
            self.counts = before
            raise

    def draw_seqs(self, count: int) -> list[int]:
        """The numbers of the next *count* arrivals."""
        return [seq for (seq,) in self.talk.change(sql.DRAW_SEQS, count)]

    # Rows

    def rows(self, statement: str, *parameters: str | int) -> Rows:
        """The rows that *statement* finds and locks, in its order."""
        return Rows(map(self._row, self.talk.ask(statement, *parameters)), self.now, self)

    def rows_of(self, task_ids: Iterable[TaskId]) -> Rows:
        """The rows of *task_ids* that there are, locked."""
        wanted = set(task_ids)
        return self.rows(sql.SELECT_ROWS, texts(wanted)) if wanted else Rows((), self.now, self)

    def _row(self, columns: Columns) -> Row:
        self.types[columns[2]] = columns[-1]
        return Row(*columns[:-1])

    def type_of(self, lane: int) -> str:
        """See RowSource."""
        return self.types[lane]

    def holders_of(self, names: Sequence[str]) -> dict[str, TaskId]:
        """See RowSource."""
        return dict(self.talk.ask(sql.SELECT_HOLDERS, texts(names))) if names else {}

    def is_unsettled(self, seq: int) -> bool:
        """See RowSource."""
        [(found,)] = self.talk.ask(sql.IS_UNSETTLED, seq)
        return bool(found)

    def write(self, rows: Rows) -> None:
        """Write what of *rows* has changed, and count it."""
        tell = self.talk.tell
        if rows.holders is not None and rows.holders.gone:
            tell(sql.LET_GO, (texts(name for name, _ in rows.holders.gone),))
        if rows.changed:
            tell(sql.UPDATE_ROWS, _columns_of(rows.changed.values()))
        if rows.errors:
            seqs = numbers(row.seq for row, _, _ in rows.errors)
            entries = [error for _, _, error in rows.errors]
            ns = numbers(n for _, n, _ in rows.errors)
            tell(sql.INSERT_ERRORS, (seqs, ns, texts(map(to_json, entries)), texts(map(told_of, entries))))
        if rows.fingerprints:
            changed = rows.fingerprints.values()
            seqs = numbers(row.seq for row, _ in changed)
            tell(sql.UPDATE_FINGERPRINTS, (seqs, texts(fingerprint for _, fingerprint in changed)))
        self._write_rare(rows)
        write_taken(self.talk, rows.holders)
        for (lane, state), change in rows.counts.items():
            self.count(lane, state, change)
        if rows.deleted:
            gone = [row.seq for row in rows.deleted]
            self.delete(gone, gone, gone)
            self.thin({row.lane for row in rows.deleted})

    def _write_rare(self, rows: Rows) -> None:
        """Write what plain tasks do not have."""
        tell = self.talk.tell
        if rows.noted:
            noted = rows.noted.values()
            progress = (None if each is None else to_json(each) for _, each in noted)
            seqs, logged = numbers(row.seq for row, _ in noted), numbers(row.logged for row, _ in noted)
            tell(sql.UPDATE_NOTED, (seqs, logged, texts(progress)))
        if rows.logs:
            # Of two lines for one place of the ring, which one statement cannot both write, the later stays.
            latest = {(row.seq, n % LOG_LINES_MAX): (row.seq, n, line) for row, n, line in rows.logs}
            kept = latest.values()
            lines = texts(to_json(line) for _, _, line in kept)
            tell(sql.INSERT_LOGS, (numbers(seq for seq, _, _ in kept), numbers(n for _, n, _ in kept), lines))
        if rows.blockers:
            waiting = rows.blockers.values()
            seqs = numbers(row.seq for row in waiting)
            tell(sql.UPDATE_BLOCKERS, (seqs, numbers(row.blockers for row in waiting)))
        if rows.new_options:
            options = rows.new_options.values()
            tell(
                sql.UPDATE_OPTIONS,
                (
                    numbers(row.seq for row, _ in options),
                    texts(options_text(each) for _, each in options),
                    numbers(each.stop_at for _, each in options),
                ),
            )
        if rows.values:
            values = rows.values.values()
            columns = [numbers(given.get(name) for _, given in values) for name in VALUES[1:]]
            priorities = (given.get("priority") for _, given in values)
            columns.insert(0, numbers(None if each is None else -each for each in priorities))
            tell(sql.UPDATE_VALUES, (numbers(row.seq for row, _ in values), *columns))
        if rows.unsettled:
            unsettled = sorted((row.seq, cascade) for row, cascade in rows.unsettled.values())
            seqs = numbers(seq for seq, _ in unsettled)
            tell(sql.UPSERT_UNSETTLED, (seqs, numbers(cascade for _, cascade in unsettled)))
            self.has_unsettled = True

    def delete(self, seqs: list[int], not_plain: list[int], failed: list[int]) -> None:
        """Delete the tasks *seqs*; those *not_plain* may have more, those that ever *failed* a history."""
        if not_plain:
            for statement in sql.DELETE_RARE:
                self.talk.tell(statement, (numbers(not_plain),))
        if failed:
            self.talk.tell(sql.DELETE_ERRORS, (numbers(failed),))
        for statement in sql.DELETE_TASKS:
            self.talk.tell(statement, (numbers(seqs),))

    def thin(self, lanes: set[int]) -> None:
        """Tasks of *lanes* have been deleted; a lane whose last one it was is forgotten with its turn."""
        free = [lane for (lane,) in self.talk.change(sql.LOCK_EMPTIED_LANES, numbers(lanes))]
        if not free:
            return
        empty = [lane for (lane,) in self.talk.change(sql.DELETE_EMPTY_LANES, numbers(free))]
        if empty:
            self.talk.tell(sql.DELETE_COUNTS, (numbers(empty),))
            for name in [name for name in self.counts if name[0] in empty]:
                del self.counts[name]


def _columns_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """What UPDATE_ROWS takes."""
    all_of = list(map(msgspec.structs.astuple, rows))
    columns = list(zip(*all_of, strict=True))
    order = (1, 3, 5, 6, 7, 9, 10, 11, 12, 13, 15, 20)
    return (*(numbers(columns[at]) for at in order), texts(columns[14]), texts(columns[21]))


def write_taken(talk: Talk, holders: Holders | None) -> None:
    """Write which unique keys have been taken, once those let go have been."""
    if holders is not None and holders.taken:
        talk.tell(sql.TAKE, (texts(task_id for _, task_id in holders.taken),))


def told_of(error: AttemptError) -> str:
    """What of *error* is searched: ASCII letters lower, and without what PostgreSQL cannot keep."""
    return lowered(f"{error.type}: {error.message}").replace("\0", "\ufffd")
