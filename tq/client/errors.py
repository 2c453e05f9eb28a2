"""What a client says of its own accord. What a server refuses comes as the classes of `tq.core.errors`.

ClientError           no answer, or not the one that was hoped for
  Unreachable         no server answered, however often it was asked
  NotTq               something answered, and not as a tq server does
  NotEnded            the task had not ended in time (a TimeoutError too)
  NotSucceeded        there is no result
    TaskFailed
    TaskCancelled
"""

from __future__ import annotations

from tq.client.records import TaskRecord


class ClientError(Exception):
    """No answer, or not the one that was hoped for."""


class Unreachable(ClientError):
    """No server answered, however often it was asked.

    ``may_be_done``: an answer may have been lost, so that what was asked may be done. Otherwise it is not.
    """

    def __init__(self, message: str, *, may_be_done: bool) -> None:
        super().__init__(message)
        self.may_be_done = may_be_done


class NotTq(ClientError):
    """Something answered, and not as a tq server does: the URL is likely another's."""


class NotEnded(ClientError, TimeoutError):
    """The task had not ended in time; ``record`` is the task as it was last seen. It goes on."""

    def __init__(self, record: TaskRecord) -> None:
        super().__init__(f"{record.id} has not ended in time: it is {record.state}")
        self.record = record


class NotSucceeded(ClientError):
    """The task has ended without a result; ``record`` is the whole of it."""

    def __init__(self, message: str, record: TaskRecord) -> None:
        super().__init__(message)
        self.record = record


class TaskFailed(NotSucceeded):
    """The task has failed; the last of ``record.errors`` says how."""


class TaskCancelled(NotSucceeded):
    """The task was cancelled; ``record.reason`` says by what."""
