"""Following the events of a task across lost connections: what to open, what was said. No I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from tq.client.errors import NotTq
from tq.client.records import TaskEvent, TaskRecord
from tq.client.requests import task_path
from tq.client.retrying import (
    PASSING,
    Answer,
    Call,
    Reply,
    RetryRules,
    Seams,
    Silence,
    accepted,
    given_up,
    pause_after,
    retry_after_of,
)

QUIET_S: Final = 45.0
"""Seconds without a word after which a stream is dead: three times what a server lets pass between two."""
_OF_THE_CONNECTION: Final = frozenset({"server.draining", "dropped"})
"""Events that only say that one has to come back."""
_STREAM: Final = "text/event-stream"


class Following:
    """Where one is in the events of a task.

    Open `call()` and give what comes to `take`; if it ends before `is_over`, sleep for `pause`, open again.
    """

    def __init__(self, task_id: str, rules: RetryRules, seams: Seams) -> None:
        self.is_over = False
        self._path = f"{task_path(task_id)}/events"
        self._rules = rules
        self._seams = seams
        self._last_id: str | None = None
        self._rest = b""
        self._failures = 0
        self._lost_at = 0.0

    def call(self) -> Call:
        """The request that goes on after what was taken."""
        self._rest = b""
        headers = {"accept": _STREAM} | ({} if self._last_id is None else {"last-event-id": self._last_id})
        return Call(method="GET", path=self._path, headers=headers, hold_s=QUIET_S)

    def opened(self, answer: Answer) -> None:
        """Take the head of an answer that is no failure.

        Raises:
            NotTq: It is no stream of events.
        """
        if answer.status == 204:
            self.is_over = True
        elif not answer.headers.get("content-type", "").startswith(_STREAM):
            raise NotTq(f"answered {answer.status} without a stream of events: check the URL")

    def take(self, piece: bytes) -> list[TaskEvent]:
        """The events that *piece* completes."""
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        events = [event for block in blocks if (event := self._read(block)) is not None]
        if blocks:
            self._failures = 0
        return events

    def _read(self, block: bytes) -> TaskEvent | None:
        """The event in *block*; None for a heartbeat, and for what is about the connection."""
        lines = (line.partition(b": ") for line in block.split(b"\n"))
        fields = {name.decode(): value for name, _, value in lines}
        if "id" in fields:
            self._last_id = fields["id"].decode()
        name = fields.get("event", b"").decode()
        if not name or name in _OF_THE_CONNECTION:
            return None
        record = None
        if name in ("snapshot", "end"):
            record = msgspec.json.decode(fields["data"], type=TaskRecord | None)
            self.is_over = name == "end" or (record is not None and record.has_ended)
        return TaskEvent(name=name, data=msgspec.json.decode(fields["data"]), record=record)

    def pause(self, reply: Reply | None) -> float:
        """Seconds to wait before opening again, after *reply*; None: after a stream that ended early.

        Raises:
            TqError, NotTq: *reply* is a refusal for good.
            Unreachable: It was tried often enough, or long enough, since the last word.
        """
        if isinstance(reply, Answer) and reply.status not in PASSING:
            accepted(reply, TaskRecord)
            raise NotTq(f"answered {reply.status} without a stream of events: check the URL")
        if not self._failures:
            self._lost_at = self._seams.now()
        self._failures += 1
        pause = pause_after(
            self._rules,
            attempt=self._failures,
            elapsed=self._seams.now() - self._lost_at,
            retry_after=None if reply is None else retry_after_of(reply),
            chance=self._seams.chance(),
        )
        if pause is None:
            last = given_up(reply or Silence("its stream ended early", may_be_done=False), maybe=False)
            accepted(last, TaskRecord)
            raise AssertionError("a refusal was accepted")
        return pause
