"""The blocking client. It sends, sleeps and hands replies back; what to ask and when is decided elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
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
from tq.clock import sleep_s
from tq.core.task import State

P = ParamSpec("P")
T = TypeVar("T")


class Client:
    """A tq server, from any thread. Make one for each process; its connections are kept until `close`.

    What a server refuses is raised as the class of `tq.core.errors` that it raised; a server that is away
    is waited for, as *retry* says, and then it is `tq.client.errors.Unreachable`.

    Args:
        url: ``http://HOST:PORT``; without it ``TQ_URL``, then ``http://127.0.0.1:8080``.
        key: An API key; without it ``TQ_KEY``.
        retry: How often and how long to ask again.
        transport: Of httpx2, instead of sockets.
        seams: Where time, chance and ids come from.
        sleep: Blocks for so many seconds.
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
        transport: httpx2.BaseTransport | None = None,
        seams: Seams = SEAMS,
        sleep: Callable[[float], None] = sleep_s,
    ) -> None:
        self._address = find_address(url, key, os.environ)
        self._http = httpx2.Client(
            transport=transport, trust_env=self._address.trust_env, verify=self._address.tls()
        )
        self._api = Api(retry or RetryRules(), seams)
        self._sleep = sleep

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asking

    @overload
    def submit(
        self,
        /,
        type: str,
        payload: object = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[Fields],
    ) -> Task: ...

    @overload
    def submit(self, handler: Submittable[P], /, *args: P.args, **kwargs: P.kwargs) -> Task: ...

    def submit(self, /, *args: Any, **kwargs: Any) -> Task:
        """Submit a task; it is durable when this returns. Repeated under the hood, it is one task.

        By name, with a payload and the fields of a submit, or a handler with the arguments of its call,
        which are checked first, by type checkers too: ``client.submit(send_email, to="ada@example.org")``.
        ``send_email.options(delay=60)`` in its place has fields.

        Args:
            payload: Anything that JSON can hold.
            idempotency_key: Makes this call the same as another with the same, for 24 h; without one, and
                without an ``id``, every call has its own.
            fields: What a submit takes, such as ``priority`` or ``delay``.
        Raises:
            TqError: It was refused; InvalidInput also if JSON cannot hold it, before anything is sent.
            TypeError: The handler cannot be called so.
            Unreachable: ``may_be_done`` says whether it may be stored.
        """
        body, key = submit_asked(*args, **kwargs)
        return self._task(self._api.submit(body, idempotency_key=key))

    def submit_many(self, tasks: Iterable[Mapping[str, object]]) -> tuple[Task, ...]:
        """Submit *tasks*, in the form of ``POST /v1/tasks``; they come back in this order.

        They go in batches of up to 1,000, each stored whole or not at all.

        Raises:
            TqError: A batch was refused: ``index`` says by which task, if by one, and ``stored`` how many
                of the first ones are stored.
        """
        return tuple(Task(self, record) for record in self._run(self._api.submit_many(tasks)))

    def get(self, id: str) -> Task:
        """The task with this *id*, as it is now. Raises NotFound."""
        return self._task(self._api.get(id))

    def list(
        self, *, page_size: int = 100, brief: bool = False, **filters: Unpack[Filters]
    ) -> Generator[Task, None, None]:
        """The tasks that *filters* mean, newest first; pages are asked for as they are needed.

        Args:
            page_size: Tasks in one answer, 1 to 500.
            brief: Leave out payloads, results, logs, and of the errors all but the last, untraced.
        """
        cursor: str | None = None
        while True:
            page = self._run(self._api.page(filters, limit=page_size, cursor=cursor, brief=brief))
            yield from (Task(self, record) for record in page.tasks)
            cursor = page.next
            if cursor is None:
                return

    # Many at once

    def cancel_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        cascade: bool = True,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """Cancel all that wait or run and that *filters* mean; how many those are.

        Args:
            all: Say so to mean all, with no filter.
            dry_run: Change nothing, only count.
            limit: Tasks that are changed at most, 1 to 100,000.
            cascade: Their children too.
        Raises:
            TqError: It was refused.
        """
        said = {"all": all, "dry_run": dry_run, "limit": limit, "cascade": cascade}
        return self._run(self._api.change_many("cancel", filters, repeatable=True, **said))

    def retry_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """Have all that *filters* mean run again: failed ones, unless ``state`` names others.

        Args:
            all, dry_run, limit: See `cancel_tasks`.
        Raises:
            Unreachable: If ``may_be_done``, count with *dry_run* before you say it again.
        """
        said = {"all": all, "dry_run": dry_run, "limit": limit}
        return self._run(self._api.change_many("retry", filters, repeatable=dry_run, **said))

    def delete_tasks(
        self,
        *,
        all: bool = False,
        dry_run: bool = False,
        limit: int | None = None,
        **filters: Unpack[Filters],
    ) -> BulkDone:
        """Delete all that have ended and that *filters* mean.

        Args:
            all, dry_run, limit: See `cancel_tasks`.
        """
        said = {"all": all, "dry_run": dry_run, "limit": limit}
        return self._run(self._api.change_many("delete", filters, repeatable=True, **said))

    def list_failures(self, limit: int = 50) -> tuple[FailureGroup, ...]:
        """The causes of failed tasks, the most frequent first; at most *limit*, 1 to 500."""
        return self._run(self._api.look(f"/v1/failures?limit={limit}", Failures)).groups

    # Queues

    def list_queues(self) -> tuple[QueueRecord, ...]:
        """Every queue that has tasks or rules, by name."""
        return self._run(self._api.look("/v1/queues", Queues)).queues

    def get_queue(self, queue: str) -> QueueRecord:
        """One queue; one that has neither tasks nor rules is as good as any."""
        return self._run(self._api.look(path_of("queues", queue), QueueRecord))

    def put_queue(self, queue: str, **rules: Unpack[QueueRules]) -> QueueRecord:
        """Give a queue these *rules*; what they do not say is as in a queue without rules."""
        return self._run(self._api.send("PUT", path_of("queues", queue), QueueRecord, body=rules))

    def pause_queue(self, queue: str) -> QueueRecord:
        """Have nothing of a queue started; what runs goes on."""
        return self._run(self._api.send("POST", path_of("queues", queue, "pause"), QueueRecord))

    def resume_queue(self, queue: str) -> QueueRecord:
        """Let a queue go on."""
        return self._run(self._api.send("POST", path_of("queues", queue, "resume"), QueueRecord))

    def purge_queue(self, queue: str, *, dry_run: bool = False) -> BulkDone:
        """Cancel all that waits in a queue; with *dry_run*, count it."""
        return self._run(self._api.purge(queue, dry_run=dry_run))

    # Schedules

    def list_schedules(self) -> Generator[ScheduleRecord, None, None]:
        """The schedules, by name; pages are asked for as they are needed."""
        cursor: str | None = None
        while True:
            page = self._run(self._api.schedules(cursor))
            yield from page.schedules
            cursor = page.next
            if cursor is None:
                return

    def get_schedule(self, name: str) -> ScheduleRecord:
        """One schedule, with its last and next ticks. Raises NotFound."""
        return self._run(self._api.look(path_of("schedules", name), ScheduleRecord))

    def put_schedule(
        self, name: str, type: str, payload: object = None, **fields: Unpack[ScheduleFields]
    ) -> ScheduleRecord:
        """Make a schedule, or give it this definition: ``cron`` or ``every``, and the task of each tick."""
        body = {"type": type, "payload": payload, **fields}
        return self._run(self._api.send("PUT", path_of("schedules", name), ScheduleRecord, body=body))

    def delete_schedule(self, name: str) -> None:
        """Remove a schedule; the tasks that it made stay. Raises NotFound."""
        self._run(self._api.remove(path_of("schedules", name)))

    def pause_schedule(self, name: str) -> ScheduleRecord:
        """Have no tick of a schedule fire."""
        return self._run(self._api.send("POST", path_of("schedules", name, "pause"), ScheduleRecord))

    def resume_schedule(self, name: str) -> ScheduleRecord:
        """Have the ticks of a schedule fire again, from the next one on."""
        return self._run(self._api.send("POST", path_of("schedules", name, "resume"), ScheduleRecord))

    def run_schedule(self, name: str) -> Task:
        """The task of a schedule, made now, beside its ticks.

        Raises:
            Unreachable: If ``may_be_done``, look for the task before you say it again.
        """
        path = path_of("schedules", name, "run")
        return self._task(self._api.send("POST", path, TaskRecord, repeatable=False))

    # Servers

    def stats(self) -> Stats:
        """How many tasks there are, by state and by queue, and have been."""
        return self._run(self._api.look("/v1/stats", Stats))

    def list_types(self) -> Types:
        """The types that this server handles, with the JSON Schema of their payloads."""
        return self._run(self._api.look("/v1/types", Types))

    def get_servers(self) -> tuple[ServerRecord, ...]:
        """The servers that share the store, by id."""
        return self._run(self._api.look("/v1/servers", Servers)).servers

    def get_workers(self) -> Workers:
        """The workers of this server, what each runs and since when."""
        return self._run(self._api.look("/v1/workers", Workers))

    def set_workers(self, minimum: int, maximum: int | None = None) -> Workers:
        """Have so many workers until this server ends; *maximum* is *minimum* if not said."""
        body = {"min": minimum, "max": minimum if maximum is None else maximum}
        return self._run(self._api.send("PUT", "/v1/workers", Workers, body=body))

    def get_current_key(self) -> CurrentKey:
        """What this client may do, and by which key; anything, where the server asks for none."""
        return self._run(self._api.look("/v1/keys/current", CurrentKey))

    # Doing

    def _task(self, talk: Talk[TaskRecord]) -> Task:
        return Task(self, self._run(talk))

    def _run(self, talk: Talk[T]) -> T:
        """What *talk* comes to."""
        reply: Reply | None = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = self._do(step)

    def _do(self, step: Call | Pause) -> Reply | None:
        if isinstance(step, Pause):
            self._sleep(step.seconds)
            return None
        try:
            response = self._http.send(self._request(step))
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

    def _follow(self, id: str) -> Generator[TaskEvent, None, None]:
        """The events of a task, across lost connections."""
        following = Following(id, self._api.rules, self._api.seams)
        while not following.is_over:
            reply: Reply | None = None
            try:
                with closing(self._http.send(self._request(following.call()), stream=True)) as response:
                    if response.is_success:
                        following.opened(answer_of(response, b""))
                        for piece in response.iter_bytes():
                            yield from following.take(piece)
                    else:
                        reply = answer_of(response, response.read())
            except httpx2.TransportError as error:
                reply = silence_of(error)
            if not following.is_over:
                self._sleep(following.pause(reply))


class Task:
    """A task of a server, as it was last seen: ``record`` has all of it, and never changes."""

    def __init__(self, client: Client, record: TaskRecord) -> None:
        self.record = record
        self._client = client

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def state(self) -> State:
        """The state that it was seen in."""
        return self.record.state

    def wait(self, timeout: float | None = None) -> Task:
        """The task once it has ended, well or not; across restarts of its server.

        Raises:
            NotEnded: Not within *timeout* seconds; a TimeoutError.
            NotFound: It is kept no more.
        """
        if self.record.has_ended and self.record.is_whole:
            return self
        return self._client._task(self._client._api.wait(self.id, timeout=timeout))

    def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, once it has ended.

        Raises:
            TaskFailed, TaskCancelled: It returned nothing.
            NotEnded: Not within *timeout* seconds; a TimeoutError.
        """
        return result_of(self.wait(timeout).record)

    def events(self) -> Generator[TaskEvent, None, None]:
        """What happens to it: ``snapshot`` first, to the ``end``. Nothing is missed or comes twice when a
        connection is lost; after a restart of the server there is another ``snapshot``.
        """
        return self._client._follow(self.id)

    def refresh(self) -> Task:
        """The task as it is now."""
        return self._client.get(self.id)

    def cancel(self, *, cascade: bool = True) -> Task:
        """The task, cancelled; if it runs, asked to stop: `wait` for that.

        Args:
            cascade: Its children too.
        Raises:
            IllegalTransition: It had ended.
        """
        return self._client._task(self._client._api.cancel(self.id, cascade=cascade))

    def retry(self) -> Task:
        """The ended task, waiting again with all its attempts.

        Raises:
            IllegalTransition: It has not ended.
            Unreachable: If ``may_be_done``, look at the task before you say it again.
        """
        return self._client._task(self._client._api.retry(self.id))

    def update(self, **changes: Unpack[Changes]) -> Task:
        """The waiting task with new values: see docs/reference/http-api.md.

        Raises:
            IllegalTransition: It does not wait.
        """
        path, client = task_path(self.id), self._client
        return client._task(client._api.send("PATCH", path, TaskRecord, body=changes))

    def delete(self) -> None:
        """Delete the ended task.

        Raises:
            IllegalTransition: It has not ended.
            Conflict: Others depend on it.
        """
        self._client._run(self._client._api.remove(task_path(self.id)))

    def tree(self) -> Tree:
        """The task as it is now, and all below it."""
        return self._client._run(self._client._api.look(f"{task_path(self.id)}/tree", Tree))
