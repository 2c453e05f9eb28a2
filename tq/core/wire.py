"""Records to JSON and back, for server and client: the only place that knows how they look outside.

Inside, an instant is Unix milliseconds and a duration is milliseconds; outside, an instant is RFC 3339
in UTC and a duration is seconds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from tq.core.errors import InvalidInput, PayloadTooLarge, TqError
from tq.core.ops import BATCH_MAX, Stats
from tq.core.retry import DELAY_CAP_MAX_MS, RetryKind, RetryPolicy
from tq.core.task import FINAL, PRIORITIES, PRIORITY_MAX, PRIORITY_MIN, Json, NewTask, State, Task, TaskId

PAYLOAD_MAX: Final = 1024 * 1024
"""Bytes of one payload, and of one result."""
DEPTH_MAX: Final = 64
"""Nested arrays and objects in one payload."""
ATTEMPTS_MAX: Final = 1_000
DELAY_MAX_S: Final = 5 * 366 * 24 * 3600.0
TIMEOUT_MAX_S: Final = 7 * 24 * 3600.0
TTL_MAX_S: Final = 366 * 24 * 3600.0

_ID = re.compile(r"[A-Za-z0-9_.:~-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_.:~-]{1,64}")
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_BIG_NUMBER = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{3}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_INSTANT_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, past which RFC 3339 has no words."""

T = TypeVar("T")
Fault = TypeVar("Fault", bound=TqError)


class TypeDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a submit of one type means where it says nothing."""

    queue: str = "default"
    priority: int = 0
    timeout_ms: int = 5_000
    max_attempts: int = 20
    retry: RetryPolicy = RetryPolicy()
    result_ttl_ms: int | None = None


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A retry policy as submitted; what is absent is as in the default policy. Seconds."""

    kind: RetryKind = RetryKind.EXPONENTIAL
    base: float = 1.0
    cap: float = 3600.0
    jitter: float = 0.5


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a submit as it came. None: not said."""

    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    queue: str | None = None
    priority: int | str | None = None
    delay: float | None = None
    run_at: str | None = None
    timeout: float | None = None
    max_attempts: int | None = None
    retry: RetryRequest | None = None
    result_ttl: float | None = None


_submit = msgspec.json.Decoder(SubmitRequest)
_batch = msgspec.json.Decoder(list[msgspec.Raw])


def decode_submit(body: bytes) -> SubmitRequest:
    """The submit request in *body*.

    Raises:
        InvalidInput: Not JSON, or not a submit: ``field`` names the part and the message its fault.
    """
    return _decode(_submit, body)


def decode_batch(body: bytes) -> list[SubmitRequest]:
    """The submit requests in the JSON array *body*.

    Raises:
        InvalidInput: As decode_submit; ``index`` names the first bad one, from 0.
        PayloadTooLarge: More than BATCH_MAX.
    """
    parts = _decode(_batch, body, around=2)
    if len(parts) > BATCH_MAX:
        raise PayloadTooLarge(f"a batch has at most {BATCH_MAX} tasks, this one {len(parts)}: split it")
    requests = []
    for index, part in enumerate(parts):
        try:
            requests.append(decode_submit(bytes(part)))
        except InvalidInput as fault:
            raise at_index(fault, index) from None
    return requests


def at_index(fault: Fault, index: int) -> Fault:
    """*fault* of the one at *index* as the fault of its batch."""
    return type(fault)(f"task {index} of the batch: {fault.message}", **(fault.fields | {"index": index}))


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, *, around: int = 1) -> T:
    try:
        check_json_text(body, around=around)
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _fault_of(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput(f"a payload is nested deeper than {DEPTH_MAX}") from None


def _fault_of(text: str) -> InvalidInput:
    """A validation error of msgspec as ours: which field, what is wrong with it."""
    unknown = re.search(r"unknown field `(.*?)`", text) or re.search(r"missing required field `(.*?)`", text)
    match = _AT.match(text)
    assert match is not None
    path = (match["path"] or "").lstrip(".")
    if unknown:
        path = f"{path}.{unknown[1]}" if path else unknown[1]
    fields: dict[str, object] = {"field": path} if path else {}
    return InvalidInput(f"{path}: {match['what']}" if path else match["what"], **fields)


def check_json_text(text: bytes, *, around: int = 1) -> None:
    """Refuse what JSON allows but programs disagree on.

    Args:
        around: Arrays and objects around a payload in *text*.
    Raises:
        UnicodeDecodeError: Not UTF-8.
        InvalidInput: NUL characters, integers past 64 bits, numbers past a float, nesting past DEPTH_MAX.
    """
    if not text.isascii():
        text.decode("utf-8")
    if b"\\u0000" in text and re.search(rb"(?<!\\)(?:\\\\)*\\u0000", text):
        raise InvalidInput("the body has a NUL character (\\u0000): leave it out")
    if _BIG_NUMBER.search(text):
        _check_numbers(text)
    if text.count(b"[") + text.count(b"{") > DEPTH_MAX + around:
        _check_depth(text, DEPTH_MAX + around)


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBERS = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def _check_numbers(text: bytes) -> None:
    for number in _NUMBERS.findall(_STRINGS.sub(b'""', text)):
        shown = number[:40].decode()
        if number.lstrip(b"-").isdigit():
            if not -(2**63) <= int(number[:40]) < 2**64:
                raise InvalidInput(f"the integer {shown} is past 64 bits: send it as a string", value=shown)
        elif math.isinf(float(number)):
            raise InvalidInput(f"the number {shown} is past 64-bit floats: send it as a string", value=shown)


def _check_depth(text: bytes, depth_max: int) -> None:
    depth = 0
    for mark in re.findall(rb"[\[\]{}]", _STRINGS.sub(b"", text)):
        depth += 1 if mark in b"[{" else -1
        if depth > depth_max:
            raise InvalidInput(f"a payload is nested deeper than {DEPTH_MAX}")


def new_task(request: SubmitRequest, defaults: TypeDefaults, *, new_id: TaskId, now: int) -> NewTask:
    """The task that *request* asks for, every default filled in.

    Args:
        new_id: The id to use if the request names none.
        now: The instant that ``delay`` counts from.
    Raises:
        InvalidInput: A value is outside what its field allows; ``field`` names it.
        PayloadTooLarge: The payload is over PAYLOAD_MAX.
    """
    payload = bytes(request.payload)
    if len(payload) > PAYLOAD_MAX:
        raise PayloadTooLarge(
            f"payload: at most {PAYLOAD_MAX} bytes, this one has {len(payload)}", field="payload"
        )
    given = request.id or None
    return NewTask(
        id=new_id if given is None else checked_id(given),
        type=check_name("type", request.type),
        payload=Json(payload.decode()),
        queue=defaults.queue if request.queue is None else check_name("queue", request.queue),
        priority=defaults.priority if request.priority is None else _priority(request.priority),
        run_at=_run_at(request, now),
        timeout_ms=_ms("timeout", request.timeout, 0.001, TIMEOUT_MAX_S) or defaults.timeout_ms,
        max_attempts=defaults.max_attempts
        if request.max_attempts is None
        else _attempts(request.max_attempts),
        retry=defaults.retry if request.retry is None else _policy(request.retry),
        result_ttl_ms=defaults.result_ttl_ms
        if request.result_ttl is None
        else _ms("result_ttl", request.result_ttl, 0, TTL_MAX_S),
        id_given=given is not None,
    )


def checked_id(text: str) -> TaskId:
    """*text* as a task id. Raises InvalidInput."""
    if not _ID.fullmatch(text):
        raise _bad("id", text, "1 to 128 of the characters A-Z a-z 0-9 _ . : ~ -")
    return TaskId(text)


def check_name(field: str, text: str) -> str:
    """*text* as a name of a type or queue. Raises InvalidInput, naming *field*."""
    if not _NAME.fullmatch(text):
        raise _bad(field, text, "1 to 64 of the characters A-Z a-z 0-9 _ . : ~ -")
    return text


def _bad(field: str, value: object, allowed: str) -> InvalidInput:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    return InvalidInput(f"{field}: {shown} is not allowed: {allowed}", field=field)


def _priority(value: int | str) -> int:
    if isinstance(value, str):
        named = PRIORITIES.get(value)
        if named is None:
            raise _bad("priority", value, f"{', '.join(PRIORITIES)}, or an integer")
        return named
    if not PRIORITY_MIN <= value <= PRIORITY_MAX:
        raise _bad("priority", value, f"an integer from {PRIORITY_MIN} to {PRIORITY_MAX}")
    return value


def _attempts(value: int) -> int:
    if not 1 <= value <= ATTEMPTS_MAX:
        raise _bad("max_attempts", value, f"an integer from 1 to {ATTEMPTS_MAX}")
    return value


def _ms(field: str, seconds: float | None, low: float, high: float) -> int | None:
    if seconds is None:
        return None
    if not low <= seconds <= high:
        raise _bad(field, seconds, f"seconds from {low:g} to {high:.0f}")
    return round(seconds * 1000)


def _run_at(request: SubmitRequest, now: int) -> int:
    if request.run_at is None:
        return now + (_ms("delay", request.delay, 0, DELAY_MAX_S) or 0)
    if request.delay is not None:
        raise InvalidInput("delay: give delay or run_at, not both", field="delay")
    return parse_instant("run_at", request.run_at)


def _policy(request: RetryRequest) -> RetryPolicy:
    cap_max_s = DELAY_CAP_MAX_MS / 1000
    base_ms = _ms("retry.base", request.base, 0, cap_max_s)
    cap_ms = _ms("retry.cap", request.cap, 0, cap_max_s)
    assert base_ms is not None
    assert cap_ms is not None
    if not 0 <= request.jitter <= 1:
        raise _bad("retry.jitter", request.jitter, "a number from 0 to 1")
    return RetryPolicy(kind=request.kind, base_ms=base_ms, cap_ms=cap_ms, jitter=request.jitter)


def parse_instant(field: str, text: str) -> int:
    """The instant that RFC 3339 *text* names, from 1970 to 9999. Raises InvalidInput, naming *field*."""
    try:
        # fromisoformat reads more than RFC 3339, such as weeks, and offsets that lead out of all years.
        if not _INSTANT.fullmatch(text.upper()):
            raise ValueError
        at = round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
        if not 0 <= at <= _INSTANT_MAX:
            raise ValueError
        return at
    except (ValueError, OverflowError):
        raise _bad(field, text, "an instant as in 2026-01-31T12:00:00Z, with its offset") from None


def format_instant(at: int) -> str:
    """*at* in RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{at % 1000:03d}Z"


def _seconds(ms: int) -> float:
    return ms / 1000


def task_view(task: Task) -> dict[str, object]:
    """*task* as the API shows it, ready for JSON; what does not apply is absent."""
    view: dict[str, object] = {
        "id": task.id,
        "type": task.type,
        "queue": task.queue,
        "state": task.state,
        "reason": task.reason,
        "payload": msgspec.Raw(task.payload.encode()),
        "priority": task.priority,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "crashes": task.crashes,
        "timeout": _seconds(task.timeout_ms),
        "created_at": format_instant(task.created_at),
        "run_at": format_instant(task.run_at),
        "started_at": None if task.started_at is None else format_instant(task.started_at),
        "finished_at": None if task.finished_at is None else format_instant(task.finished_at),
        "result": None if task.result is None else msgspec.Raw(task.result.encode()),
        "errors": [_error_view(error) for error in task.errors],
    }
    optional = {"worker": task.worker, "server": task.server}
    view.update((name, value) for name, value in optional.items() if value is not None)
    if task.cancel_reason is not None:
        view["cancel_requested"] = True
    return view


def _error_view(error: object) -> dict[str, object]:
    view: dict[str, object] = msgspec.to_builtins(error)
    view["at"] = format_instant(int(str(view["at"])))
    duration_ms = view.pop("duration_ms", None)
    if duration_ms is not None:
        view["duration"] = int(str(duration_ms)) / 1000
    return view


def task_json(task: Task) -> bytes:
    """*task* as the JSON that the API answers with."""
    return msgspec.json.encode(task_view(task))


def stats_view(stats: Stats) -> dict[str, object]:
    """The counters as the API shows them, by state, by queue and in total."""
    queues: dict[str, dict[str, int]] = {}
    for lane in stats.lanes:
        states = queues.setdefault(lane.queue, {})
        states[lane.state] = states.get(lane.state, 0) + lane.count
    return {
        "states": {state.value: stats.count(state) for state in State},
        "queues": queues,
        "totals": {"submitted": stats.submitted}
        | {state.value: getattr(stats, state) for state in sorted(FINAL)},
    }
