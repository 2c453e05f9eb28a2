"""Connections of the PostgreSQL store: what a URL says, how one is made, what can go wrong with it.

Knows psycopg, settings and errors; knows nothing of tasks. What is told of an error never has the password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import BoundedSemaphore, Event, Lock
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.types.numeric import Int8Dumper

from tq.core.errors import InvalidInput, StorageError, StorageFull, StorageUnavailable
from tq.storage.postgres_sql import Parameter

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 1_000
"""Tried again as often as a batch is, that is longer than who has stopped keeps locks."""
IDLE_IN_TRANSACTION_MS: Final = 5_000
"""A server that stops in the middle of a batch keeps its locks from the others no longer than this."""
UNHEARD_MS: Final = 10_000
"""A connection whose other end has not been heard of for so long is broken, as TCP sees it."""
SILENT_S: Final = 32.0
"""And one whose other end takes a statement and says nothing for so long, whatever TCP sees."""
SILENT_SHORT_S: Final = 5.0
"""The same where the answer takes no work: setting up, listening, ringing, heartbeats."""
SILENT_NEWS_S: Final = 10.0
"""The same for the question that is asked every second."""
SILENT_LONG_S: Final = 3600.0
"""The same where there may be work for long: migrations and vacuum."""
LEND_S: Final = 10.0
"""How long who wants to read waits for a connection that others have."""
STEP_S: Final = 0.1
"""How often who waits looks whether it has been silent for too long."""
READERS_MAX: Final = 4
VERSION_MIN: Final = 14

Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

# What a plan must not depend on is how large a table was when it was made: see postgres_sql.
_SETTINGS: Final = {
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    # So that the database lets go of what a machine that is gone has locked.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "join_collapse_limit": "1",
    "from_collapse_limit": "1",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_memoize": "off",
    "max_parallel_workers_per_gather": "0",
}
_MUST_BE_ON: Final = ("fsync", "full_page_writes")


class Target(msgspec.Struct, frozen=True):
    """Where the store is and how it is used: what a URL says.

    ``conninfo`` is what libpq is told, ``name`` what people are told. ``pool`` is how many connections there
    may be at most; ``prepares`` is False where something between us and the server cannot keep prepared
    statements.
    """

    conninfo: str
    name: str
    schema: str
    pool: int
    prepares: bool


def parse_url(url: str) -> Target:
    """What *url* says. Raises InvalidInput, without what was secret in it."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop("schema", "tq")
    pool = options.pop("pool", str(READERS_MAX + 2))
    prepares = options.pop("prepare", "on")
    if not schema or len(schema.encode()) > 63 or "\0" in schema:
        raise _bad_option("schema", "is the name of a schema, of 1 to 63 bytes")
    if not re.fullmatch("[0-9]{1,2}", pool) or not 2 <= int(pool) <= 64:
        raise _bad_option("pool", "is how many connections there may be, from 2 to 64")
    if prepares not in ("on", "off"):
        raise _bad_option("prepare", "is on or off")
    rest = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))
    try:
        given = psycopg.conninfo.conninfo_to_dict(rest)
        if not re.fullmatch("([0-9]{0,5},?)*", str(given.get("port") or "")):
            raise psycopg.ProgrammingError
        conninfo = psycopg.conninfo.make_conninfo(rest)
    except psycopg.Error:
        # What libpq says may repeat the URL.
        raise InvalidInput(
            "the URL of the store cannot be understood: use postgresql://user:password@host:5432/database",
            field="store",
        ) from None
    host = given.get("host") or given.get("hostaddr") or "localhost"
    database = given.get("dbname") or unquote(parts.path.lstrip("/")) or "the user's own database"
    return Target(conninfo, f"PostgreSQL {host}/{database}", schema, int(pool), prepares == "on")


def _bad_option(name: str, rule: str) -> InvalidInput:
    return InvalidInput(f"the option {name} in the URL of the store {rule}", field="store")


class Connection(psycopg.Connection[Row]):
    """A connection that is given up when its other end is silent for too long while it is waited for.

    TCP tells of an end that is gone, not of something between that takes what is sent and passes nothing on.
    Whoever waits then gets an OperationalError that says nothing of the server (see `is_broken`), and the
    connection is closed.
    """

    silent_s: float = SILENT_SHORT_S
    """For how long it may be."""
    let_go: Event | None = None
    """Once set, any silence is too long: whoever waits is to end."""

    def wait(self, gen: PQGen[T], *_: Any, **__: Any) -> T:
        """See psycopg. What it is told of intervals and time-outs is not looked at."""
        return super().wait(self._unless_silent(gen), STEP_S)

    def _unless_silent(self, gen: PQGen[T]) -> PQGen[T]:
        steps_left = self.silent_s / STEP_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                # Nothing, after a step in which nothing came. Steps are counted, and not time, in which this
                # process may have stood still; on a busy machine they are longer.
                steps_left = self.silent_s / STEP_S if ready else steps_left - 1
                if steps_left <= 0 or (not ready and self.let_go is not None and self.let_go.is_set()):
                    self.close()
                    raise errors.OperationalError(f"it was silent for {self.silent_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value

    @contextmanager
    def patient(self, silent_s: float) -> Iterator[None]:
        """Within, the other end may be silent for so long."""
        before, self.silent_s = self.silent_s, silent_s
        try:
            yield
        finally:
            self.silent_s = before


def connect(
    target: Target,
    *,
    application: str,
    durable: bool,
    silent_s: float = SILENT_S,
    let_go: Event | None = None,
) -> Connection:
    """A connection on which every statement commits by itself, with our settings.

    Args:
        silent_s: For how long its other end may be silent.
        let_go: Once set, whoever waits on it is to end.
    Raises:
        StorageUnavailable: The server is out of reach, or does not let us in.
        StorageError: It is too old, or set up so that it may lose what it has acknowledged.
    """
    with told_as_ours(target):
        db = Connection.connect(
            target.conninfo,
            autocommit=True,
            prepare_threshold=1 if target.prepares else None,
            cursor_factory=psycopg.RawCursor,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=application,
            keepalives_idle=UNHEARD_MS // 2000,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=UNHEARD_MS,
        )
        db.let_go = let_go
        try:
            # Numbers go as one type whatever their size, or each statement would be prepared several times.
            db.adapters.register_dumper(int, Int8Dumper)
            db.prepared_max = 200
            _check(db, target, durable=durable)
            _set_up(db, target, durable=durable)
        except BaseException:
            db.close()
            raise
    db.silent_s = silent_s
    return db


def _check(db: Connection, target: Target, *, durable: bool) -> None:
    version = db.info.server_version // 10_000
    if version < VERSION_MIN:
        raise StorageError(
            f"{target.name} is version {version}: tq needs PostgreSQL {VERSION_MIN} or newer", version=version
        )
    encoding = db.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StorageError(
            f"{target.name} has the encoding {encoding}: make a database with ENCODING 'UTF8' for tq"
        )
    if not durable:
        return
    for name in _MUST_BE_ON:
        [row] = db.execute("SELECT current_setting($1)", (name,)).fetchall()
        if row[0] != "on":
            raise StorageError(
                f"{target.name} has {name} = {row[0]}, and would lose acknowledged tasks with the power:"
                f" set it to on, or start tq with --durability relaxed"
            )
    # What is only set for our connections we set ourselves; but whoever turned it off wanted that.
    [row] = db.execute("SELECT current_setting('synchronous_commit')").fetchall()
    if row[0] == "off":
        raise StorageError(
            f"{target.name} has synchronous_commit = off, and would lose acknowledged tasks with the power:"
            " set it to on for this role or database, or start tq with --durability relaxed"
        )


def _set_up(db: Connection, target: Target, *, durable: bool) -> None:
    settings = _SETTINGS | {"search_path": quoted(target.schema)}
    if not durable:
        settings["synchronous_commit"] = "off"
    calls = ", ".join(f"set_config(${2 * i + 1}, ${2 * i + 2}, false)" for i in range(len(settings)))
    db.execute(f"SELECT {calls}", [text for setting in settings.items() for text in setting], prepare=False)


def quoted(name: str) -> str:
    """*name* as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


# Trouble


@contextmanager
def told_as_ours(target: Target) -> Iterator[None]:
    """Raise what PostgreSQL or the way to it has against us as a StorageError; let our own bugs through."""
    try:
        yield
    except psycopg.Error as error:
        fault = fault_of(error, target)
        if fault is None:
            raise
        raise fault from error


def fault_of(error: psycopg.Error, target: Target) -> StorageError | None:
    """*error* as one of ours, or None if it is a bug of this program."""
    state = error.sqlstate or ""
    told = _first_line(error)
    match error:
        case errors.DiskFull():
            return StorageFull(f"no room left for {target.name}: free some on its disk")
        case errors.InsufficientPrivilege():
            return StorageUnavailable(
                f"{target.name} does not allow it ({told}): see the rights tq needs in the docs"
            )
        case errors.ReadOnlySqlTransaction():
            return StorageUnavailable(f"{target.name} only reads, as a standby does: connect to the primary")
        case errors.UndefinedTable() | errors.InvalidSchemaName():
            return StorageUnavailable(
                f"{target.name} has lost tables of tq ({told}): restore them from a backup"
            )
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return StorageError(f"{target.name} is damaged ({told}): restore a copy of it")
        case _ if is_broken(error) or state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT:
            return StorageUnavailable(
                f"{target.name} is out of reach ({told}): check that it runs and lets us in"
            )
        case _:
            return None


_TRANSIENT_CLASSES: Final = frozenset({"08", "25", "28", "3D", "40", "53", "57", "58"})
"""Connection, transaction state, authorization, no such database, rollback, resources, operator, system."""
_TRANSIENT: Final = frozenset({"55P03", "23505"})
"""A lock that was not to be had; what another has stored at the same time, again and again."""


def is_broken(error: psycopg.Error) -> bool:
    """Whether it is the connection that is at an end: nothing was said by the server, or that it goes."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )


def is_clash(error: psycopg.Error) -> bool:
    """Whether another transaction was in the way, so that the same again will see what that one did."""
    return (error.sqlstate or "") in ("40001", "40P01", "55P03", "23505")


def _first_line(error: psycopg.Error) -> str:
    told = error.diag.message_primary or str(error)
    return told.strip().partition("\n")[0] or type(error).__name__


# Talking


class Talk:
    """A transaction on *db*: what is told is sent and not waited for, what is asked is."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self.has_written = False

    def begin(self, mode: str = "") -> None:
        """Begin the transaction."""
        self._db.execute(f"BEGIN {mode}")

    def commit(self) -> None:
        """End one that has only read."""
        self._db.execute("COMMIT")

    def tell(self, statement: str, parameters: Sequence[Parameter] = ()) -> None:
        """Have *statement* done. What it has against that is raised later, before the commit."""
        self.has_written = True
        self._db.execute(statement, parameters)

    def ask(self, statement: str, *parameters: Parameter) -> list[Row]:
        """The rows that *statement* gives."""
        return self._db.execute(statement, parameters).fetchall()

    def pipeline(self) -> AbstractContextManager[object]:
        """A block in which what is told goes out together."""
        return self._db.pipeline()

    @contextmanager
    def impatient(self, lock_ms: int) -> Iterator[None]:
        """A block that is undone if it raises, and waits for each lock so long at most. Not in a pipeline."""
        with self._db.transaction():
            self._db.execute(f"SET LOCAL lock_timeout = {lock_ms}")
            yield
            self._db.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")

    def change(self, statement: str, *parameters: Parameter) -> list[Row]:
        """The rows that *statement*, which writes, gives."""
        self.has_written = True
        return self.ask(statement, *parameters)

    def lock(self, statement: str, parameter: Parameter) -> None:
        """Do *statement*, which only locks."""
        self._db.execute(statement, (parameter,))


def close_quietly(db: Connection | None) -> None:
    """Let go of *db*, whatever state it is in."""
    if db is not None:
        with suppress(psycopg.Error):
            db.close()


class Readers:
    """Connections for reading, made when first needed, each lent to one thread at a time."""

    def __init__(self, target: Target, connect: Callable[[], Connection], *, limit: int) -> None:
        self._target = target
        self._connect = connect
        self._free = BoundedSemaphore(limit)
        self._guard = Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        if not self._free.acquire(timeout=LEND_S):
            raise StorageUnavailable(
                f"all connections to {self._target.name} that read have been busy for {LEND_S:g} s:"
                " try again, or give the URL of the store a larger pool"
            )
        try:
            db = self._take()
            try:
                yield db
            except BaseException:
                # What failed once may be broken; the next reader connects anew.
                close_quietly(db)
                raise
            self._give_back(db)
        finally:
            self._free.release()

    def _take(self) -> Connection:
        with self._guard:
            if self._closed:
                raise StorageUnavailable(f"the store {self._target.name} is closed: open it again")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, db: Connection) -> None:
        with self._guard:
            if not self._closed:
                self._idle.append(db)
                return
        close_quietly(db)

    def drop_idle(self) -> None:
        """Let go of those that are not lent: one was broken, and they may be."""
        with self._guard:
            while self._idle:
                close_quietly(self._idle.pop())

    def close(self) -> None:
        """Let go of all that are not lent, and of those when they come back."""
        with self._guard:
            self._closed = True
            while self._idle:
                close_quietly(self._idle.pop())
