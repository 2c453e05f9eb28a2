"""Child processes for handlers that must be killable: started on demand, kept, killed for sure.

Each child leads a process group of its own; killing is SIGKILL to the group. It knows processes and frames;
what runs in a child is `tq.engine.child`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
import trio

from tq.context import NO_LINK, Link
from tq.core.errors import TqError
from tq.core.task import Crash, Failure, Outcome, Reason, TaskId
from tq.core.wire import decode_submit
from tq.engine.frames import (
    Answer,
    Ask,
    Depended,
    Ended,
    FrameError,
    FromChild,
    Inbox,
    Ready,
    Refused,
    Run,
    ToChild,
    Told,
    decode_from_child,
    encode,
)

START_TIMEOUT_S: Final = 30.0
"""Seconds that a child may take to import the app, maybe beside others that do the same."""
REAP_S: Final = 1.0
"""Seconds that children which were killed have to be gone at shutdown."""
READ_BYTES: Final = 256 * 1024


class Spawn(Protocol):
    """Starts a child that leads its own process group."""

    async def __call__(self, connection: int, lifeline: int, /) -> trio.Process:
        """The child, which has inherited these two descriptors and no others.

        Raises:
            OSError: The machine has no room for it.
        """
        ...


def python_child(app: str) -> Spawn:
    """Starts this Python with `tq.engine.child`, which imports *app*, ``module:attribute``.

    The child finds modules where this process does, and inherits its environment, directory and outputs.
    """
    return partial(_spawn, app)


async def _spawn(app: str, connection: int, lifeline: int, /) -> trio.Process:
    # -P: what lies in the working directory must not stand in for what tq imports.
    command = [sys.executable, "-P", "-m", "tq.engine.child", str(connection), str(lifeline), app]
    return await trio.lowlevel.open_process(
        [*command, json.dumps(sys.path)],
        stdin=subprocess.DEVNULL,
        pass_fds=(connection, lifeline),
        start_new_session=True,
    )


class Lost(Exception):
    """The child is gone, or says what cannot be understood."""


class NotStarted(Exception):
    """No child came to be ready. *traceback* is that of the import, if it raised."""

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(slots=True, eq=False)
class Child:
    """One child process. Everything that it ran is gone once `end` returns.

    ``stream`` is ``sock`` for trio, and does not block. ``lifeline`` is held open and never written to: its
    closing, by our death, is what kills the child.
    """

    process: trio.Process
    sock: socket.socket
    stream: trio.SocketStream
    lifeline: int
    inbox: Inbox = field(default_factory=Inbox)
    code: int | None = None
    """Its exit code, once it has been waited for."""

    async def make(self, run: Run, link: Link, dependencies: Mapping[TaskId, Any]) -> Outcome:
        """Have an attempt made and say what came of it. If cancelled, the child is of no more use.

        Args:
            link: By which the attempt reaches the server.
            dependencies: The results of the tasks that it depends on.
        Raises:
            Lost: The child died, or answered nonsense.
        """
        for task_id, result in dependencies.items():
            await self.send(Depended(task_id, msgspec.Raw(msgspec.json.encode(result))))
        await self.send(run)
        while not isinstance(frame := await self.receive(), Ended):
            match frame:
                case Told():
                    _tell(link, frame)
                case Ask():
                    await self.send(await _answer(link, frame))
                case _:
                    raise Lost(f"it sent {type(frame).__name__}")
        try:
            return frame.outcome()
        except FrameError as error:
            raise Lost from error

    async def send(self, frame: ToChild) -> None:
        """Send *frame*. Raises Lost."""
        try:
            await self.stream.send_all(encode(frame))
        except trio.BrokenResourceError as error:
            raise Lost from error

    async def receive(self) -> FromChild:
        """The next frame. Raises Lost."""
        try:
            while (body := self.inbox.take()) is None:
                data = await self.stream.receive_some(READ_BYTES)
                if not data:
                    raise Lost("it closed its connection")
                self.inbox.feed(bytes(data))
            return decode_from_child(body)
        except (trio.BrokenResourceError, FrameError) as error:
            raise Lost from error

    def is_waiting(self) -> bool:
        """Whether it lives and is silent, as an idle child must be."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def kill(self) -> None:
        """SIGKILL to the child and its whole process group."""
        # Once the child has been waited for, its number may belong to somebody else.
        if self.code is None:
            # macOS says so of a group in which all are dead.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def end(self) -> int:
        """Kill it, at once; return its exit code, negative for a signal, when it is gone.

        Not cancellable: SIGKILL needs no time to speak of. Safe to repeat.
        """
        if self.code is not None:
            return self.code
        self.kill()
        with trio.CancelScope(shield=True):
            self.code = code = await self.process.wait()
        self.stream.socket.close()
        os.close(self.lifeline)
        return code


def _tell(link: Link, told: Told) -> None:
    if told.progress is not None:
        link.progress(told.progress)
    if told.line is not None:
        link.log(told.line)


async def _answer(link: Link, ask: Ask) -> Answer:
    try:
        return Answer(await link.submit(decode_submit(bytes(ask.request))))
    except TqError as refusal:
        return Answer(code=refusal.code, message=refusal.message, fields=refusal.fields)


class Children:
    """The children of a server, at most one for each attempt that ran in one at the same time.

    Those that have nothing to do are kept until the server stops, and the last used is used first.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._idle: list[Child] = []
        self._closed = False

    async def run(self) -> None:
        """Keep the idle children, for ever. When cancelled, kill them."""
        try:
            await trio.sleep_forever()
        finally:
            self._closed = True
            for child in self._idle:
                child.kill()
            with trio.move_on_after(REAP_S, shield=True):
                for child in self._idle:
                    await child.end()

    async def make(
        self,
        begin: Callable[[], Run],
        *,
        link: Link = NO_LINK,
        dependencies: Mapping[TaskId, Any] = MappingProxyType({}),
    ) -> Outcome:
        """Have an attempt made by a child and say what came of it, a child that dies included.

        If cancelled, the child and its process group are killed first.

        Args:
            begin: Called when a child is ready: from now on the time of the attempt counts.
            link, dependencies: See Child.make.
        """
        try:
            child = await self._take()
        except NotStarted as fault:
            return Failure(
                reason=Reason.ERROR,
                type="ProcessNotStarted",
                message=str(fault),
                traceback=fault.traceback,
            )
        try:
            outcome = await child.make(begin(), link, dependencies)
        except Lost:
            return died(await child.end())
        except BaseException:
            await child.end()
            raise
        if self._closed:
            await child.end()
        else:
            self._idle.append(child)
        return outcome

    async def _take(self) -> Child:
        """An idle child that lives, or a new one. Raises NotStarted."""
        while self._idle:
            child = self._idle.pop()
            if child.is_waiting():
                return child
            await child.end()
        with trio.move_on_after(START_TIMEOUT_S):
            return await start(self._spawn)
        raise NotStarted(f"the process did not get ready within {START_TIMEOUT_S:g} s")


async def start(spawn: Spawn) -> Child:
    """A new child that is ready. If cancelled, it is killed.

    Raises:
        NotStarted: It could not be started, or the app not imported.
    """
    try:
        child = await _open(spawn)
    except OSError as error:
        raise NotStarted(f"the process could not be started: {error}") from None
    try:
        frame = await child.receive()
    except Lost:
        how = _how(await child.end())
        raise NotStarted(f"the process died before it was ready ({how}): see the server's stderr") from None
    except BaseException:
        await child.end()
        raise
    match frame:
        case Ready():
            return child
        case Refused():
            await child.end()
            raise NotStarted(frame.message, frame.traceback)
        case _:
            await child.end()
            raise NotStarted("the process did not say that it is ready")


async def _open(spawn: Spawn) -> Child:
    """A child that has just been started, and our ends of what ties it to us."""
    ours, theirs = socket.socketpair()
    their_line, our_line = os.pipe()
    try:
        with theirs:
            process = await spawn(theirs.fileno(), their_line)
    except BaseException:
        ours.close()
        os.close(our_line)
        raise
    finally:
        os.close(their_line)
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return Child(process, ours, stream, our_line)


def died(code: int) -> Crash:
    """What became of an attempt whose process ended under it: nobody knows whose fault it was."""
    return Crash(f"the process of this attempt died ({_how(code)})")


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
