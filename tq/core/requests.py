"""JSON to records: every request but the submit. A fault names its field and says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from tq.core.errors import InvalidInput
from tq.core.fields import (
    ATTEMPTS_MAX,
    DELAY_MAX_S,
    TIMEOUT_MAX_S,
    TTL_MAX_S,
    bad,
    check_integer,
    check_key,
    check_name,
    checked_id,
    parse_instant,
    read_ms,
    read_priority,
)
from tq.core.keys import KEY_QUEUES_MAX, KEY_SCOPES_SAID_MAX, NewKey, Scope, in_order
from tq.core.limits import (
    CONCURRENCY_MAX,
    RATE_LIMIT_MAX,
    RATE_PERIOD_MAX_MS,
    Limits,
    Order,
    Rate,
)
from tq.core.ops import PutKey, SetQueue, Update
from tq.core.queries import PayloadMatch, TaskFilter
from tq.core.schedule import Every, Timing, read_timing
from tq.core.task import FINAL, WAITING, Json, NewTask, State, TaskId
from tq.core.wire import RetryRequest, SubmitRequest, UniqueRequest, check_json_text, decode

MISFIRE_GRACE_S: Final = 3600.0
"""Seconds that a tick may come late, unless the schedule says otherwise."""
MISFIRE_GRACE_MAX_S: Final = 366 * 24 * 3600.0
BULK_MAX: Final = 100_000
"""Tasks that one request in bulk may move."""
SEARCH_MAX: Final = 200
"""Characters of a text that is searched for."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_PATH: Final = re.compile(r"payload((?:\.[^.:]{1,64}){1,16}):(.*)", re.DOTALL)

# Changing a task


class UpdateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New values for a task that waits. None: as it is."""

    priority: int | str | None = None
    delay: float | None = None
    run_at: str | None = None
    timeout: float | None = None
    max_attempts: int | None = None
    result_ttl: float | None = None
    deadline: str | None = None
    expires_at: str | None = None


_update = msgspec.json.Decoder(UpdateRequest)


def read_update(body: bytes, task_id: TaskId, *, now: int) -> Update:
    """What *body* asks to change of a task. Raises InvalidInput, naming the field."""
    request = decode(_update, body)
    if request == UpdateRequest():
        raise InvalidInput("nothing to change: name at least one of " + ", ".join(request.__struct_fields__))
    return Update(
        task_id=task_id,
        priority=None if request.priority is None else read_priority(request.priority),
        run_at=_new_run_at(request, now),
        timeout_ms=_ms("timeout", request.timeout, 0.001, TIMEOUT_MAX_S),
        max_attempts=None
        if request.max_attempts is None
        else check_integer("max_attempts", request.max_attempts, 1, ATTEMPTS_MAX),
        result_ttl_ms=_ms("result_ttl", request.result_ttl, 0, TTL_MAX_S),
        deadline_at=_at("deadline", request.deadline),
        expires_at=_at("expires_at", request.expires_at),
    )


def _new_run_at(request: UpdateRequest, now: int) -> int | None:
    if request.delay is not None and request.run_at is not None:
        raise InvalidInput("delay: give delay or run_at, not both", field="delay")
    if request.delay is not None:
        return now + read_ms("delay", request.delay, 0, DELAY_MAX_S)
    return _at("run_at", request.run_at)


def _at(field: str, text: str | None) -> int | None:
    return None if text is None else parse_instant(field, text)


def _ms(field: str, seconds: float | None, low: float, high: float) -> int | None:
    return None if seconds is None else read_ms(field, seconds, low, high)


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a task is to be cancelled: with its children, unless told otherwise."""

    cascade: bool = True


_cancel = msgspec.json.Decoder(CancelRequest)


def read_cancel(body: bytes) -> CancelRequest:
    """What *body*, which may be empty, asks of a cancel. Raises InvalidInput."""
    return decode(_cancel, body) if body else CancelRequest()


class NothingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that has nothing to say."""


_nothing = msgspec.json.Decoder(NothingRequest)


def check_nothing(body: bytes) -> None:
    """Return if *body* is empty or an empty object. Raises InvalidInput, naming the field that is there."""
    if body:
        decode(_nothing, body)


# Which tasks


class FilterRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks are meant, as a query string or the ``filter`` of a body says it."""

    state: str | None = None
    queue: str | None = None
    type: str | None = None
    key: str | None = None
    tag: str | None = None
    parent_id: str | None = None
    schedule: str | None = None
    fingerprint: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    error: str | None = None
    where: str | None = None


FILTER_FIELDS: Final = FilterRequest.__struct_fields__


def read_filter(request: FilterRequest) -> TaskFilter:
    """The filter that is asked for. Raises InvalidInput, naming the field."""
    return TaskFilter(
        states=() if request.state is None else _states(request.state),
        queue=None if request.queue is None else check_name("queue", request.queue),
        type=None if request.type is None else check_name("type", request.type),
        key=None if request.key is None else check_key("key", request.key),
        tag=None if request.tag is None else check_name("tag", request.tag),
        parent_id=None if request.parent_id is None else checked_id(request.parent_id, "parent_id"),
        schedule=None if request.schedule is None else check_name("schedule", request.schedule),
        fingerprint=None if request.fingerprint is None else _fingerprint(request.fingerprint),
        created_after=_at("created_after", request.created_after),
        created_before=_at("created_before", request.created_before),
        error=None if request.error is None else _text("error", request.error),
        payload=None if request.where is None else _payload_match(request.where),
    )


_GROUPS: Final[Mapping[str, frozenset[State]]] = {"waiting": WAITING, "ended": FINAL}


def _states(text: str) -> tuple[State, ...]:
    """The states named in *text*, by themselves or by what they have in common."""
    found: set[State] = set()
    for name in text.split(","):
        if name in _GROUPS:
            found |= _GROUPS[name]
        elif name in State.__members__.values():
            found.add(State(name))
        else:
            names = [*State, *_GROUPS]
            raise bad("state", name, f"one or more, with commas between them, of {', '.join(names)}")
    return tuple(state for state in State if state in found)


def _fingerprint(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text):
        raise bad("fingerprint", text, "12 hexadecimal digits, as the failures show them")
    return text


def _text(field: str, text: str) -> str:
    if not 1 <= len(text) <= SEARCH_MAX:
        raise bad(field, text, f"1 to {SEARCH_MAX} characters")
    return text


def _payload_match(text: str) -> PayloadMatch:
    """``payload.user.id:42``: a path of names, and a value. 42 is the number and the text."""
    match = _PATH.fullmatch(_text("where", text))
    if match is None:
        raise bad("where", text, "payload.NAME.NAME:VALUE, as in payload.user.id:42")
    value = match[2]
    values = [Json(msgspec.json.encode(value).decode())]
    try:
        check_json_text(value.encode())
        parsed = msgspec.json.decode(value)
    except (msgspec.DecodeError, InvalidInput, RecursionError):
        parsed = None
    if parsed is not None or value == "null":
        values.insert(0, Json(msgspec.json.encode(parsed).decode()))
    return PayloadMatch(tuple(match[1][1:].split(".")), tuple(dict.fromkeys(values)))


class PurgeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With ``dry_run``, what waits in a queue is only counted."""

    dry_run: bool = False


_purge = msgspec.json.Decoder(PurgeRequest)


def read_purge(body: bytes) -> PurgeRequest:
    """What *body*, which may be empty, asks of a purge. Raises InvalidInput."""
    return decode(_purge, body) if body else PurgeRequest()


class BulkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done to all tasks that ``filter`` means, or, with ``all``, to all there are."""

    filter: FilterRequest = FilterRequest()
    all: bool = False
    dry_run: bool = False
    limit: int = BULK_MAX
    cascade: bool = True


_bulk = msgspec.json.Decoder(BulkRequest)


def read_bulk(body: bytes) -> BulkRequest:
    """The request in *body*. Raises InvalidInput: also where it means all and does not say so."""
    request = decode(_bulk, body)
    if request.filter == FilterRequest() and not request.all:
        raise InvalidInput(
            "filter: it names nothing: say which tasks are meant, or all: true for all of them",
            field="filter",
        )
    check_integer("limit", request.limit, 1, BULK_MAX)
    return request


# Queues


class RateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most *limit* starts in *period* seconds, and *burst* at once, which is *limit* if not said."""

    limit: int
    period: float = 1.0
    burst: int | None = None


class LimitsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the tasks of each key by themselves. None: no limit."""

    concurrency: int | None = None
    rate: RateRequest | None = None


class QueueRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a queue; what is not said is as in a queue without rules."""

    order: Order = Order.STRICT
    concurrency: int | None = None
    rate: RateRequest | None = None
    per_key: LimitsRequest | None = None


_queue = msgspec.json.Decoder(QueueRequest)


def read_queue(body: bytes, name: str) -> SetQueue:
    """The rules that *body* asks for. Raises InvalidInput, naming the field."""
    request = decode(_queue, body)
    per_key = request.per_key or LimitsRequest()
    return SetQueue(
        queue=check_name("queue", name),
        order=request.order,
        limits=_limits("", request.concurrency, request.rate),
        per_key=_limits("per_key.", per_key.concurrency, per_key.rate),
    )


def _limits(prefix: str, concurrency: int | None, rate: RateRequest | None) -> Limits:
    if concurrency is not None:
        check_integer(f"{prefix}concurrency", concurrency, 1, CONCURRENCY_MAX)
    return Limits(concurrency=concurrency, rate=None if rate is None else _rate(f"{prefix}rate.", rate))


def _rate(prefix: str, request: RateRequest) -> Rate:
    burst = request.limit if request.burst is None else request.burst
    return Rate(
        limit=check_integer(f"{prefix}limit", request.limit, 1, RATE_LIMIT_MAX),
        period_ms=read_ms(f"{prefix}period", request.period, 0.001, RATE_PERIOD_MAX_MS / 1000),
        burst=check_integer(f"{prefix}burst", burst, 1, RATE_LIMIT_MAX),
    )


# Keys


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that is to be made: what it is for, and its limits."""

    scopes: tuple[Literal["submit", "read", "operate", "admin", "metrics"], ...]
    name: str | None = None
    queues: tuple[str, ...] = ()
    expires_at: str | None = None
    rate: RateRequest | None = None


_key = msgspec.json.Decoder(KeyRequest)


def read_key(body: bytes, made: NewKey, *, is_first: bool, now: int) -> PutKey:
    """What *body* asks of the key that was *made*. A key without a name is called by its id.

    Raises:
        InvalidInput: It names the field. The first key must be able to make others.
    """
    request = decode(_key, body)
    if not request.scopes:
        raise bad("scopes", [], "at least one of submit, read, operate, admin, metrics")
    _check_count("scopes", request.scopes, KEY_SCOPES_SAID_MAX)
    _check_count("queues", request.queues, KEY_QUEUES_MAX)
    if is_first and ("admin" not in request.scopes or request.queues):
        raise InvalidInput(
            "scopes: the first key needs admin, for all queues: from then on nobody is let in without a key",
            field="scopes",
        )
    expires_at = _at("expires_at", request.expires_at)
    if expires_at is not None and expires_at <= now:
        raise bad("expires_at", request.expires_at, "an instant to come")
    return PutKey(
        key_id=made.id,
        name=made.id if request.name is None else check_key("name", request.name),
        digest=made.digest,
        scopes=in_order(Scope(scope) for scope in request.scopes),
        queues=tuple(dict.fromkeys(check_name("queues", queue) for queue in request.queues)),
        rate=None if request.rate is None else _rate("rate.", request.rate),
        expires_at=expires_at,
    )


def _check_count(field: str, said: tuple[str, ...], limit: int) -> None:
    if len(said) > limit:
        raise InvalidInput(f"{field}: at most {limit}, these are {len(said)}", field=field)


# Schedules


class ScheduleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a schedule fires, and the task that it makes each time. Seconds."""

    type: str
    cron: str | None = None
    tz: str | None = None
    every: float | None = None
    overlap: Literal["skip", "allow"] = "skip"
    misfire_grace: float = MISFIRE_GRACE_S
    payload: msgspec.Raw = msgspec.Raw(b"null")
    queue: str | None = None
    priority: int | str | None = None
    timeout: float | None = None
    max_attempts: int | None = None
    retry: RetryRequest | None = None
    result_ttl: float | None = None
    key: str | None = None
    tags: tuple[str, ...] | None = None
    unique: UniqueRequest | None = None


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a schedule as it is kept. *task* is the body of a submit, with no default left."""

    timing: Timing
    overlap: bool
    misfire_grace_ms: int
    task: Json


_schedule = msgspec.json.Decoder(ScheduleRequest)
_spec = msgspec.json.Decoder(ScheduleSpec)


def read_schedule(body: bytes) -> ScheduleRequest:
    """The request in *body*. Raises InvalidInput, naming the field."""
    return decode(_schedule, body)


def submit_of(request: ScheduleRequest) -> SubmitRequest:
    """The submit that each tick makes."""
    shared = [name for name in request.__struct_fields__ if name in SubmitRequest.__struct_fields__]
    return SubmitRequest(**{name: getattr(request, name) for name in shared})


def make_spec(
    request: ScheduleRequest, task: NewTask, *, known: ScheduleSpec | None, now: int
) -> ScheduleSpec:
    """The definition that *request* asks for, of a schedule whose tick makes *task*.

    An interval that is as it was in *known* goes on from where it was.

    Raises:
        InvalidInput: Naming the field.
    """
    timing = read_timing(cron=request.cron, tz=request.tz, every=request.every, now=now)
    before = None if known is None else known.timing
    if isinstance(timing, Every) and isinstance(before, Every) and before.every_ms == timing.every_ms:
        timing = before
    return ScheduleSpec(
        timing=timing,
        overlap=request.overlap == "allow",
        misfire_grace_ms=read_ms("misfire_grace", request.misfire_grace, 0, MISFIRE_GRACE_MAX_S),
        task=_task_text(task),
    )


def _task_text(task: NewTask) -> Json:
    """*task* as the body of a submit that needs no handler to fill it in."""
    unique = task.options.unique
    body: dict[str, object] = {
        "type": task.type,
        "payload": msgspec.Raw(task.payload.encode()),
        "queue": task.queue,
        "priority": task.priority,
        "timeout": task.timeout_ms / 1000,
        "max_attempts": task.max_attempts,
        "retry": {
            "kind": task.retry.kind,
            "base": task.retry.base_ms / 1000,
            "cap": task.retry.cap_ms / 1000,
            "jitter": task.retry.jitter,
        },
        "result_ttl": None if task.result_ttl_ms is None else task.result_ttl_ms / 1000,
        "key": task.key,
        "tags": list(task.options.tags) or None,
        "unique": unique and {"key": unique.key, "while": unique.during, "on_conflict": unique.on_conflict},
    }
    return Json(
        msgspec.json.encode({name: value for name, value in body.items() if value is not None}).decode()
    )


def spec_text(spec: ScheduleSpec) -> Json:
    """*spec* as a store keeps it."""
    return Json(msgspec.json.encode(spec).decode())


def read_spec(text: Json) -> ScheduleSpec:
    """The definition that a store keeps as *text*."""
    return _spec.decode(text)
