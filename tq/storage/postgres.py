"""The store that many servers share: a PostgreSQL database, one writer and a few readers in each server.

Here are the transactions and the reading; what an op does to the tables is in `postgres_batch`, the
statements in `postgres_sql`, the connections in `postgres_link`.

Nothing is remembered of the tables from one transaction to the next, because others write too. Counters are
kept in rows of each writer, and summed where they are read, so that no two servers wait for each other to
count.

A batch is one transaction at READ COMMITTED. Where it meets another, by a deadlock or a unique index, all of
it is run again. Where it waited for a lock in vain, it is run again without the submits that wait for one,
which are refused: so an application that has submitted an id in SQL and goes on keeps nobody else waiting.
Where the connection breaks while it commits, the writer's own row, which each batch moves on, tells whether
it went in: it is asked until it answers.

The database's clock judges, since there are many servers: `now` is what it says, unless the store is told to
trust the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from random import Random
from threading import Event, Lock
from typing import Any, Final, NoReturn, TypeVar, cast

import msgspec
import psycopg
from psycopg import errors

from tq.core import queries
from tq.core.errors import StorageError, StorageInUse, StorageUnavailable, TqError
from tq.core.limits import QueueRules
from tq.core.ops import SCHEDULES_MAX, AnyOp, Reply, Submit
from tq.core.queries import Query
from tq.core.task import ServerId, TaskId
from tq.storage import postgres_lists as lists
from tq.storage import postgres_schedules as schedules
from tq.storage import postgres_sql as sql
from tq.storage.postgres_batch import Batch
from tq.storage.postgres_fleet import (
    PostgresWake,
    keep_letter,
    leader,
    letter_numbers,
    list_servers,
    news,
)
from tq.storage.postgres_keys import list_keys
from tq.storage.postgres_link import (
    READERS_MAX,
    SILENT_NEWS_S,
    SILENT_S,
    SILENT_SHORT_S,
    Connection,
    Readers,
    Talk,
    close_quietly,
    connect,
    is_broken,
    is_clash,
    parse_url,
    told_as_ours,
)
from tq.storage.postgres_schema import migrate, migrations
from tq.storage.postgres_tidy import Tidying
from tq.storage.postgres_work import Raced, Work
from tq.storage.records import schedule_of_row, task_of
from tq.storage.store import Snapshot, Wake, WriteLetter

TRIES: Final = 6
"""How often a batch is run where others are in the way."""
PAUSE_MS: Final = 10
"""How long the first pause before it is run again is at most; the next twice as long, and so on."""
ASK_AGAIN_MS: Final = 250
FAREWELL_S: Final = 1.0
"""How long the database may say nothing to the last statement of a store that is closed."""
DOUBT_MAX_MS: Final = 300_000
"""How long a database that does not answer is asked what became of a commit; then this server must stop."""

R = TypeVar("R")

_rules_decoder: Final = msgspec.json.Decoder(QueueRules)


class PostgresStore:
    """Tasks in the database that *url* names, which other servers may have open too.

    Args:
        url: ``postgresql://user:password@host:5432/database?schema=tq&pool=6``, and what else libpq takes.
        durable: False lets the last changes be lost at a power cut (never at a crash), for speed.
        own_clock: False trusts the *now* of the caller in place of the database's clock: for virtual time.
        name: What the connections are called in ``pg_stat_activity``.
        silent_s: For how long the database may say nothing while it is asked; then the connection is broken.
    Raises:
        InvalidInput: Not such a URL.
        SchemaMismatch: The tables are those of a newer tq.
        StorageInUse: It is being copied, or copied into.
        StorageUnavailable: It is out of reach, or does not let us in, or not make the tables.
        StorageError: It is too old, or set up so that it may lose what it has acknowledged.
    """

    exclusive = False

    def __init__(
        self,
        url: str,
        *,
        durable: bool = True,
        own_clock: bool = True,
        name: str = "tq",
        silent_s: float = SILENT_S,
    ) -> None:
        self._target = parse_url(url)
        self._durable = durable
        self._own_clock = own_clock
        self._name = name
        self._silent_s = silent_s
        self._closing = Event()
        self._writing = Lock()
        self.judged_at: int | None = None
        """What the database's clock showed in the last batch, if that asked for it."""
        self.unsettled = True
        self._batches = 0
        self._held: frozenset[TaskId] = frozenset()
        """The ids that others held when a batch last looked."""
        self._backend: int | None = None
        """The process of the last connection that writes, on the database's side."""
        self._writer: Connection | None = self._connect_writer()
        try:
            with told_as_ours(self._target):
                migrate(self._writer, self._target, migrations())
                self._writer_id = self._enlist(self._writer)
        except BaseException:
            close_quietly(self._writer)
            raise
        self._pauses = Random(self._writer_id)
        beside = self._target.pool - 1
        # One for heartbeats and news, which must not wait for long lists, if there may be as many as that.
        self._reserved: Readers | None = None
        if beside > 1:
            self._reserved = Readers(self._target, self._connect, limit=1)
            beside -= 1
        # One to listen on; without it news is asked for every second.
        self._listens = beside > 1
        beside -= self._listens
        self._readers = Readers(self._target, self._connect, limit=min(beside, READERS_MAX))
        # With a single reader it would be taken from all who read; then autovacuum has to do.
        self._tidying = Tidying(self._readers) if beside > 1 else None

    def _enlist(self, db: Connection) -> int:
        """The number of a new writer."""
        try:
            [(writer,)] = db.execute(sql.INSERT_WRITER, (self._clock(0),)).fetchall()
        except errors.LockNotAvailable:
            raise StorageInUse(f"{self._target.name} is being copied: start when that has ended") from None
        return int(writer)

    def _connect(self, *, durable: bool = False) -> Connection:
        return connect(
            self._target,
            application=self._name,
            durable=durable,
            silent_s=self._silent_s,
            let_go=self._closing,
        )

    def _connect_writer(self) -> Connection:
        """A connection to write by, once the one before it is ended on the database's side too.

        What that has in hand would else stay locked for as long as TCP, or something between, keeps it alive:
        in the middle of a batch the database waits for more without a limit.
        """
        db = self._connect(durable=self._durable)
        try:
            if self._backend is not None:
                db.execute(sql.END_BACKEND, (self._backend, self._name))
        except psycopg.Error as error:
            close_quietly(db)
            with told_as_ours(self._target):
                raise error
        self._backend = db.info.backend_pid
        return db

    # Writing

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        if not ops and news is None:
            return []
        with self._writing:
            return self._apply_again(ops, now, news)

    def _apply_again(self, ops: Sequence[AnyOp], now: int, news: WriteLetter | None) -> list[Reply | TqError]:
        apart = self._names_held(ops)
        for tried in range(1, TRIES + 1):
            try:
                return self._apply(ops, now, news, apart=apart)
            except Raced:
                clash: psycopg.Error | None = None
            except psycopg.Error as error:
                # What is broken before its commit has done nothing, and may have been so for long.
                if not is_clash(error) and not (is_broken(error) and tried == 1):
                    self._raise(error)
                clash = error
                apart = apart or isinstance(error, errors.LockNotAvailable)
            if tried < TRIES:
                self._closing.wait(self._pauses.uniform(0, PAUSE_MS * 2 ** (tried - 1)) / 1000)
        if clash is not None:
            self._raise(clash)
        raise StorageUnavailable(f"{self._target.name}: others were in the way {TRIES} times: try again")

    def _names_held(self, ops: Sequence[AnyOp]) -> bool:
        """Whether one of the submits has just been refused, since its id was held."""
        return bool(self._held) and any(isinstance(op, Submit) and op.task.id in self._held for op in ops)

    def _raise(self, error: psycopg.Error) -> NoReturn:
        with told_as_ours(self._target):
            raise error

    def _apply(
        self, ops: Sequence[AnyOp], now: int, news: WriteLetter | None, *, apart: bool
    ) -> list[Reply | TqError]:
        """Apply *ops* in one transaction, once. Raises what was in the way; then nothing was applied."""
        if self._closing.is_set():
            raise StorageUnavailable(f"the store {self._target.name} is closed: open it again")
        db = self._writer = self._writer or self._connect_writer()
        talk = Talk(db)
        try:
            with nullcontext() if apart else talk.pipeline():
                talk.begin()
                work = Work(talk, self._writer_id, self._clock_of(db, now))
                answers = Batch(work, asked_at=now, apart=apart).run(ops)
                if apart:
                    self._held = _held_of(ops, answers)
                letter = None if news is None else news(answers)
                if letter is not None:
                    keep_letter(work, letter)
                if talk.has_written:
                    talk.tell(sql.UPSERT_WRITER, (self._writer_id, self._batches + 1, work.now))
                else:
                    talk.commit()
        except BaseException:
            self._roll_back(db)
            raise
        if talk.has_written:
            self._commit(db)
        if self._tidying is not None:
            self._tidying.note(work.started)
        self.unsettled = work.has_unsettled if work.has_unsettled is not None else self.unsettled
        return answers

    def _clock_of(self, db: Connection, now: int) -> Callable[[], int]:
        """What gives the instant of a transaction that is under way: asked for here, read when needed."""
        if not self._own_clock:
            return lambda: now
        asked = db.execute(sql.CLOCK)
        self.judged_at = None

        def read() -> int:
            [(at,)] = asked.fetchall()
            self.judged_at = int(at)
            return self.judged_at

        return read

    def _roll_back(self, db: Connection) -> None:
        try:
            db.rollback()
        except psycopg.Error:
            self._drop_writer()
        else:
            if db.closed:
                self._drop_writer()

    def _drop_writer(self) -> None:
        close_quietly(self._writer)
        self._writer = None

    def _commit(self, db: Connection) -> None:
        """Commit; where the connection breaks meanwhile, find out whether it did. Raises if it did not."""
        try:
            done = db.execute("COMMIT", prepare=False)
            assert done.statusmessage == "COMMIT", done.statusmessage
        except psycopg.Error as error:
            self._drop_writer()
            if is_broken(error) and self._has_gone_in():
                return
            raise
        finally:
            # A number is not used again, whether its batch went in or not.
            self._batches += 1

    def _has_gone_in(self) -> bool:
        """Whether the batch went in while whose commit the connection broke. Asks until it is told."""
        asked_ms = 0
        while asked_ms < DOUBT_MAX_MS and not self._closing.wait(ASK_AGAIN_MS / 1000 if asked_ms else 0):
            asked_ms += ASK_AGAIN_MS
            try:
                db = self._connect_writer()
            except StorageUnavailable:
                continue
            try:
                found = db.execute(sql.SELECT_WRITER, (self._writer_id,)).fetchall()
            except psycopg.Error:
                close_quietly(db)
                continue
            self._writer = db
            return bool(found) and found[0][0] == self._batches + 1
        raise StorageError(
            f"{self._target.name} does not say whether the last batch went in: this server must stop,"
            " and what it ran will be recovered"
        )

    def beat(self, server: ServerId, now: int) -> bool:
        """See Store. By a connection that is for this and for news, if there may be as many."""
        with told_as_ours(self._target):
            found = self._with_reader(
                lambda talk: talk.ask(sql.UPDATE_SERVER_SEEN, server, self._clock(now)),
                readers=self._reserved or self._readers,
                silent_s=SILENT_SHORT_S,
            )
        return bool(found)

    def _clock(self, now: int) -> int | None:
        """What stands for the instant in a statement that else takes the database's own."""
        return None if self._own_clock else now

    def open_wake(self, server: ServerId) -> Wake | None:
        if not self._listens:
            return None
        db = self._connect()
        db.silent_s = SILENT_SHORT_S
        return PostgresWake(db, self._target, server, self._notify)

    def _notify(self, channel: str, server: ServerId) -> None:
        with told_as_ours(self._target):
            self._with_reader(lambda talk: talk.ask(sql.NOTIFY, channel, server), silent_s=SILENT_SHORT_S)

    # Reading

    def read(self, query: Query[R]) -> R:
        with told_as_ours(self._target):
            is_news = isinstance(query, queries.GetNews | queries.GetServers)
            answer = self._with_reader(
                lambda talk: self._answer(talk, query),
                readers=self._reserved if is_news else None,
                silent_s=SILENT_NEWS_S if is_news else self._silent_s,
            )
            return cast(R, answer)

    def _answer(self, talk: Talk, query: Query[Any]) -> object:
        if not isinstance(query, queries.GetNews):
            return _answer(talk, query)
        asker = query.sweeper
        return news(talk, query, clock=None if asker is None else self._clock(asker.now))

    def _with_reader(self, ask: Callable[[Talk], R], *, readers: Readers | None = None, silent_s: float) -> R:
        """What *ask* is told; once more where the connection turns out to be broken."""
        readers = readers or self._readers
        try:
            with readers.lend() as db, db.patient(min(silent_s, self._silent_s)):
                return ask(Talk(db))
        except psycopg.Error as error:
            if not is_broken(error):
                raise
            readers.drop_idle()
        with readers.lend() as db, db.patient(min(silent_s, self._silent_s)):
            return ask(Talk(db))

    def snapshot(self) -> Snapshot:
        with told_as_ours(self._target):
            return self._with_reader(_snapshot, silent_s=self._silent_s)

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        for readers in (self._readers, self._reserved):
            if readers is not None:
                readers.close()
        # A batch that is under way is let go when its connection is next silent.
        with self._writing:
            if self._writer is not None:
                # Its counters are then added to those of whoever prunes.
                self._writer.let_go, self._writer.silent_s = None, FAREWELL_S
                with suppress(psycopg.Error):
                    self._writer.execute(sql.DELETE_WRITER, (self._writer_id,))
                self._drop_writer()


def _held_of(ops: Sequence[AnyOp], answers: Sequence[Reply | TqError]) -> frozenset[TaskId]:
    """The ids of those of *ops* that were refused because others hold them."""
    return frozenset(
        op.task.id
        for op, answer in zip(ops, answers, strict=True)
        if isinstance(op, Submit) and isinstance(answer, StorageUnavailable)
    )


@contextmanager
def _of_one_moment(talk: Talk) -> Iterator[None]:
    """All that is read inside is of one moment."""
    talk.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY")
    yield
    talk.commit()


def _answer(talk: Talk, query: Query[Any]) -> object:
    match query:
        case queries.GetTask(task_id=task_id):
            return lists.get_task(talk, task_id)
        case queries.ListTasks():
            with _of_one_moment(talk):
                return lists.page(talk, query)
        case queries.GetFailureGroups(limit=limit):
            return lists.failure_groups(talk, limit)
        case queries.GetStats():
            return lists.stats(talk)
        case queries.OldestPending():
            return tuple(talk.ask(lists.SELECT_OLDEST_PENDING))
        case queries.GetQueues():
            return _rules(talk)
        case queries.GetSchedules(after=after, limit=limit):
            return tuple(map(schedule_of_row, talk.ask(schedules.SELECT_SCHEDULES, after, limit)))
        case queries.GetSchedule(name=name):
            found = talk.ask(schedules.SELECT_SCHEDULE, name)
            return schedule_of_row(found[0]) if found else None
        case queries.DueSchedules(now=now, limit=limit):
            return tuple(map(schedule_of_row, talk.ask(schedules.SELECT_DUE_SCHEDULES, now, limit)))
        case queries.NextDue():
            return talk.ask(lists.SELECT_NEXT_DUE)[0][0]
        case queries.GetServers():
            return list_servers(talk)
        case queries.GetKeys():
            return list_keys(talk)
        case _:
            raise TypeError(f"not a query: {query!r}")


def _rules(talk: Talk) -> tuple[tuple[str, QueueRules], ...]:
    return tuple((queue, _rules_decoder.decode(rules)) for queue, rules in talk.ask(sql.SELECT_ALL_RULES))


def _snapshot(talk: Talk) -> Snapshot:
    with _of_one_moment(talk):
        found = talk.ask(schedules.SELECT_SCHEDULES, "", SCHEDULES_MAX)
        return Snapshot(
            tasks=tuple(map(task_of, talk.ask(lists.SELECT_ALL_TASKS))),
            stats=lists.stats(talk),
            servers=tuple((server, at) for server, at in talk.ask(lists.SELECT_SERVERS)),
            queues=_rules(talk),
            schedules=tuple(map(schedule_of_row, found)),
            keys=list_keys(talk),
            leader=leader(talk),
            letters=letter_numbers(talk),
            holders=tuple((name, task_id) for name, task_id in talk.ask(lists.SELECT_ALL_HOLDERS)),
            unsettled=tuple(task_id for (task_id,) in talk.ask(lists.SELECT_ALL_UNSETTLED)),
        )
