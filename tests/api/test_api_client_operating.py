"""What an operator does, by both clients and a server on a loopback port; and that no route is left out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import pytest
import trio
from key_kit import key, locked, put
from raw_http import open_api
from test_api_client import LOOPS, Run

from tq.api.routes import ROUTES
from tq.client.async_ import AsyncClient
from tq.client.errors import NotEnded
from tq.client.records import Limits, Rate, Tick
from tq.client.sync import Client
from tq.core.errors import IllegalTransition, InvalidInput, NotFound
from tq.core.keys import KEY_SCOPES, Scope
from tq.core.task import State
from tq.handlers import TaskQueue

NOT_FOR_CLIENTS = {
    "submit_original": "the original routes",
    "get_status": "the original routes",
    "get_original_stats": "the original routes",
    "watch_all": "a stream of everything, for pages and `tq tasks tail`",
    "make_ticket": "for pages",
    "create_key": "keys are made by `tq keys`",
    "list_keys": "keys are made by `tq keys`",
    "revoke_key": "keys are made by `tq keys`",
    "get_metrics": "for Prometheus",
    "get_alive": "for supervisors",
    "get_ready": "for supervisors",
    "get_contract": "for generators of clients",
    "get_docs": "for people",
    "get_dashboard": "for people",
    "get_dashboard_file": "for people",
}
"""Names of routes, and why the Python client has no method for them."""
FAR_MS = 10_000_000_000_000
"""An instant in 2286."""


def make_queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("add", queue="sums")
    async def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @queue.task("fail", max_attempts=1)
    async def fail() -> None:
        raise ValueError("no")

    return queue


class Both:
    """A client of either kind as if it were the async one: a method of the blocking one has a thread."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._it: Any = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = getattr(self._it, name)
        return found if inspect.iscoroutinefunction(found) else partial(_in_thread, found)

    async def all(self, name: str, **kwargs: Any) -> list[Any]:
        """All that the iterator of a method gives. To make it asks nothing yet."""
        made = getattr(self._it, name)(**kwargs)
        if hasattr(made, "__aiter__"):
            return [each async for each in made]
        found: list[Any] = await _in_thread(list, made)
        return found


async def _in_thread(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await trio.to_thread.run_sync(partial(method, *args, **kwargs))


Operate = Callable[[Both], Awaitable[None]]


async def use_many(client: Both) -> None:
    failed = [await client.submit("fail") for _ in range(3)]
    for task in failed:
        await Both(task).wait(10)
    (group,) = await client.list_failures()
    assert (group.type, group.count, group.error.message) == ("fail", 3, "no")
    assert (await client.list_failures(limit=1)) == (group,)
    meant = await client.retry_tasks(fingerprint=group.fingerprint, dry_run=True)
    assert (meant.matched, meant.changed, meant.more, meant.dry_run) == (3, 0, False, True)
    done = await client.retry_tasks(type="fail", limit=2)
    assert (done.matched, done.changed, done.more) == (2, 2, True)
    for task in failed:
        await Both(task).wait(10)
    waiting = await client.submit_many({"type": "add", "payload": {"a": 1}, "delay": 60} for _ in range(3))
    with pytest.raises(InvalidInput, match="it names nothing"):
        await client.cancel_tasks()
    done = await client.cancel_tasks(state=["scheduled", "pending"], queue="sums", cascade=False)
    assert (done.matched, done.changed) == (3, 3)
    assert (await client.get(waiting[0].id)).state is State.CANCELLED
    assert (await client.delete_tasks(all=True, dry_run=True)).matched == 6
    assert (await client.delete_tasks(all=True)).changed == 6
    assert await client.all("list") == []


async def use_queues(client: Both) -> None:
    await client.submit("add", {"a": 1}, delay=60)
    rules = await client.put_queue(
        "sums", order="aging", rate={"limit": 5, "period": 2}, per_key={"concurrency": 1}
    )
    assert (rules.order, rules.concurrency, rules.rate) == ("aging", None, Rate(5, 2.0, 5))
    assert rules.per_key == Limits(concurrency=1)
    assert (await client.pause_queue("sums")).paused
    assert not (await client.resume_queue("sums")).paused
    assert [each.queue for each in await client.list_queues()] == ["sums"]
    assert (await client.get_queue("sums")).tasks == {State.SCHEDULED: 1}
    assert (await client.purge_queue("sums", dry_run=True)).matched == 1
    assert (await client.purge_queue("sums")).changed == 1
    assert (await client.get_queue("a.b")).tasks == {}


async def use_schedules(client: Both) -> None:
    made = await client.put_schedule(
        "nightly", "add", {"a": 1}, cron="0 3 * * *", tz="Europe/Madrid", tags=["n"]
    )
    assert (made.cron, made.tz, made.every, len(made.next)) == ("0 3 * * *", "Europe/Madrid", None, 5)
    assert (made.task["type"], made.task["payload"], made.task["tags"]) == ("add", {"a": 1}, ["n"])
    assert (await client.put_schedule("often", "add", {"a": 2}, every=3600)).every == 3600
    task = await client.run_schedule("nightly")
    assert (await Both(task).result(10)) == 2
    assert (await client.pause_schedule("nightly")).next == ()
    assert not (await client.resume_schedule("nightly")).paused
    assert [each.name for each in await client.all("list_schedules")] == ["nightly", "often"]
    await client.delete_schedule("often")
    with pytest.raises(NotFound):
        await client.delete_schedule("often")
    with pytest.raises(NotFound):
        await client.get_schedule("often")
    assert all(isinstance(each, Tick) for each in (await client.get_schedule("nightly")).ticks)


async def use_servers(client: Both) -> None:
    types = await client.list_types()
    assert [(each.type, each.queue, each.description) for each in types.types] == [
        ("add", "sums", "Add two numbers."),
        ("fail", "default", ""),
    ]
    assert types.types[0].payload["required"] == ["a"]
    assert not types.anything
    (server,) = await client.get_servers()
    assert (server.here, server.types) == (True, ("add", "fail"))
    assert (await client.set_workers(2, 4)).max == 4
    workers = await client.set_workers(3)
    assert (workers.min, workers.max, workers.workers[0].state) == (3, 3, "idle")
    assert (await client.get_workers()).count >= 3
    assert (await client.stats()).totals["submitted"] == 0
    current = await client.get_current_key()
    assert (current.key, current.scopes, current.queues) == (None, KEY_SCOPES, None)


async def use_task(client: Both) -> None:
    task = Both(await client.submit("add", {"a": 1}, delay=60, id="parent"))
    changed = await task.update(priority="high", delay=120)
    assert changed.record.priority == 10
    child = Both(await client.submit("add", {"a": 1}, delay=60, id="child", parent_id="parent"))
    tree = await task.tree()
    assert (tree.tree.id, tree.more, [each.id for each in tree.tree.children]) == ("parent", False, ["child"])
    with pytest.raises(IllegalTransition):
        await child.delete()
    with pytest.raises(NotEnded):
        await child.wait(0)
    await task.cancel()
    assert (await child.refresh()).state is State.CANCELLED
    assert await Both(await child.retry()).result(10) == 2
    await child.delete()
    with pytest.raises(NotFound):
        await child.refresh()
    assert [event.name for event in await task.all("events")] == ["snapshot"]


USES = [use_many, use_queues, use_schedules, use_servers, use_task]


@pytest.mark.parametrize("use", USES)
@LOOPS
async def test_an_async_client_operates_a_server_on_both_loops(run: Run, use: Operate) -> None:
    async with open_api(make_queue()) as api:
        await run(api, lambda client: use(Both(client)))


@pytest.mark.parametrize("use", USES)
async def test_a_blocking_client_operates_a_server(use: Operate) -> None:
    async with open_api(make_queue()) as api:
        with Client(f"http://127.0.0.1:{api.port}") as client:
            await use(Both(client))


async def test_a_client_with_a_key_is_told_what_it_may_do() -> None:
    made = key(1)
    limited = put(made, Scope.READ, queues=("mail",), expires_at=FAR_MS)
    async with locked(make_queue(), limited) as api:
        with Client(f"http://127.0.0.1:{api.port}", key=made.text) as client:
            current = await Both(client).get_current_key()
    assert (current.scopes, current.queues) == (("read",), ("mail",))
    assert (current.key.id, current.key.queues, current.key.rate) == (made.id, ("mail",), None)
    assert current.key.expires_at.year == 2286


class Heard(httpx2.HTTPTransport):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, str]] = set()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.add((request.method, request.url.path))
        return super().handle_request(request)


async def test_every_route_has_a_method_or_a_reason_for_none() -> None:
    heard = Heard()
    for use in USES:
        async with open_api(make_queue()) as api:
            with Client(f"http://127.0.0.1:{api.port}", transport=heard) as client:
                await use(Both(client))
    asked = {
        route.name
        for route in ROUTES
        if any(
            method == route.method and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", route.path), path)
            for method, path in heard.asked
        )
    }
    assert {route.name for route in ROUTES} - asked == NOT_FOR_CLIENTS.keys()
