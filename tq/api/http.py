"""A request and its response as values, and how to read what a request says about itself.

Endpoints are made of these. Nothing here knows Quart or hypercorn.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
import trio

from tq.api.tickets import Ticket
from tq.core.errors import InvalidInput, NotFound, PayloadTooLarge, UnsupportedType
from tq.core.fields import read_traceparent
from tq.core.keys import ANYBODY, Caller, NewKey

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
WAIT_MAX_S: Final = 60
"""Seconds that a request may ask to be held."""
QUERY_MAX: Final = 16
"""Parameters in one query string."""

T = TypeVar("T")
encode_json: Final = msgspec.json.Encoder().encode

_PREFER_WAIT = re.compile(r"\s*wait\s*=\s*(?P<quote>\"?)(?P<seconds>[0-9]{1,9})(?P=quote)\s*(?:;.*)?", re.I)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:~+/=@-]{1,128}")
_PREFER_NAME = re.compile(r"\s*wait\s*(?:[=;]|$)", re.I)


class Interrupted(Exception):
    """Something else happened before what was waited for."""


class ClientGone(Exception):
    """Whoever asked has left: there is nobody to answer."""


def no_ticket() -> Ticket:
    """Refuse: this door gives none. Raises NotFound."""
    raise NotFound("no tickets are given here")


def no_key() -> NewKey:
    """Refuse: this door makes none. Raises NotFound."""
    raise NotFound("no keys are made here")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    ``params`` come from the path and ``query`` from behind the question mark, each name once; names of
    ``headers`` are in lower case. ``media`` is the type of the body, without its parameters. A body that
    the route takes as a stream is in ``stream``, any other in ``body``, whole.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    media: str = ""
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    wait_gone: Callable[[], Awaitable[None]] = trio.sleep_forever
    """Returns when the client has left. Not to be used beside ``stream``."""
    caller: Caller = ANYBODY
    new_ticket: Callable[[], Ticket] = no_ticket
    """A ticket that stands for the caller. Raises Overloaded."""
    new_key: Callable[[], NewKey] = no_key
    """A key that nobody has, and that is good once the store has it."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered. A body that is a generator is sent piece by piece, at the client's pace.

    ``tag`` stands for the body: another body, another tag; whoever has it already is answered with 304.
    ``until`` returns when nobody is there to take the pieces: what waits for the next one is cancelled then.
    """

    status: int
    body: bytes | AsyncGenerator[bytes, None] = b""
    headers: tuple[tuple[str, str], ...] = ()
    media: str = JSON
    until: Callable[[], Awaitable[None]] | None = None
    tag: str | None = None


def tag_of(body: bytes) -> str:
    """The entity tag of *body*."""
    return blake2b(body, digest_size=8).hexdigest()


def json_response(
    content: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """*content* as JSON."""
    return Response(status, encode_json(content), headers)


async def unless(interrupt: Callable[[], Awaitable[object]], wait: Callable[[], Awaitable[T]]) -> T:
    """What *wait* gives. It is cancelled if *interrupt* returns first.

    Raises:
        Interrupted: So it was.
    """
    outcome: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_after, interrupt, nursery.cancel_scope)
        try:
            outcome.append(await wait())
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not outcome:
        raise Interrupted
    return outcome[0]


async def _cancel_after(interrupt: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await interrupt()
    scope.cancel()


async def wait_either(
    first: Callable[[], Awaitable[object]], second: Callable[[], Awaitable[object]]
) -> None:
    """Return when one of the two does; the other is cancelled."""
    with suppress(Interrupted):
        await unless(first, second)


async def unless_gone(request: Request, wait: Callable[[], Awaitable[T]]) -> T:
    """What *wait* gives. It is cancelled if the client leaves first.

    Raises:
        ClientGone: The client has left.
    """
    try:
        return await unless(request.wait_gone, wait)
    except Interrupted:
        raise ClientGone from None


def wait_asked(request: Request) -> float:
    """Seconds that ``?wait=`` asks for, 0 without it.

    Raises:
        InvalidInput: Not a number from 0 to WAIT_MAX_S; ``parameter`` is ``wait``.
    """
    text = request.query.get("wait")
    if text is None:
        return 0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= WAIT_MAX_S:
        raise InvalidInput(
            f"wait: {text[:40]!r} is not allowed: seconds from 0 to {WAIT_MAX_S}", parameter="wait"
        )
    return seconds


def traceparent_of(request: Request) -> str | None:
    """The span that *request* belongs to; one that makes no sense is as if it were not there."""
    given = request.headers.get("traceparent")
    return None if given is None else read_traceparent(given)


def wait_preferred(request: Request) -> int | None:
    """Seconds that ``Prefer: wait=N`` (RFC 7240) asks for, WAIT_MAX_S at most; None without it.

    The first of several counts, and one that makes no sense is as if it were not there.
    """
    prefer = request.headers.get("prefer")
    if prefer is None:
        return None
    for preference in prefer.split(","):
        if _PREFER_NAME.match(preference):
            match = _PREFER_WAIT.fullmatch(preference)
            return None if match is None else min(int(match["seconds"]), WAIT_MAX_S)
    return None


@lru_cache(maxsize=256)
def media_type(content_type: str) -> str:
    """The media type in the header *content_type*, in lower case; empty if there is none.

    Raises:
        UnsupportedType: A character set other than UTF-8.
    """
    media, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedType(f"charset {value.strip()[:40]!r} is not read here: send UTF-8")
    return media.strip().lower()


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; the values of one that comes several times are joined (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def read_query(raw: bytes, known: frozenset[str] | None) -> dict[str, str]:
    """The query's parameters. Raises InvalidInput: one that is not *known*, or comes twice."""
    if known is None:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_MAX
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"the query cannot be read: {error}") from None
    query = dict(pairs)
    if unknown := sorted(name[:40] for name in query.keys() - known):
        allowed = ", ".join(sorted(known)) or "none"
        raise InvalidInput(
            f"unknown query parameter {', '.join(map(repr, unknown))}: allowed here: {allowed}",
            parameters=unknown,
        )
    if len(query) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in query if names.count(name) > 1)
        raise InvalidInput(f"{twice}: a query parameter is given twice: give each once", parameter=twice)
    return query


def check_media(headers: Mapping[str, str], bodies: Mapping[str, int | None]) -> str:
    """The media type of the body, one of *bodies*. Raises UnsupportedType."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedType(f"content encoding {encoding[:40]!r} is not read here: send the body as it is")
    media = media_type(headers.get("content-type", ""))
    if media not in bodies:
        wanted = " or ".join(name for name in bodies if name)
        raise UnsupportedType(
            f"content type {media[:80]!r} is not read here: send {wanted}",
            accepted=[name for name in bodies if name],
        )
    return media


def check_length(headers: Mapping[str, str], limit: int) -> None:
    """Return if the body says that it is within *limit* bytes, or says nothing. Raises PayloadTooLarge."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large(limit)


def too_large(limit: int) -> PayloadTooLarge:
    """That a body is over *limit* bytes."""
    return PayloadTooLarge(f"the body is over {limit} bytes: send less at once", limit=limit)


def read_request_id(headers: Mapping[str, str]) -> str | None:
    """The ``X-Request-Id`` of a request, if it has one that may be repeated in headers, JSON and logs."""
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None
