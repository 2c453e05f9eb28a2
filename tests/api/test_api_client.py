"""Both clients against a server in this process, over a real loopback socket: sync, trio and asyncio."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from raw_http import Api, open_api

from tq.client.async_ import AsyncClient, AsyncTask
from tq.client.errors import NotEnded, TaskCancelled, TaskFailed
from tq.client.records import Fields, TaskRecord
from tq.client.sync import Client, Task
from tq.context import Cancel, Context
from tq.core.errors import DuplicateTask, IllegalTransition, NotFound, PayloadInvalid, UnknownType
from tq.core.task import Reason, State, TaskId
from tq.core.views import task_view
from tq.handlers import TaskQueue

Use = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("double")
    async def double(number: int) -> int:
        return 2 * number

    @queue.task("fail", max_attempts=1)
    async def fail() -> None:
        raise ValueError("no")

    @queue.task("give_up")
    async def give_up() -> None:
        raise Cancel("not needed")

    @queue.task("hang", timeout=100)
    async def hang(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        await trio.sleep_forever()

    return queue


async def on_trio(api: Api, use: Use) -> None:
    async with AsyncClient(f"http://127.0.0.1:{api.port}") as client:
        await use(client)


async def on_asyncio(api: Api, use: Use) -> None:
    async def main() -> None:
        async with AsyncClient(f"http://127.0.0.1:{api.port}") as client:
            await use(client)

    await trio.to_thread.run_sync(lambda: asyncio.run(main()))


LOOPS = pytest.mark.parametrize("run", [on_trio, on_asyncio])
Run = Callable[[Api, Use], Awaitable[None]]


async def in_thread(api: Api, use: Callable[[Client], None]) -> None:
    with Client(f"http://127.0.0.1:{api.port}") as client:
        await trio.to_thread.run_sync(use, client)


# The blocking client


async def test_a_task_is_submitted_and_its_result_waited_for(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        task = client.submit("double", {"number": 21}, priority="high", tags=["a"])
        assert (task.state, task.record.type, task.record.duplicate) == (State.PENDING, "double", False)
        assert task.result(10) == 42
        ended = client.get(task.id)
        assert (ended.record.reason, ended.record.tags, ended.record.priority) == (Reason.OK, ("a",), 10)
        assert ended.record.created_at is not None
        assert str(ended.record.created_at.tzinfo) == "UTC"
        assert ended.wait() is ended
        with pytest.raises(TaskFailed, match="ValueError: no"):
            client.submit("fail").result(10)
        with pytest.raises(TaskCancelled, match=r"cancelled \(user\)"):
            client.submit("give_up").result(10)

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_refusals_are_raised_as_their_classes_with_their_fields(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        with pytest.raises(UnknownType) as unknown:
            client.submit("nothing")
        # By it the server's log tells of the request.
        assert str(unknown.value.fields.pop("request_id")).startswith("req-")
        assert unknown.value.fields == {
            "field": "type",
            "known": ["double", "fail", "give_up", "hang"],
        }
        with pytest.raises(PayloadInvalid):
            client.submit("double", {"number": "x"})
        with pytest.raises(NotFound) as missing:
            client.get("nobody")
        assert missing.value.fields["task_id"] == "nobody"
        client.submit("double", {"number": 1}, id="one")
        with pytest.raises(DuplicateTask) as other:
            client.submit("double", {"number": 2}, id="one")
        assert other.value.fields["task_id"] == "one"
        with pytest.raises(IllegalTransition):
            client.get("one").wait(10).cancel()

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_the_same_key_is_the_same_task_and_without_one_there_are_two(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        first, second = (client.submit("double", {"number": 1}, idempotency_key="k") for _ in range(2))
        assert (first.id, first.record.duplicate) == (second.id, False)
        assert second.record.duplicate
        assert client.submit("double", {"number": 1}).id != client.submit("double", {"number": 1}).id

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_2500_tasks_are_stored_in_order_and_listed_by_pages(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        tasks = client.submit_many(
            {"type": "double", "payload": {"number": n}, "delay": 60, "tags": ["many"]} for n in range(2500)
        )
        listed = list(client.list(tag="many", state="waiting", page_size=400))
        assert [task.id for task in listed] == [task.id for task in reversed(tasks)]
        assert listed[0].record.payload == {"number": 2499}
        assert next(client.list(page_size=1)).id == tasks[-1].id
        brief = next(client.list(page_size=1, brief=True)).record
        assert (brief.id, brief.payload, brief.brief, brief.is_whole) == (tasks[-1].id, None, True, False)
        assert list(client.list(tag="few")) == []
        stats = client.stats()
        assert (stats.states[State.SCHEDULED], stats.totals["submitted"]) == (2500, 2500)
        assert stats.queues == {"default": {State.SCHEDULED: 2500}}

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_a_refused_batch_is_not_stored(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        with pytest.raises(UnknownType) as caught:
            client.submit_many([{"type": "double", "payload": {"number": 1}}, {"type": "nothing"}])
        assert (caught.value.fields["index"], caught.value.fields["stored"]) == (1, 0)
        assert list(client.list()) == []

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_a_running_task_is_watched_cancelled_and_run_again(queue: TaskQueue) -> None:
    def use(client: Client) -> None:
        task = client.submit("hang")
        with pytest.raises(NotEnded) as late:
            task.wait(0.1)
        assert late.value.record.id == task.id
        names = []
        for event in task.events():
            names.append(event.name)
            if event.name == "snapshot":
                assert task.cancel().id == task.id
        assert names[0] == "snapshot"
        assert names[-1] == "end"
        assert event.record is not None
        assert event.record.state is State.CANCELLED
        again = task.retry()
        assert again.state in (State.PENDING, State.RUNNING)
        again.cancel()
        assert again.wait(10).record.reason is Reason.USER
        assert [event.name for event in again.events()] == ["snapshot"]
        assert again.refresh().state is State.CANCELLED

    async with open_api(queue) as api:
        await in_thread(api, use)


async def test_a_client_serves_many_threads(queue: TaskQueue) -> None:
    results: list[int] = []

    def use(client: Client) -> None:
        results.append(client.submit("double", {"number": len(results)}).result(20))

    async with open_api(queue) as api:
        with Client(f"http://127.0.0.1:{api.port}") as client:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(trio.to_thread.run_sync, use, client)
    assert len(results) == 20


# The async client


@LOOPS
async def test_an_async_client_does_the_same_on_both_loops(queue: TaskQueue, run: Run) -> None:
    async def use(client: AsyncClient) -> None:
        task = await client.submit("double", {"number": 21})
        assert await task.result(10) == 42
        with pytest.raises(TaskFailed):
            await (await client.submit("fail")).result(10)
        many = await client.submit_many({"type": "hang", "delay": 60} for _ in range(5))
        listed = [task.id async for task in client.list(type="hang", page_size=2, brief=True)]
        assert listed == [task.id for task in reversed(many)]
        assert (await many[0].cancel()).state is State.CANCELLED
        again = await many[0].retry()
        assert again.state in (State.PENDING, State.SCHEDULED, State.RUNNING)
        await again.cancel()
        assert (await client.get(many[1].id)).record.type == "hang"
        assert (await many[1].refresh()).state is State.SCHEDULED
        assert (await client.stats()).states[State.SUCCEEDED] == 1
        with pytest.raises(NotFound):
            await client.get("nobody")

    async with open_api(queue) as api:
        await run(api, use)


@LOOPS
async def test_events_are_followed_on_both_loops_and_may_be_left(queue: TaskQueue, run: Run) -> None:
    async def use(client: AsyncClient) -> None:
        task = await client.submit("hang", delay=0.2)
        async with aclosing(task.events()) as events:
            names = []
            async for event in events:
                names.append(event.name)
                if event.name == "task.progressed":
                    break
        assert names == ["snapshot", "task.started", "task.progressed"]
        await task.cancel()
        await task.wait(10)
        assert [event.name async for event in task.events()] == ["snapshot"]

    async with open_api(queue) as api:
        await run(api, use)


async def test_a_wait_can_be_cancelled_on_trio_and_the_client_goes_on(queue: TaskQueue) -> None:
    async def use(client: AsyncClient) -> None:
        task = await client.submit("hang")
        with trio.move_on_after(0.2) as scope:
            await task.wait()
        assert scope.cancelled_caught
        assert (await task.refresh()).state is State.RUNNING
        await task.cancel()

    async with open_api(queue) as api:
        await on_trio(api, use)


async def test_a_wait_can_be_cancelled_on_asyncio_and_the_client_goes_on(queue: TaskQueue) -> None:
    async def use(client: AsyncClient) -> None:
        task = await client.submit("hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task.wait(), 0.2)
        assert (await task.refresh()).state is State.RUNNING
        await task.cancel()

    async with open_api(queue) as api:
        await on_asyncio(api, use)


# Handlers

app = TaskQueue()


@app.task("add")
async def add(a: int, b: int = 1) -> int:
    return a + b


@LOOPS
async def test_a_handler_is_submitted_by_its_signature(run: Run) -> None:
    async def use(client: AsyncClient) -> None:
        assert await (await client.submit(add, 2, b=3)).result(10) == 5
        task = await client.submit(add.options(priority="high", id="mine"), a=1)
        assert (task.id, await task.result(10)) == ("mine", 2)
        with pytest.raises(TypeError, match="add: missing a required argument: 'a'"):
            await client.submit(add)  # type: ignore[call-overload]
        many = await client.submit_many(add.body(n) for n in range(3))
        assert [await each.result(10) for each in many] == [1, 2, 3]

    async with open_api(app) as api:
        await run(api, use)


@LOOPS
async def test_outside_of_handlers_a_submit_goes_to_the_server_of_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(client: AsyncClient) -> None:
        assert await (await client.get(await add.submit(2, b=3))).result(10) == 5

    async with open_api(app) as api:
        monkeypatch.setenv("TQ_URL", f"http://127.0.0.1:{api.port}")
        await run(api, use)
        submit_one = partial(add.options(id="blocking").submit_sync, a=1)
        assert await trio.to_thread.run_sync(submit_one) == "blocking"
        task = await api.server.find(TaskId("blocking"))
        assert task is not None
        assert task.payload == '{"a":1}'


# The page

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/how-to/client.md"


def shown(name: str, api: Api, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the first block of the page that has *name* defines, its client that of *api*."""
    monkeypatch.setenv("TQ_URL", f"http://127.0.0.1:{api.port}")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    source = next(block for block in blocks if name in block).replace('"http://127.0.0.1:8080"', "")
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(source, "client.md", "exec", dont_inherit=True), names)
    return names


async def test_what_the_page_shows_works(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TaskQueue()

    @queue.task("email")
    async def email(to: str) -> str:
        return f"to {to}"

    @queue.task("invoice", max_attempts=1)
    async def invoice(order: int) -> None:
        if order == 7:
            raise ValueError("no such order")

    async with open_api(queue) as api:
        names = shown("send_report", api, monkeypatch)
        assert await trio.to_thread.run_sync(names["send_report"], "ada") == "to ada"
        names["client"].close()

        names = shown("Flask", api, monkeypatch)
        posted = await trio.to_thread.run_sync(names["app"].test_client().post, "/orders/8")
        assert posted.status_code == 202
        async with AsyncClient() as client:
            assert (await (await client.get(posted.text)).wait(10)).state is State.SUCCEEDED
        names["tq"].close()

        bill = shown("def bill", api, monkeypatch)["bill"]
        with Client() as blocking:
            assert await trio.to_thread.run_sync(bill, blocking, 9) == "done"
            assert await trio.to_thread.run_sync(bill, blocking, 7) == "failed: no such order"

        names = shown("def invite", api, monkeypatch)
        with Client() as blocking:
            said = await trio.to_thread.run_sync(names["invite"], blocking, ["bob", "eve"])
        assert said == "to bob"

        await shown("def watch", api, monkeypatch)["watch"](posted.text)


# The shape


def signatures(kind: type) -> dict[str, list[str]]:
    """The public methods of *kind* and their parameters."""
    renamed = {"aclose": "close"}
    return {
        renamed.get(name, name): [str(each.replace(annotation=each.empty)) for each in parameters(method)]
        for name, method in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }


def parameters(method: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())


@pytest.mark.parametrize(("blocking", "waiting"), [(Client, AsyncClient), (Task, AsyncTask)])
def test_both_clients_have_the_same_methods(blocking: type, waiting: type) -> None:
    assert signatures(blocking) == signatures(waiting)
    assert len(signatures(blocking)) > 5


async def test_a_record_has_every_field_of_a_task(queue: TaskQueue) -> None:
    async def use(client: AsyncClient) -> None:
        fields: Fields = {"delay": 60, "key": "k", "unique": {"key": "u"}}
        ids = [(await client.submit("hang", **fields)).id]
        ids.append((await client.submit("hang", depends_on=ids)).id)
        for task_id in ids:
            task = await server.find(TaskId(task_id))
            assert task is not None
            assert set(task_view(task)) <= set(TaskRecord.__struct_fields__)
            seen = (await client.get(task_id)).record
            assert (seen.key, seen.unique and seen.unique["key"]) in [("k", "u"), (None, None)]

    async with open_api(queue) as api:
        server = api.server
        await on_trio(api, use)
