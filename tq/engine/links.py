"""How a handler reaches the server that runs it, from wherever it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import trio

from tq.context import Link
from tq.core.task import Progress, State, Task, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.notes import Notes
from tq.handlers import Runs

Submits = Callable[[SubmitRequest], Awaitable[TaskId]]


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links for attempts. *submit* and *find* run on trio's loop."""

    submit: Submits
    find: Callable[[TaskId], Awaitable[Task | None]]

    def link(self, notes: Notes, runs: Runs) -> Link:
        """The link for a handler that runs there."""
        if runs is Runs.ASYNCIO:
            return AsyncioLink(notes, self.submit, trio.lowlevel.current_trio_token())
        return DirectLink(notes, self.submit)

    async def results(self, task_ids: Iterable[TaskId]) -> dict[TaskId, Any]:
        """The results of those of the tasks that succeeded and are there. Raises StorageUnavailable."""
        found = {task_id: await self.find(task_id) for task_id in task_ids}
        return {
            task_id: None if task.result is None else msgspec.json.decode(task.result)
            for task_id, task in found.items()
            if task is not None and task.state is State.SUCCEEDED
        }


@dataclass(frozen=True, slots=True)
class DirectLink:
    """For handlers on trio's loop, and in its threads."""

    notes: Notes
    submits: Submits

    def progress(self, progress: Progress) -> None:
        """See Context.progress."""
        self.notes.progress(progress)

    def log(self, text: str) -> None:
        """See Context.log."""
        self.notes.log(text)

    async def submit(self, request: SubmitRequest) -> TaskId:
        """See Context.submit."""
        return await self.submits(request)

    def submit_sync(self, request: SubmitRequest) -> TaskId:
        """See Context.submit_sync. Raises RuntimeError on trio's own thread, which would wait for itself."""
        return trio.from_thread.run(self.submits, request)


@dataclass(frozen=True, slots=True)
class AsyncioLink(DirectLink):
    """For handlers on the asyncio loop."""

    token: trio.lowlevel.TrioToken

    async def submit(self, request: SubmitRequest) -> TaskId:
        """See Context.submit."""
        run = partial(trio.from_thread.run, self.submits, request, trio_token=self.token)
        return await asyncio.to_thread(run)
