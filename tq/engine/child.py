"""What a child process runs: it imports the app once, then makes one attempt after another.

``python -m tq.engine.child SOCKET LIFELINE APP PATH``, started by `tq.engine.processes`. It talks over its
own socket, so that prints cannot get into a frame. On Linux it has one thread, so that handlers may fork.
It never outlives its server, and takes its process group along.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial
from operator import attrgetter
from typing import Any, Final

import msgspec
import trio

from tq.clock import SystemClock
from tq.context import Context, ambient
from tq.core.errors import PayloadInvalid, UnknownType, error_of
from tq.core.task import Progress, TaskId
from tq.core.wire import SubmitRequest, encode_submit
from tq.engine.frames import (
    Answer,
    Ask,
    Depended,
    Ended,
    FromChild,
    Inbox,
    Ready,
    Refused,
    Run,
    ToChild,
    Told,
    decode_to_child,
    encode,
)
from tq.engine.outcomes import Said, outcome_of, refused, success, traceback_of
from tq.handlers import Handler, TaskQueue
from tq.tracing import Tracing, find_tracing

READ_BYTES: Final = 256 * 1024


def main(args: list[str]) -> None:
    """Serve attempts to the server that started this process, until that kills it or dies."""
    fd, lifeline, app, path = args
    if os.getpgrp() != os.getpid():
        sys.exit("a child must lead a process group: it is killed with it")
    die_with_server(int(lifeline))
    server = Server(int(fd))
    sys.path[:] = json.loads(path)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a kill loses what is buffered
    try:
        queue = import_app(app)
    except BaseException as fault:
        why = f"importing {app} raised {type(fault).__name__}: {fault}"
        server.send(Refused(why, traceback_of(fault)))
        sys.exit(1)
    tracing = find_tracing()
    server.send(Ready())
    while True:
        server.send(Ended.of(make_attempt(queue, server, tracing)))


class Server:
    """The server, as its child sees it: one blocking socket. Where it is gone, so is this process."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._inbox = Inbox()
        self._sending = threading.Lock()
        self._asking = threading.Lock()
        # A copy that a handler forks off must neither speak for this process nor hold its socket open.
        os.register_at_fork(after_in_child=self._socket.close)

    def send(self, frame: FromChild) -> None:
        """Send *frame*, whole, from any thread; or end."""
        with self._sending:
            try:
                self._socket.sendall(encode(frame))
            except OSError:
                end_group()

    def ask(self, frame: Ask) -> Answer:
        """What the server answers, to one thread at a time."""
        with self._asking:
            self.send(frame)
            answer = self.receive()
        assert isinstance(answer, Answer)
        return answer

    def receive(self) -> ToChild:
        """The next frame; waits for it, or ends."""
        while (body := self._inbox.take()) is None:
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError:
                end_group()
            if not data:
                end_group()
            self._inbox.feed(data)
        return decode_to_child(body)


def import_app(app: str) -> TaskQueue:
    """The queue that *app*, ``module:attribute``, names."""
    module, _, attribute = app.partition(":")
    queue = attrgetter(attribute)(importlib.import_module(module))
    if not isinstance(queue, TaskQueue):
        raise TypeError(f"{app} is a {type(queue).__name__}, not a TaskQueue")
    return queue


class Pipe:
    """How a handler in a child reaches the server. Its own loop waits meanwhile, for a moment."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def progress(self, progress: Progress) -> None:
        """See Context.progress."""
        self._server.send(Told(progress=progress))

    def log(self, text: str) -> None:
        """See Context.log."""
        self._server.send(Told(line=text))

    async def submit(self, request: SubmitRequest) -> TaskId:
        """See Context.submit."""
        return self.submit_sync(request)

    def submit_sync(self, request: SubmitRequest) -> TaskId:
        """See Context.submit_sync."""
        answer = self._server.ask(Ask(msgspec.Raw(encode_submit(request))))
        if answer.task_id is None:
            raise error_of(answer.code, answer.message, answer.fields)
        return answer.task_id


def receive_attempt(server: Server) -> tuple[Context, str | None]:
    """What the next attempt may know, and its span in the server; waits for one."""
    dependencies: dict[TaskId, Any] = {}
    while isinstance(frame := server.receive(), Depended):
        dependencies[frame.task_id] = msgspec.json.decode(frame.result)
    assert isinstance(frame, Run)
    context = Context(
        task=frame.lease,
        worker=frame.worker,
        deadline_at=frame.deadline_at,
        clock=SystemClock(),
        link=Pipe(server),
        dependencies=dependencies,
    )
    return context, frame.traceparent


def make_attempt(queue: TaskQueue, server: Server, tracing: Tracing | None) -> Said:
    """Wait for an attempt, run the handler here and now, and say what came of it, whatever it raises."""
    context, traceparent = receive_attempt(server)
    try:
        handler = queue.handler(context.type)
        arguments = handler.arguments(context.task.payload, context)
    except (UnknownType, PayloadInvalid) as refusal:
        return refused(refusal)
    before = ambient.set(context)
    try:
        with nullcontext() if tracing is None else tracing.within(traceparent):
            value = _call(handler, arguments)
    except BaseException as fault:
        return outcome_of(fault)
    finally:
        ambient.reset(before)
        for output in (sys.stdout, sys.stderr):
            with suppress(Exception):
                output.flush()
    return success(value)


def _call(handler: Handler, arguments: dict[str, Any]) -> object:
    if not handler.is_async:
        return handler.function(**arguments)
    if handler.backend == "asyncio":
        return asyncio.run(handler.function(**arguments))
    return trio.run(partial(handler.function, **arguments))


# The end


def die_with_server(lifeline: int) -> None:
    """See that this process and its group are killed when the other end of *lifeline* closes."""
    if sys.platform == "linux":
        die_by_kernel(lifeline)
    else:
        die_by_thread(lifeline)


def die_by_kernel(lifeline: int) -> None:
    """Have the kernel send SIGKILL to the group: nothing that a handler does can delay it.

    `F_SETSIG` is Linux's own. The thread would wait for as long as a handler holds the GIL.
    """
    assert sys.platform == "linux"
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # The server may have died before that.
    if select.select([lifeline], [], [], 0)[0]:
        end_group()


def die_by_thread(lifeline: int) -> None:
    """Have a thread wait for it."""
    os.set_inheritable(lifeline, False)

    def wait() -> None:
        os.read(lifeline, 1)  # nothing is ever written
        end_group()

    threading.Thread(target=wait, daemon=True).start()


def end_group() -> None:
    """Kill this process, at once, and all of its group: what handlers left running."""
    if os.getpgrp() == os.getpid():  # not so in a copy that a handler has forked off
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
