"""An asyncio loop beside trio's, in a thread of its own, for handlers that need one.

It carries calls, results and cancellation across. It knows neither attempts nor tasks of the queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import trio

from tq.context import CLEANUP_S

STOP_S: Final = CLEANUP_S + 1.0
"""Seconds that the loop has to stop; a coroutine that blocks it keeps its thread."""


class AsyncioLoop:
    """One asyncio loop for all the calls of a server. Its thread starts with the first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[_Call] = set()
        self._stopping = False
        self._stopped = trio.Event()

    async def run(self) -> None:
        """Keep the loop, for ever. When cancelled, cancel what is on it and stop it."""
        try:
            await trio.sleep_forever()
        finally:
            self._stopping = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                with trio.move_on_after(STOP_S, shield=True):
                    await self._stopped.wait()
            for call in self._calls:
                call.abandon()

    async def call(self, function: Callable[[], Coroutine[Any, Any, object]]) -> object:
        """What the coroutine of *function* returns or raises, run as a task of the loop.

        If cancelled, the asyncio task is cancelled once, as asyncio does, and this waits until it has
        ended, however long that takes. Then its cancellation is ours; what else it returned or raised counts.
        A CancelledError that nobody here caused is raised as it is.
        """
        loop = self._started()
        call = _Call(function)
        self._calls.add(call)
        loop.call_soon_threadsafe(call.begin, loop)
        cancelled: trio.Cancelled | None = None
        try:
            await call.ended.wait()
        except trio.Cancelled as cancellation:
            cancelled = cancellation
            with suppress(RuntimeError):  # the loop is closed: the call has been abandoned
                loop.call_soon_threadsafe(call.cancel)
            with trio.CancelScope(shield=True):
                await call.ended.wait()
        finally:
            self._calls.discard(call)
        if cancelled is not None and isinstance(call.fault, asyncio.CancelledError):
            raise cancelled
        if call.fault is not None:
            raise call.fault
        return call.value

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._stopping:
            raise RuntimeError("the asyncio loop has been stopped")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            token = trio.lowlevel.current_trio_token()
            thread = threading.Thread(
                target=self._turn, args=(self._loop, token), name="tq asyncio", daemon=True
            )
            thread.start()
        return self._loop

    def _turn(self, loop: asyncio.AbstractEventLoop, token: trio.lowlevel.TrioToken) -> None:
        """The life of the thread."""
        asyncio.set_event_loop(loop)
        while not self._stopping:
            # A SystemExit or KeyboardInterrupt in any task gets through the loop, which can go on after it.
            with suppress(BaseException):
                loop.run_forever()
        with suppress(BaseException):
            loop.run_until_complete(_end_all())
        with suppress(BaseException):
            loop.close()
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._stopped.set)


async def _end_all() -> None:
    """Cancel every other task of the loop and give them their time to clean up."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLEANUP_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


class _Call:
    """One coroutine on its way through the loop. ``ended`` is set in trio's thread, last of all."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self.ended = trio.Event()
        self.value: object = None
        self.fault: BaseException | None = None
        self._function = function
        self._token = trio.lowlevel.current_trio_token()
        self._task: asyncio.Task[None] | None = None

    # In the thread of the loop

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._tell)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self.value = await self._function()
        except BaseException as fault:
            # Even SystemExit: a task that raises it would stop the loop under all the others.
            self.fault = fault

    def _tell(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self.fault = asyncio.CancelledError()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.ended.set)

    # In trio's thread

    def abandon(self) -> None:
        """Let whoever waits go: the loop has stopped, or cannot be stopped."""
        if not self.ended.is_set():
            self.fault = asyncio.CancelledError()
            self.ended.set()
