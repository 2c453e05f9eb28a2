"""What a handler is given and what it may raise: its side of the work, wherever it runs.

It knows nothing of servers: what an attempt tells goes through a Link.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import trio

from tq.clock import Clock
from tq.core.fields import DELAY_MAX_S
from tq.core.task import Lease, Progress, TaskId, cut_note
from tq.core.wire import SubmitRequest, decode_submit

CLEANUP_S: Final = 2.0
"""Seconds that a cancelled handler has to clean up."""


class Retry(Exception):
    """Raise it to fail this attempt and say yourself when the next is made.

    It burns the attempt; after the last one the task has failed. Without *after*, the policy says when.

    Args:
        message: Why, for the history.
        after: Seconds until the next attempt.
    """

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after_ms = None if after is None else _delay_ms(after)


class Snooze(Exception):
    """Raise it to do the task later: again after *seconds*, with no attempt burnt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again after {seconds} s")
        self.delay_ms = _delay_ms(seconds)


class Cancel(Exception):
    """Raise it to end the task as cancelled: it is not to be done at all."""


def _delay_ms(seconds: float) -> int:
    if not 0 <= seconds <= DELAY_MAX_S:
        raise ValueError(f"a delay is from 0 to {DELAY_MAX_S:.0f} seconds, not {seconds}")
    return round(seconds * 1000)


class Link(Protocol):
    """What an attempt can say to the server that runs it."""

    def progress(self, progress: Progress) -> None:
        """See Context.progress."""
        ...

    def log(self, text: str) -> None:
        """See Context.log."""
        ...

    async def submit(self, request: SubmitRequest) -> TaskId:
        """See Context.submit."""
        ...

    def submit_sync(self, request: SubmitRequest) -> TaskId:
        """See Context.submit_sync."""
        ...


class NoLink:
    """No server: for a handler that is called by itself. What it tells is dropped."""

    def progress(self, progress: Progress) -> None:
        """Nothing hears it."""

    def log(self, text: str) -> None:
        """Nothing hears it."""

    async def submit(self, request: SubmitRequest) -> TaskId:
        """Raises RuntimeError."""
        raise RuntimeError("this Context belongs to no server, which could take a task")

    def submit_sync(self, request: SubmitRequest) -> TaskId:
        """Raises RuntimeError."""
        raise RuntimeError("this Context belongs to no server, which could take a task")


NO_LINK: Final = NoLink()


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler may know of the attempt it makes, and tell. Ask for it with a parameter of this type.

    ``worker`` is the number of the worker that makes it, from 1. ``dependencies`` has the results of the
    tasks that this one depended on, by id: those that succeeded and are still kept.
    """

    task: Lease
    worker: int
    deadline_at: int
    clock: Clock
    link: Link = NO_LINK
    dependencies: dict[TaskId, Any] = field(default_factory=dict)

    @property
    def task_id(self) -> TaskId:
        """The id of the task."""
        return self.task.task_id

    @property
    def type(self) -> str:
        """The type of the task."""
        return self.task.type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.task.attempt

    @property
    def traceparent(self) -> str | None:
        """The span that submitted the task, as W3C Trace Context writes it; `submit` hands it on."""
        return self.task.options.traceparent

    @property
    def deadline(self) -> datetime:
        """When this attempt is cancelled."""
        return datetime.fromtimestamp(self.deadline_at / 1000, UTC)

    def seconds_left(self) -> float:
        """Seconds until this attempt is cancelled; negative once that is past."""
        return (self.deadline_at - self.clock.now_ms()) / 1000

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the attempt is, from 0 to 1, and in words; the last word is kept with the task.

        From any thread, as often as you like: it is stored a few times a second.

        Raises:
            ValueError: *fraction* is not from 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress is from 0 to 1, not {fraction}")
        self.link.progress(Progress(float(fraction), cut_note(message)))

    def log(self, *values: object) -> None:
        """Keep *values*, as `print` would show them, as a line with the task, which has the last 200.

        From any thread. Of a line over 1,024 characters the beginning is kept.
        """
        self.link.log(cut_note(" ".join(map(str, values))))

    async def submit(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """Submit a task; its id, once it is durable. It is a child of this one, and cancelled with it.

        An attempt that is made again submits again: give an ``id`` that follows from this task's, or a
        ``unique`` key, to get one task all the same.

        Args:
            payload: Anything that JSON can hold.
            fields: What a submit takes, such as ``priority`` or ``delay``; ``parent_id=None`` makes the
                task nobody's child.
        Raises:
            TqError: It was refused.
        """
        return await self.link.submit(self._request(type, payload, fields))

    def submit_sync(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """As `submit`, for handlers that are plain functions."""
        return self.link.submit_sync(self._request(type, payload, fields))

    def _request(self, type: str, payload: object, fields: dict[str, object]) -> SubmitRequest:
        own = {"parent_id": self.task_id, "traceparent": self.traceparent}
        body = {**own, **fields, "type": type, "payload": payload}
        return decode_submit(msgspec.json.encode(body))

    @staticmethod
    def cleanup() -> AbstractContextManager[trio.CancelScope]:
        """A block that goes on after the attempt was cancelled, for CLEANUP_S seconds at most.

        Without it, every ``await`` in a ``finally`` of a cancelled handler raises at once.
        """
        return trio.move_on_after(CLEANUP_S, shield=True)


class Submitter(Protocol):
    """Takes tasks: the Context of the handler that runs, or what a test has in its place."""

    async def submit(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit."""
        ...

    def submit_sync(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit_sync."""
        ...


ambient: Final[ContextVar[Submitter | None]] = ContextVar("ambient", default=None)
"""Where a submit goes that names nobody: the Context, in a handler and in all that it starts."""
