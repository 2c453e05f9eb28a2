"""JSON to records: what text is taken, and how a submit is read. Other requests are in `tq.core.requests`.

Inside, an instant is Unix milliseconds and a duration is milliseconds; outside, an instant is RFC 3339
in UTC and a duration is seconds.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from tq.core.errors import InvalidInput, PayloadTooLarge, TqError
from tq.core.fields import (
    ATTEMPTS_MAX,
    DELAY_MAX_S,
    TIMEOUT_MAX_S,
    TTL_MAX_S,
    bad,
    check_dependencies,
    check_integer,
    check_key,
    check_name,
    check_tags,
    check_traceparent,
    checked_id,
    parse_instant,
    read_ms,
    read_priority,
)
from tq.core.keys import KEY_SCOPES
from tq.core.limits import Order
from tq.core.ops import BATCH_MAX
from tq.core.retry import DELAY_CAP_MAX_MS, RetryKind, RetryPolicy
from tq.core.task import (
    NO_OPTIONS,
    During,
    Json,
    NewTask,
    OnConflict,
    OnFailure,
    Options,
    TaskId,
    Unique,
)

PAYLOAD_MAX: Final = 1024 * 1024
"""Bytes of one payload, and of one result."""
DEPTH_MAX: Final = 64
"""Nested arrays and objects in one payload."""
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_BIG_NUMBER = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{3}")

_NAMED: Final = {
    r"unknown field `(.*?)`": "there is no such field here",
    r"missing required field `(.*?)`": "this field is required",
}
"""What msgspec says of a field that it names elsewhere than at the end, and what we say."""
_CHOICES: Final[Mapping[str, Iterable[str]]] = {
    "while": During,
    "on_conflict": OnConflict,
    "on_dependency_failure": OnFailure,
    "kind": RetryKind,
    "order": Order,
    "overlap": ("skip", "allow"),
    "scopes": KEY_SCOPES,
}
"""The fields that take one of a few words."""
_INDEX: Final = re.compile(r"\[[0-9]*\]|\[\.\.\.\]")
_PATH_MAX: Final = 80
"""Characters of the name of a field that are repeated, if there is no such field."""

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
    options: Options = NO_OPTIONS
    """The tags and the unique key; the rest is of single tasks."""


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A retry policy as submitted; what is absent is as in the default policy. Seconds."""

    kind: RetryKind = RetryKind.EXPONENTIAL
    base: float = 1.0
    cap: float = 3600.0
    jitter: float = 0.5


class UniqueRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task at a time with this key, among those of its type."""

    key: str
    during: During = msgspec.field(default=During.ACTIVE, name="while")
    on_conflict: OnConflict = OnConflict.EXISTING


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
    key: str | None = None
    tags: tuple[str, ...] | None = None
    unique: UniqueRequest | None = None
    parent_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_dependency_failure: OnFailure | None = None
    deadline: str | None = None
    expires_at: str | None = None
    traceparent: str | None = None


_submit = msgspec.json.Decoder(SubmitRequest)
_batch = msgspec.json.Decoder(list[msgspec.Raw])


def decode_submit(body: bytes) -> SubmitRequest:
    """The submit request in *body*.

    Raises:
        InvalidInput: Not JSON, or not a submit: ``field`` names the part and the message its fault.
    """
    return decode(_submit, body)


def traced(request: SubmitRequest, traceparent: str | None) -> SubmitRequest:
    """*request*, with *traceparent* if it has none of its own."""
    if traceparent is None or request.traceparent is not None:
        return request
    return replace(request, traceparent=traceparent)


def encode_submit(request: SubmitRequest) -> bytes:
    """The body that decode_submit reads as *request*."""
    return msgspec.json.encode(request)


def decode_batch(body: bytes) -> list[SubmitRequest]:
    """The submit requests in the JSON array *body*.

    Raises:
        InvalidInput: As decode_submit; ``index`` names the first bad one, from 0.
        PayloadTooLarge: More than BATCH_MAX.
    """
    # The text is checked part by part, below.
    parts = _decoded(_batch, body)
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


def decode(decoder: msgspec.json.Decoder[T], body: bytes, *, around: int = 1) -> T:
    """What *decoder* reads from *body*.

    Args:
        around: Arrays and objects around a payload in *body*.
    Raises:
        InvalidInput: Not JSON, or not what the decoder wants; ``field`` names the part that is wrong.
    """
    try:
        check_json_text(body, around=around)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    return _decoded(decoder, body)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _fault_of(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput(f"a payload is nested deeper than {DEPTH_MAX}") from None


def _fault_of(text: str) -> InvalidInput:
    """A validation error of msgspec as ours: which field, what is wrong with it."""
    match = _AT.match(text)
    assert match is not None
    path, what = (match["path"] or "").lstrip("."), match["what"]
    for form, meaning in _NAMED.items():
        if named := re.search(form, what):
            name = named[1][:_PATH_MAX]
            path = f"{path}.{name}" if path else name
            what = meaning
    if choice := re.fullmatch(r"Invalid enum value '(.*)'", what, re.DOTALL):
        return bad(path, choice[1], "one of " + ", ".join(_CHOICES[_INDEX.sub("", path.rpartition(".")[2])]))
    fields: dict[str, object] = {"field": path} if path else {}
    return InvalidInput(f"{path}: {what}" if path else what, **fields)


def check_json_text(text: bytes, *, around: int = 1) -> None:
    """Refuse what JSON allows but programs disagree on.

    Args:
        around: Arrays and objects around a payload in *text*.
    Raises:
        UnicodeDecodeError: Not UTF-8.
        InvalidInput: NUL characters, integers past 64 bits, numbers past a float, nesting past DEPTH_MAX,
            a key twice in one object.
    """
    if not text.isascii():
        text.decode("utf-8")
    if b"\\u0000" in text and re.search(rb"(?<!\\)(?:\\\\)*\\u0000", text):
        raise InvalidInput("the body has a NUL character (\\u0000): leave it out")
    if _BIG_NUMBER.search(text):
        _check_numbers(text)
    if text.count(b"[") + text.count(b"{") > DEPTH_MAX + around:
        _check_depth(text, DEPTH_MAX + around)
    if _may_repeat_a_key(text):
        _check_keys(text)


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


SHORT_TEXT_MAX: Final = 4 * 1024
"""Bytes of a text of which splitting it costs less than reading it."""


def _may_repeat_a_key(text: bytes) -> bool:
    """False only where no two strings are equal, and so no two keys: that is cheap to see of most texts."""
    if len(text) > SHORT_TEXT_MAX or b"\\" in text:
        return True
    strings = text.split(b'"')[1::2]
    return len(set(strings)) < len(strings)


def _check_keys(text: bytes) -> None:
    try:
        _keys_once.decode(text.decode())
    except ValueError:
        # Not JSON at all: the decoder says what is wrong with it.
        return


def _once(pairs: list[tuple[str, object]]) -> None:
    """Refuse an object with a key that is there twice."""
    if len(dict(pairs)) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        shown = key[:40]
        raise InvalidInput(f"the key {shown!r} is twice in one object: give it once", key=shown)


_keys_once: Final = json.JSONDecoder(object_pairs_hook=_once)


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
    return NewTask(
        id=checked_id(request.id) if request.id else new_id,
        type=check_name("type", request.type),
        payload=Json(payload.decode()),
        queue=defaults.queue if request.queue is None else check_name("queue", request.queue),
        key=None if request.key is None else check_key("key", request.key),
        priority=defaults.priority if request.priority is None else read_priority(request.priority),
        run_at=_run_at(request, now),
        timeout_ms=defaults.timeout_ms
        if request.timeout is None
        else read_ms("timeout", request.timeout, 0.001, TIMEOUT_MAX_S),
        max_attempts=defaults.max_attempts
        if request.max_attempts is None
        else check_integer("max_attempts", request.max_attempts, 1, ATTEMPTS_MAX),
        retry=defaults.retry if request.retry is None else _policy(request.retry),
        result_ttl_ms=defaults.result_ttl_ms
        if request.result_ttl is None
        else read_ms("result_ttl", request.result_ttl, 0, TTL_MAX_S),
        options=_options(request, defaults.options),
    )


_NOTHING_SAID: Final = (None,) * 6


def _options(request: SubmitRequest, defaults: Options) -> Options:
    if request.on_dependency_failure is not None and not request.depends_on:
        raise InvalidInput(
            "on_dependency_failure: it goes with depends_on: leave it out", field="on_dependency_failure"
        )
    said = (
        request.tags,
        request.unique,
        request.parent_id,
        request.deadline,
        request.expires_at,
        request.traceparent,
    )
    if said == _NOTHING_SAID and not request.depends_on:
        return defaults
    options = Options(
        tags=defaults.tags if request.tags is None else check_tags(request.tags),
        parent_id=None if request.parent_id is None else checked_id(request.parent_id, "parent_id"),
        depends_on=check_dependencies(request.depends_on),
        on_dependency_failure=request.on_dependency_failure or OnFailure.CANCEL,
        unique=defaults.unique if request.unique is None else _unique(request.unique),
        deadline_at=None if request.deadline is None else parse_instant("deadline", request.deadline),
        expires_at=None if request.expires_at is None else parse_instant("expires_at", request.expires_at),
        traceparent=None if request.traceparent is None else check_traceparent(request.traceparent),
    )
    # One object for all that ask for nothing: stores know it by that.
    return NO_OPTIONS if options == NO_OPTIONS else options


def _unique(request: UniqueRequest) -> Unique:
    return Unique(check_key("unique.key", request.key), request.during, request.on_conflict)


def _run_at(request: SubmitRequest, now: int) -> int:
    if request.run_at is None:
        return now if request.delay is None else now + read_ms("delay", request.delay, 0, DELAY_MAX_S)
    if request.delay is not None:
        raise InvalidInput("delay: give delay or run_at, not both", field="delay")
    return parse_instant("run_at", request.run_at)


def _policy(request: RetryRequest) -> RetryPolicy:
    cap_max_s = DELAY_CAP_MAX_MS / 1000
    if not 0 <= request.jitter <= 1:
        raise bad("retry.jitter", request.jitter, "a number from 0 to 1")
    return RetryPolicy(
        kind=request.kind,
        base_ms=read_ms("retry.base", request.base, 0, cap_max_s),
        cap_ms=read_ms("retry.cap", request.cap, 0, cap_max_s),
        jitter=request.jitter,
    )
