"""The client for trio and asyncio, the twin of `sync`. It sends, sleeps and hands replies back; what to ask
and when is decided elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

import httpx2

from tq.client.address import SEAMS, answer_of, find_address, silence_of
from tq.client.following import Following
from tq.client.records import (
    BulkDone,
    Changes,
    CurrentKey,
    FailureGroup,
    Failures,
    Fields,
    Filters,
    QueueRecord,
    QueueRules,
    Queues,
    ScheduleFields,
    ScheduleRecord,
    ServerRecord,
    Servers,
    Stats,
    Submittable,
    TaskEvent,
    TaskRecord,
    Tree,
    Types,
    Workers,
)
from tq.client.requests import Api, path_of, result_of, submit_asked, task_path
from tq.client.retrying import Call, Pause, Reply, RetryRules, Seams, Talk
from tq.clock import sleep_here
from tq.core.task import State

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient:
    """A tq server, from the one loop it is used in, trio's or asyncio's; its connections are kept until
    `aclose`. It is `tq.Client` with await: what is cancelled may be done on the server all the same.

    What a server refuses is raised as the class of `tq.core.errors` that it raised; a server that is away
    is waited for, as *retry* says, and then it is `tq.client.errors.Unreachable`.

    Args:
        url: ``http://HOST:PORT``; without it ``TQ_URL``, then ``http://127.0.0.1:8080``.
        key: An API key; without it ``TQ_KEY``.
        retry: How often and how long to ask again.
        transport: Of httpx2, instead of sockets.
        seams: Where time, chance and ids come from.
        sleep: Waits for so many seconds.
    Raises:
        ValueError: *url* is none.
        InvalidInput: *key* cannot be sent: it has spaces within, or what is not printable ASCII.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        retry: RetryRules | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        seams: Seams = SEAMS,
        sleep: Callable[[float], Awaitable[None]] = sleep_here,
    ) -> None:
        self._address = find_address(url, key, os.environ)
        self._http = httpx2.AsyncClient(
            transport=transport, trust_env=self._address.trust_env, verify=self._address.tls()
        )
        self._api = Api(retry or RetryRules(), seams)
        self._sleep = sleep

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Asking

    @overload
    async def submit(
        self,
        /,
        type: str,
        payload: object = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[Fields],
    ) -> AsyncTask: ...

    @overload
    async def submit(self, handler: Submittable[P], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTask: ...

    async def submit(self, /, *args: Any, **kwargs: Any) -> AsyncTask:
        """Submit a task; it is durable when this returns: see `tq.Client.submit`."""
        body, key = submit_asked(*args, **kwargs)
        return await self._task(self._api.submit(body, idempotency_key=key))

    async def submit_many(self, tasks: Iterable[Mapping[str, object]]) -> tuple[AsyncTask, ...]:
        """Submit *tasks*, in batches of up to 1,000: see `tq.Client.submit_many`."""
        return tuple(AsyncTask(self, record) for record in await self._run(self._api.submit_many(tasks)))

    async def get(self, id: str) -> AsyncTask:
        """The task with this *id*, as it is now. Raises NotFound."""
        return await self._task(self._api.get(id))

    async def list(
        self, *, page_size: int = 100, brief: bool = False, **filters: Unpack[Filters]
    ) -> AsyncGenerator[AsyncTask, None]:
        """The tasks that *filters* mean, newest first: see `tq.Client.list`."""
        cursor: str | None = None
        while True:
            page = await self._run(self._api.page(filters, limit=page_size, cursor=cursor, brief=brief))
            for record in page.tasks:
                yield AsyncTask(self, record)
            cursor = page.next
            if cursor is None:
                return

    # Many at once

    async def cancel_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        cascade: bool = True,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """See `tq.Client.cancel_tasks`."""
        said = {"all": all, "dry_run": dry_run, "limit": limit, "cascade": cascade}
        return await self._run(self._api.change_many("cancel", filters, repeatable=True, **said))

    async def retry_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """See `tq.Client.retry_tasks`."""
        said = {"all": all, "dry_run": dry_run, "limit": limit}
        return await self._run(self._api.change_many("retry", filters, repeatable=dry_run, **said))

    async def delete_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """See `tq.Client.delete_tasks`."""
        said = {"all": all, "dry_run": dry_run, "limit": limit}
        return await self._run(self._api.change_many("delete", filters, repeatable=True, **said))

    async def list_failures(self, limit: int = 50) -> tuple[FailureGroup, ...]:
        """The causes of failed tasks, the most frequent first; at most *limit*, 1 to 500."""
        return (await self._run(self._api.look(f"/v1/failures?limit={limit}", Failures))).groups

    # Queues

    async def list_queues(self) -> tuple[QueueRecord, ...]:
        """Every queue that has tasks or rules, by name."""
        return (await self._run(self._api.look("/v1/queues", Queues))).queues

    async def get_queue(self, queue: str) -> QueueRecord:
        """One queue; one that has neither tasks nor rules is as good as any."""
        return await self._run(self._api.look(path_of("queues", queue), QueueRecord))

    async def put_queue(self, queue: str, **rules: Unpack[QueueRules]) -> QueueRecord:
        """Give a queue these *rules*; what they do not say is as in a queue without rules."""
        return await self._run(self._api.send("PUT", path_of("queues", queue), QueueRecord, body=rules))

    async def pause_queue(self, queue: str) -> QueueRecord:
        """Have nothing of a queue started; what runs goes on."""
        return await self._run(self._api.send("POST", path_of("queues", queue, "pause"), QueueRecord))

    async def resume_queue(self, queue: str) -> QueueRecord:
        """Let a queue go on."""
        return await self._run(self._api.send("POST", path_of("queues", queue, "resume"), QueueRecord))

    async def purge_queue(self, queue: str, *, dry_run: bool = False) -> BulkDone:
        """Cancel all that waits in a queue; with *dry_run*, count it."""
        return await self._run(self._api.purge(queue, dry_run=dry_run))

    # Schedules

    async def list_schedules(self) -> AsyncGenerator[ScheduleRecord, None]:
        """The schedules, by name; pages are asked for as they are needed."""
        cursor: str | None = None
        while True:
            page = await self._run(self._api.schedules(cursor))
            for record in page.schedules:
                yield record
            cursor = page.next
            if cursor is None:
                return

    async def get_schedule(self, name: str) -> ScheduleRecord:
        """One schedule, with its last and next ticks. Raises NotFound."""
        return await self._run(self._api.look(path_of("schedules", name), ScheduleRecord))

    async def put_schedule(
        self, name: str, type: str, payload: object = None, **fields: Unpack[ScheduleFields]
    ) -> ScheduleRecord:
        """Make a schedule, or give it this definition: ``cron`` or ``every``, and the task of each tick."""
        body = {"type": type, "payload": payload, **fields}
        return await self._run(self._api.send("PUT", path_of("schedules", name), ScheduleRecord, body=body))

    async def delete_schedule(self, name: str) -> None:
        """Remove a schedule; the tasks that it made stay. Raises NotFound."""
        await self._run(self._api.remove(path_of("schedules", name)))

    async def pause_schedule(self, name: str) -> ScheduleRecord:
        """Have no tick of a schedule fire."""
        return await self._run(self._api.send("POST", path_of("schedules", name, "pause"), ScheduleRecord))

    async def resume_schedule(self, name: str) -> ScheduleRecord:
        """Have the ticks of a schedule fire again, from the next one on."""
        return await self._run(self._api.send("POST", path_of("schedules", name, "resume"), ScheduleRecord))

    async def run_schedule(self, name: str) -> AsyncTask:
        """The task of a schedule, made now, beside its ticks: see `tq.Client.run_schedule`."""
        path = path_of("schedules", name, "run")
        return await self._task(self._api.send("POST", path, TaskRecord, repeatable=False))

    # Servers

    async def stats(self) -> Stats:
        """How many tasks there are, by state and by queue, and have been."""
        return await self._run(self._api.look("/v1/stats", Stats))

    async def list_types(self) -> Types:
        """The types that this server handles, with the JSON Schema of their payloads."""
        return await self._run(self._api.look("/v1/types", Types))

    async def get_servers(self) -> tuple[ServerRecord, ...]:
        """The servers that share the store, by id."""
        return (await self._run(self._api.look("/v1/servers", Servers))).servers

    async def get_workers(self) -> Workers:
        """The workers of this server, what each runs and since when."""
        return await self._run(self._api.look("/v1/workers", Workers))

    async def set_workers(self, minimum: int, maximum: int | None = None) -> Workers:
        """Have so many workers until this server ends; *maximum* is *minimum* if not said."""
        body = {"min": minimum, "max": minimum if maximum is None else maximum}
        return await self._run(self._api.send("PUT", "/v1/workers", Workers, body=body))

    async def get_current_key(self) -> CurrentKey:
        """What this client may do, and by which key; anything, where the server asks for none."""
        return await self._run(self._api.look("/v1/keys/current", CurrentKey))

    # Doing

    async def _task(self, talk: Talk[TaskRecord]) -> AsyncTask:
        return AsyncTask(self, await self._run(talk))

    async def _run(self, talk: Talk[T]) -> T:
        """What *talk* comes to."""
        reply: Reply | None = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = await self._do(step)

    async def _do(self, step: Call | Pause) -> Reply | None:
        if isinstance(step, Pause):
            await self._sleep(step.seconds)
            return None
        try:
            response = await self._http.send(self._request(step))
        except httpx2.TransportError as error:
            return silence_of(error)
        return answer_of(response, response.content)

    def _request(self, call: Call) -> httpx2.Request:
        address = self._address
        return self._http.build_request(
            call.method,
            address.url + call.path,
            content=call.body,
            headers=address.headers_of(call),
            timeout=address.timeout_of(call),
        )

    async def _follow(self, id: str) -> AsyncGenerator[TaskEvent, None]:
        """The events of a task, across lost connections."""
        following = Following(id, self._api.rules, self._api.seams)
        while not following.is_over:
            reply: Reply | None = None
            try:
                response = await self._http.send(self._request(following.call()), stream=True)
                if response.is_success:
                    following.opened(answer_of(response, b""))
                    async with _pieces(response) as pieces:
                        async for piece in pieces:
                            for event in following.take(piece):
                                yield event
                else:
                    reply = answer_of(response, await response.aread())
            except httpx2.TransportError as error:
                reply = silence_of(error)
            if not following.is_over:
                await self._sleep(following.pause(reply))


@asynccontextmanager
async def _pieces(response: httpx2.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """The body of *response* as it comes; nothing of it is left open, also if it is not read to its end."""
    pieces = response.aiter_bytes()
    try:
        yield pieces
    finally:
        await response.aclose()
        # That closes the connection, but not httpx2's generators within each other, of which trio then
        # warns. Read on, they find the connection closed, and each ends.
        with suppress(httpx2.TransportError, httpx2.StreamError):
            async for _ in pieces:
                pass


class AsyncTask:
    """A task of a server, as it was last seen: ``record`` has all of it, and never changes."""

    def __init__(self, client: AsyncClient, record: TaskRecord) -> None:
        self.record = record
        self._client = client

    def __repr__(self) -> str:
        return f"<AsyncTask {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def state(self) -> State:
        """The state that it was seen in."""
        return self.record.state

    async def wait(self, timeout: float | None = None) -> AsyncTask:
        """The task once it has ended, well or not: see `tq.client.sync.Task.wait`."""
        if self.record.has_ended and self.record.is_whole:
            return self
        return await self._client._task(self._client._api.wait(self.id, timeout=timeout))

    async def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, once it has ended: see `tq.client.sync.Task.result`."""
        return result_of((await self.wait(timeout)).record)

    def events(self) -> AsyncGenerator[TaskEvent, None]:
        """What happens to it, to its ``end``: see `tq.client.sync.Task.events`.

        Use ``contextlib.aclosing`` if you may leave the loop before that.
        """
        return self._client._follow(self.id)

    async def refresh(self) -> AsyncTask:
        """The task as it is now."""
        return await self._client.get(self.id)

    async def cancel(self, *, cascade: bool = True) -> AsyncTask:
        """The task, cancelled or asked to stop: see `tq.client.sync.Task.cancel`."""
        return await self._client._task(self._client._api.cancel(self.id, cascade=cascade))

    async def retry(self) -> AsyncTask:
        """The ended task, waiting again: see `tq.client.sync.Task.retry`."""
        return await self._client._task(self._client._api.retry(self.id))

    async def update(self, **changes: Unpack[Changes]) -> AsyncTask:
        """The waiting task with new values: see `tq.client.sync.Task.update`."""
        path, client = task_path(self.id), self._client
        return await client._task(client._api.send("PATCH", path, TaskRecord, body=changes))

    async def delete(self) -> None:
        """Delete the ended task: see `tq.client.sync.Task.delete`."""
        await self._client._run(self._client._api.remove(task_path(self.id)))

    async def tree(self) -> Tree:
        """The task as it is now, and all below it."""
        return await self._client._run(self._client._api.look(f"{task_path(self.id)}/tree", Tree))
