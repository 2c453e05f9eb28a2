"""The blocking client. It sends, sleeps and hands replies back; what to ask and when is decided elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from typing import Any, Self, TypeVar, Unpack

import httpx2

from tq.client.address import SEAMS, answer_of, find_address, silence_of
from tq.client.following import Following
from tq.client.records import Fields, Filters, Stats, TaskEvent, TaskRecord
from tq.client.requests import Api, result_of
from tq.client.retrying import Call, Pause, Reply, RetryRules, Seams, Talk
from tq.clock import sleep_s
from tq.core.task import State

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
        self._http = httpx2.Client(transport=transport, trust_env=self._address.trust_env)
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

    def submit(
        self,
        type: str,
        payload: object = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[Fields],
    ) -> Task:
        """Submit a task; it is durable when this returns. Repeated under the hood, it is one task.

        Args:
            payload: Anything that JSON can hold.
            idempotency_key: Makes this call the same as another with the same, for 24 h; without one, and
                without an ``id``, every call has its own.
            fields: What a submit takes, such as ``priority`` or ``delay``.
        Raises:
            TqError: It was refused.
            Unreachable: ``may_be_done`` says whether it may be stored.
        """
        body = {"type": type, "payload": payload, **fields}
        return self._task(self._api.submit(body, idempotency_key=idempotency_key))

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

    def stats(self) -> Stats:
        """How many tasks there are, by state and by queue, and have been."""
        return self._run(self._api.stats())

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
