"""Bulk submit: lines of JSON go in, a line of answer comes out for each, while the upload goes on.

Lines are stored in chunks, as they come: a fast upload fills its chunks, a slow one is answered line by
line. What is answered with an id is durable. The upload is read no faster than it is stored and no
faster than the answers are taken, so a client reads while it sends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from tq.api.http import Interrupted, Request, traceparent_of, unless
from tq.api.problems import BodyTooSlow, problem
from tq.api.submits import check_known, check_new, told_to
from tq.core.errors import (
    DuplicateTask,
    Overloaded,
    PayloadTooLarge,
    ShuttingDown,
    StorageUnavailable,
    TqError,
)
from tq.core.keys import Caller
from tq.core.ops import Submitted
from tq.core.task import NewTask, State, TaskId
from tq.core.wire import PAYLOAD_MAX, decode_submit, traced
from tq.engine.server import Server

CHUNK_MAX: Final = 500
"""Lines stored in one transaction."""
LINE_MAX: Final = PAYLOAD_MAX + 64 * 1024
"""Bytes of one line: a payload of its greatest size and room for the other fields."""
IDLE_MAX_S: Final = 15
"""Seconds without a byte after which an upload is given up."""

_encode_lines: Final = msgspec.json.Encoder().encode_lines


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a line whose task is stored."""

    id: TaskId
    state: State
    duplicate: bool = False


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a line that was not. ``stopped``: nor was anything after it; it is the last answer."""

    line: int
    error: dict[str, object]
    stopped: bool = False


@dataclass(slots=True)
class Splitter:
    """Cuts a stream into lines. A line over LINE_MAX is given as None, and never kept whole."""

    rest: bytes = b""
    dropping: bool = False

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The lines that end in *piece*."""
        if self.dropping:
            # What comes before the next line end belongs to a line that has been given already.
            _, ended, piece = piece.partition(b"\n")
            if not ended:
                return []
            self.dropping = False
        *whole, rest = (self.rest + piece).split(b"\n")
        lines = [line if len(line) <= LINE_MAX else None for line in whole]
        if len(rest) > LINE_MAX:
            self.dropping, rest = True, b""
            lines.append(None)
        self.rest = rest
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, if the stream did not end with a line end."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []


@dataclass(slots=True)
class Chunk:
    """Lines that are stored together: what is to be stored, and for each line its refusal or None."""

    first_line: int
    new: list[NewTask] = field(default_factory=list)
    faults: list[Refused | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def answers(self, stored: Sequence[Submitted | TqError]) -> bytes:
        """One line for each that came, in order, given what became of ``new``."""
        replies = iter(zip(stored, self.lines, strict=True))
        return _encode_lines([fault or _answer(*next(replies)) for fault in self.faults])


def _answer(reply: Submitted | TqError, line: int) -> Accepted | Refused:
    if isinstance(reply, Submitted):
        return Accepted(reply.task_id, reply.state, reply.duplicate)
    return Refused(line, problem(reply))


async def read_chunk(
    server: Server,
    caller: Caller,
    lines: Sequence[bytes | None],
    first_line: int,
    traceparent: str | None = None,
) -> Chunk:
    """*lines* as a chunk; blank ones are passed over. *first_line* is the number of the first, from 1."""
    chunk = Chunk(first_line)
    for number, line in enumerate(lines, first_line):
        if line is not None and (not line or line.isspace()):
            continue
        try:
            new = await server.prepare(traced(decode_submit(_within_limit(line)), traceparent))
            await check_new(server, caller, new)
        except StorageUnavailable:
            raise
        except TqError as fault:
            chunk.faults.append(Refused(number, problem(fault)))
        else:
            chunk.new.append(new)
            chunk.faults.append(None)
            chunk.lines.append(number)
    return chunk


def _within_limit(line: bytes | None) -> bytes:
    if line is None:
        raise PayloadTooLarge(f"a line has at most {LINE_MAX} bytes, this one more")
    return line


async def open_replies(
    server: Server, request: Request, stream: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    """The answers to the lines of *stream*, the body of *request*, piece by piece.

    Raises:
        TqError: Nothing could be stored, so the whole is refused.
        ClientGone: The client left; what it was not answered for may be repeated with the same ids.
    """
    replies = _replies(server, request, stream)
    first = await anext(replies, b"")
    return _chain(first, replies)


async def _chain(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


async def _replies(
    server: Server, request: Request, stream: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    caller, traceparent = request.caller, traceparent_of(request)
    splitter = Splitter()
    line = 1
    answered = False
    try:
        while True:
            piece = await _next_piece(server, stream)
            lines = splitter.end() if piece is None else splitter.feed(piece)
            for start in range(0, len(lines), CHUNK_MAX):
                part = lines[start : start + CHUNK_MAX]
                chunk = await read_chunk(server, caller, part, line, traceparent)
                stored = await _store(server, request, chunk.new) if chunk.new else []
                line += len(lines[start : start + CHUNK_MAX])
                if chunk.faults:
                    yield chunk.answers(stored)
                    answered = True
            if piece is None:
                return
    except (StorageUnavailable, Overloaded, BodyTooSlow) as failure:
        if not answered:
            raise
        yield _encode_lines([_stopped(failure, line)])


async def _store(server: Server, request: Request, new: Sequence[NewTask]) -> list[Submitted | TqError]:
    """What became of each of *new*; what is not the caller's is not told."""
    caller = request.caller
    told: list[Submitted | TqError] = []
    for reply in await server.submit_each(new, request_id=request.request_id):
        try:
            if isinstance(reply, Submitted):
                await check_known(server, caller, reply)
            told.append(await told_to(server, caller, reply) if isinstance(reply, DuplicateTask) else reply)
        except DuplicateTask as refused:
            told.append(refused)
    return told


def _stopped(failure: TqError, line: int) -> Refused:
    told = type(failure)(f"{failure.message}; line {line} and all after it were not stored", **failure.fields)
    return Refused(line, problem(told), stopped=True)


async def _next_piece(server: Server, stream: AsyncIterator[bytes]) -> bytes | None:
    """What comes next, None at the end."""

    async def receive() -> bytes | None:
        with trio.fail_after(IDLE_MAX_S):
            return await anext(stream, None)

    try:
        return await unless(server.draining.wait, receive)
    except Interrupted:
        raise ShuttingDown("this server is shutting down: send the rest to another, or again later") from None
    except trio.TooSlowError:
        raise BodyTooSlow(f"nothing came for {IDLE_MAX_S} s: send the rest again") from None
