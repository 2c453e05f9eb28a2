"""What a server and its child processes say to each other, and how it lies on the wire.

A frame is four bytes of length, high first, and that much JSON, an object whose ``kind`` says which.
Neither side unpickles anything. No I/O here: bytes in, frames out.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

import msgspec

from tq.core.task import Cancel, Failure, Lease, Progress, Snooze, Success, TaskId
from tq.core.wire import PAYLOAD_MAX
from tq.engine.outcomes import Said

FRAME_MAX: Final = 2 * PAYLOAD_MAX + 1024 * 1024
"""Bytes of the longest frame: a payload or result with each character escaped, and room for the rest."""
_HEADER: Final = 4


class Depended(msgspec.Struct, frozen=True, tag_field="kind", tag="depended"):
    """To the child, before the attempt: the result of a task that it depends on."""

    task_id: TaskId
    result: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="answer"):
    """To the child: the task that it submitted, or how that was refused."""

    task_id: TaskId | None = None
    code: str = ""
    message: str = ""
    fields: dict[str, Any] = {}


class Run(msgspec.Struct, frozen=True, tag_field="kind", tag="run"):
    """To the child: make this attempt, whose span in the server is *traceparent*."""

    lease: Lease
    worker: int
    deadline_at: int
    traceparent: str | None = None


class Ready(msgspec.Struct, frozen=True, tag_field="kind", tag="ready"):
    """From the child: it has imported the app and waits."""


class Refused(msgspec.Struct, frozen=True, tag_field="kind", tag="refused"):
    """From the child: it could not import the app, and ends."""

    message: str
    traceback: str | None = None


class Told(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="told"):
    """From the child: progress, or a line of log."""

    progress: Progress | None = None
    line: str | None = None


class Ask(msgspec.Struct, frozen=True, tag_field="kind", tag="ask"):
    """From the child: submit this; it waits for the Answer."""

    request: msgspec.Raw


class Ended(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="outcome"):
    """From the child: the attempt has ended with the one of these that is there."""

    success: Success | None = None
    failure: Failure | None = None
    snooze: Snooze | None = None
    cancel: Cancel | None = None

    @classmethod
    def of(cls, outcome: Said) -> Ended:
        """The frame that tells *outcome*."""
        match outcome:
            case Success():
                return cls(success=outcome)
            case Failure():
                return cls(failure=outcome)
            case Snooze():
                return cls(snooze=outcome)
            case Cancel():
                return cls(cancel=outcome)
            case _:
                assert_never(outcome)

    def outcome(self) -> Said:
        """What was told. Raises FrameError if nothing was."""
        told = self.success or self.failure or self.snooze or self.cancel
        if told is None:
            raise FrameError("a frame without an outcome")
        return told


ToChild = Depended | Run | Answer
FromChild = Ready | Refused | Told | Ask | Ended


class FrameError(Exception):
    """What came is not a frame: the other side cannot be understood any more."""


def encode(frame: ToChild | FromChild) -> bytes:
    """*frame* as it goes over the wire."""
    body = msgspec.json.encode(frame)
    assert len(body) <= FRAME_MAX, "payload, result and texts are bounded"
    return len(body).to_bytes(_HEADER, "big") + body


_FROM_CHILD: Final[msgspec.json.Decoder[FromChild]] = msgspec.json.Decoder(FromChild)
_TO_CHILD: Final[msgspec.json.Decoder[ToChild]] = msgspec.json.Decoder(ToChild)


def decode_from_child(body: bytes) -> FromChild:
    """The frame that a child sent. Raises FrameError."""
    try:
        return _FROM_CHILD.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FrameError(str(error)) from None


def decode_to_child(body: bytes) -> ToChild:
    """The frame that the server sent, which is never wrong."""
    return _TO_CHILD.decode(body)


class Inbox:
    """Bytes as they come, cut into the bodies of frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._bytes += data

    def take(self) -> bytes | None:
        """The body of the next frame, once it is here whole. Raises FrameError if it would be too long."""
        if len(self._bytes) < _HEADER:
            return None
        end = _HEADER + int.from_bytes(self._bytes[:_HEADER], "big")
        if end > _HEADER + FRAME_MAX:
            raise FrameError(f"a frame of {end - _HEADER} bytes, at most {FRAME_MAX} are taken")
        if len(self._bytes) < end:
            return None
        body = bytes(self._bytes[_HEADER:end])
        del self._bytes[:end]
        return body
