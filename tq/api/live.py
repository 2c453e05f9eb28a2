"""What happens, as it happens: the messages of one task and of all, and how SSE writes them.

A stream is a generator of batches of messages; the door sends each batch at the client's pace, over SSE
or a WebSocket. What a task is and what happens to it fit: nothing is missed between, and nothing told
twice, also by a client that comes back with the id of the last event it had.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import trio

from tq.api.http import Request, Response, encode_json
from tq.core.errors import InvalidInput, NotFound, StorageUnavailable
from tq.core.queries import GetTask
from tq.core.task import FINAL, Task, TaskId
from tq.core.views import task_json
from tq.engine.ring import Entry, Wanted
from tq.engine.server import Server
from tq.engine.watchers import End, Watcher

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_S: Final = 15.0
"""Seconds after which a stream shows that it lives."""
EVENT_ID_MAX: Final = 64
"""Characters of a Last-Event-ID."""
_SSE_HEADERS: Final = (("cache-control", "no-store"), ("x-accel-buffering", "no"))
"""Neither caches nor a proxy (nginx) may hold a stream back."""


class Message(msgspec.Struct, frozen=True):
    """One message of a stream.

    ``id``: who comes back with it goes on after it; None: with the one before. ``event`` None: a
    heartbeat, which tells nothing but its id. ``data`` is JSON.
    """

    id: str | None
    event: str | None
    data: bytes = b""


Messages = AsyncGenerator[Sequence[Message], None]

# Framing


def sse(messages: Iterable[Message]) -> bytes:
    """*messages* as an event stream. A block with an id alone sets the client's Last-Event-ID."""
    return b"".join([_sse_one(each) for each in messages])


def _sse_one(message: Message) -> bytes:
    head = b"" if message.id is None else b"id: %b\n" % message.id.encode()
    if message.event is None:
        return b":\n%b\n" % head
    return b"%bevent: %b\ndata: %b\n\n" % (head, message.event.encode(), message.data)


def socket_text(message: Message) -> str:
    """*message* as the text of a WebSocket message."""
    data = msgspec.Raw(message.data)
    return encode_json({"id": message.id, "event": message.event, "data": data}).decode()


async def sse_response(request: Request, messages: Messages) -> Response:
    """*messages* as the answer to *request*; 204, which EventSource does not come back from, for none.

    Raises:
        TqError: There is nothing to watch, or it may not be now.
    """
    first = await anext(messages, None)
    if first is None:
        return Response(204)
    if request.method == "HEAD":
        # It would be sent nothing, for ever.
        await messages.aclose()
    return Response(200, _pieces(first, messages), _SSE_HEADERS, EVENT_STREAM, request.wait_gone)


async def _pieces(first: Sequence[Message], rest: Messages) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield sse(first)
        async for messages in rest:
            yield sse(messages)


# Where to go on


def last_event_id(request: Request) -> str | None:
    """The id of the last event that the client had: a header of SSE, and a parameter for all.

    The header counts: a browser that comes back by itself sends it with the URL that it had.
    """
    given = request.headers.get("last-event-id") or request.query.get("last_event_id")
    if given is not None and (len(given) > EVENT_ID_MAX or not given.isprintable()):
        raise InvalidInput(
            f"last_event_id: {given[:40]!r} is no id of an event: send one as it came, or none",
            parameter="last_event_id",
        )
    return given


# One task


async def task_messages(server: Server, task_id: TaskId, last_id: str | None) -> Messages:
    """What happens to a task: a ``snapshot`` first, then every change, to its ``end``.

    Who comes back with a *last_id* that still reaches gets what came after it instead of the snapshot;
    of a task whose end it had seen, nothing at all.

    Raises:
        NotFound, Overloaded, ShuttingDown, StorageUnavailable: Before the first message.
    """
    with server.watchers.subscribe(Wanted(task_id)) as watcher:
        task, first = await _begin(server, watcher, task_id, last_id)
        may_be_over = task.state in FINAL
        if first:
            yield first
        if may_be_over and not watcher.buffer:
            return
        beats = Beats()
        while True:
            entries = await watcher.take(until=beats.next())
            if watcher.has_missed:
                anew = await _look_anew(server, watcher, task_id)
                yield [anew]
                if anew.event != "snapshot":
                    return
                may_be_over = False
                continue
            may_be_over = may_be_over or any(map(is_end, entries))
            last = await _end(server, task_id) if may_be_over and not watcher.buffer else None
            last = last or _last_word(server, watcher)
            messages = [*_told(server, entries), *([last] if last else [])]
            yield messages or _heartbeat(server, watcher)
            if last:
                return
            may_be_over = may_be_over and bool(watcher.buffer)


async def _begin(
    server: Server, watcher: Watcher, task_id: TaskId, last_id: str | None
) -> tuple[Task, list[Message]]:
    """The task, and what a stream of it begins with; what *watcher* has comes next."""
    number = None if last_id is None else server.watchers.number_of(last_id)
    if number is None:
        task, number = await snapshot(server, watcher, task_id)
        id = server.watchers.id_of(number)
        return task, [Message(id, "snapshot", task_json(task, cancellable=server.cancellable(task)))]
    watcher.buffer.extend(server.watchers.ring.after(number, watcher.wanted))
    beat = _heartbeat(server, watcher)
    task = _found(await server.find(task_id), task_id)
    if task.state in FINAL:
        # Another server may have committed its end, and what that says not have been read.
        await server.wait_told()
    if task.state not in FINAL or watcher.buffer:
        return task, beat
    # Whoever saw its last change and not the end that comes with it is told that.
    seen = server.watchers.ring.get(number)
    has_end = seen is None or seen.task_id != task_id
    return task, [] if has_end else [_end_of(server, task)]


async def _look_anew(server: Server, watcher: Watcher, task_id: TaskId) -> Message:
    """The task as it is, for *watcher*, which may not have been told of all that happened to it."""
    watcher.has_missed = False
    try:
        task, number = await snapshot(server, watcher, task_id)
    except NotFound:
        return _end_of(server, None)
    except StorageUnavailable:
        return _dropped("the store is away")
    if task.state in FINAL:
        return _end_of(server, task)
    view = task_json(task, cancellable=server.cancellable(task))
    return Message(server.watchers.id_of(number), "snapshot", view)


async def snapshot(server: Server, watcher: Watcher, task_id: TaskId) -> tuple[Task, int]:
    """The task, and the number of the last event that it shows: *watcher* has all that came after.

    Read again if it changed meanwhile: then what the store showed may have been told or not.

    Raises:
        NotFound, StorageUnavailable: Safe to repeat.
    """
    while True:
        watcher.forget(server.watchers.ring.last)
        task = await server.find(task_id)
        number = server.watchers.ring.last
        await server.wait_told()
        if not watcher.has_change():
            watcher.forget(number)
            return _found(task, task_id), number


def _found(task: Task | None, task_id: TaskId) -> Task:
    if task is None:
        raise NotFound(
            f"no task {task_id}: check the id; a task that has ended is kept for a limited time only",
            task_id=task_id,
        )
    return task


def is_end(entry: Entry) -> bool:
    """Whether the task of *entry* had ended with it."""
    return getattr(entry.event, "state", None) in FINAL or entry.name == "task.deleted"


async def _end(server: Server, task_id: TaskId) -> Message | None:
    """The last message, if the task has ended: with the whole task, or null if it is there no more."""
    try:
        task = await server.find(task_id)
    except StorageUnavailable:
        return _dropped("the store is away")
    return _end_of(server, task) if task is None or task.state in FINAL else None


def _end_of(server: Server, task: Task | None) -> Message:
    # A number of its own, so that who comes back with it is known to have had this.
    id = server.watchers.id_of(server.watchers.ring.next_number())
    return Message(id, "end", b"null" if task is None else task_json(task))


# All tasks


async def all_messages(server: Server, wanted: Wanted, last_id: str | None) -> Messages:
    """All that is *wanted*: ``opened`` first, or ``gap`` if some after *last_id* is known no more.

    Raises:
        Overloaded, ShuttingDown: Before the first message.
    """
    with server.watchers.subscribe(wanted) as watcher:
        number = None if last_id is None else server.watchers.number_of(last_id)
        if number is None:
            yield [_opening(server, last_id)]
        else:
            watcher.buffer.extend(server.watchers.ring.after(number, wanted))
            yield _heartbeat(server, watcher)
        beats = Beats()
        had_id = server.watchers.id_of(server.watchers.ring.last)
        while True:
            entries = await watcher.take(until=beats.next())
            is_gap, watcher.has_missed = watcher.has_missed, False
            had_id = server.watchers.id_of(entries[-1].number) if entries else had_id
            try:
                messages = _told(server, [entry for entry in entries if await wants(server, wanted, entry)])
            except StorageUnavailable:
                yield [_dropped("the store is away")]
                return
            last = _last_word(server, watcher)
            messages += [_opening(server, had_id)] if is_gap else []
            messages += [last] if last else []
            yield messages or _heartbeat(server, watcher)
            if last:
                return


def _opening(server: Server, last_id: str | None) -> Message:
    id = server.watchers.id_of(server.watchers.ring.last)
    if last_id is None:
        return Message(id, "opened", encode_json({"server": server.id}))
    return Message(id, "gap", encode_json({"server": server.id, "last_event_id": last_id}))


async def wants(server: Server, wanted: Wanted, entry: Entry) -> bool:
    """Whether *entry* is *wanted*; its task is looked up if need be, once for all who watch.

    What happened to a task that is there no more is nothing for who asks for a queue or a type.
    Raises StorageUnavailable.
    """
    takes = wanted.takes(entry)
    if takes is None:
        async with server.watchers.looking_up:
            if entry.names is None:
                assert entry.task_id is not None
                task = await server.read(GetTask(entry.task_id))
                entry.names = ("", "") if task is None else (task.type, task.queue)
        takes = wanted.takes(entry)
    return bool(takes)


# Both


class Beats:
    """When a stream shows that it lives: HEARTBEAT_S apart, whatever else it says, so that those of many
    streams which were told the same do not fall together.
    """

    def __init__(self) -> None:
        self._next = trio.current_time() + HEARTBEAT_S

    def next(self) -> float:
        """The time of the next."""
        while self._next <= trio.current_time():
            self._next += HEARTBEAT_S
        return self._next


def _told(server: Server, entries: Iterable[Entry]) -> list[Message]:
    id_of = server.watchers.id_of
    return [Message(id_of(entry.number), entry.name, entry.json) for entry in entries]


def _heartbeat(server: Server, watcher: Watcher) -> list[Message]:
    """That *watcher* lives, and how far it is: all before what waits for it was told, or not wanted."""
    number = watcher.buffer[0].number - 1 if watcher.buffer else server.watchers.ring.last
    return [Message(server.watchers.id_of(number), None)]


def _last_word(server: Server, watcher: Watcher) -> Message | None:
    """Why there is nothing more for *watcher*, if it is so."""
    if watcher.end is None or watcher.buffer:
        return None
    if watcher.end is End.DRAINING:
        return Message(None, "server.draining", server.watchers.last_word)
    return _dropped("the client is too slow")


def _dropped(why: str) -> Message:
    """Without an id: who comes back goes on after what it had."""
    return Message(None, "dropped", encode_json({"why": f"{why}: come back with the last id you had"}))
