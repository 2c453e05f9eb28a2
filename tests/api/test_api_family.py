"""Tasks of tasks: parents and children, the tree, and tasks that wait for others."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from raw_http import Answer, Api, open_api
from tiers import slow

from tq.context import Context
from tq.core.errors import Conflict, StorageUnavailable, UnknownType
from tq.core.queries import GetTask, Query
from tq.core.task import TaskId
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore

R = TypeVar("R")


def at(seconds: float) -> str:
    """The instant so many seconds after the beginning of virtual time, at most an hour."""
    minutes, rest = divmod(seconds, 60)
    return f"2026-01-01T00:{minutes:02.0f}:{rest:06.3f}Z"


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=1000)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    @queue.task("bad", max_attempts=1, timeout=1000)
    async def bad(seconds: float = 0) -> None:
        await trio.sleep(seconds)
        raise ValueError("no")

    @queue.task("gather", max_attempts=1)
    async def gather(ctx: Context) -> dict[TaskId, object]:
        return ctx.dependencies

    return queue


async def cancel(api: Api, task_id: str, **body: object) -> Answer:
    return await api.post(f"/v1/tasks/{task_id}/cancel", body)


async def submit(api: Api, task_id: str, type: str = "nap", **fields: object) -> Any:
    answer = await api.post("/v1/tasks", {"id": task_id, "type": type, **fields})
    assert answer.status == 201, answer.body
    return answer.json


async def state(api: Api, task_id: str) -> tuple[str, str | None]:
    task = (await api.get(f"/v1/tasks/{task_id}")).json
    return task["state"], task["reason"]


async def ended(api: Api, task_id: str) -> Any:
    while True:
        task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
        if task["finished_at"] is not None:
            return task


# Parents


async def test_children_are_cancelled_with_their_parent_waiting_and_running_and_theirs(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "p", payload={"seconds": 500})
        await submit(api, "running", payload={"seconds": 500}, parent_id="p")
        await submit(api, "scheduled", delay=500, parent_id="p")
        await submit(api, "ended", parent_id="p")
        await submit(api, "grandchild", delay=500, parent_id="running")
        await submit(
            api, "running grandchild".replace(" ", "-"), payload={"seconds": 500}, parent_id="running"
        )
        await submit(api, "other", delay=500)
        await trio.sleep(5)
        answer = await cancel(api, "p")
        assert (answer.status, answer.json["state"]) == (202, "running")
        for task_id in ("running", "scheduled", "grandchild", "running-grandchild"):
            task = await ended(api, task_id)
            assert (task["state"], task["reason"], task["finished_at"]) == ("cancelled", "parent", at(5))
        assert await state(api, "p") == ("cancelled", "user")
        assert await state(api, "ended") == ("succeeded", "ok")
        assert await state(api, "other") == ("scheduled", None)
        assert trio.current_time() == 5


async def test_children_of_a_waiting_parent_are_cancelled_with_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "p", delay=500)
        await submit(api, "child", payload={"seconds": 500}, parent_id="p")
        await trio.sleep(5)
        assert (await cancel(api, "p")).status == 200
        task = await ended(api, "child")
        assert (task["state"], task["reason"], task["finished_at"]) == ("cancelled", "parent", at(5))


async def test_a_cancel_without_cascade_leaves_the_children(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for parent, fields in (("p", {"payload": {"seconds": 500}}), ("q", {"delay": 500})):
            await submit(api, parent, **fields)
            await submit(api, f"{parent}-child", delay=20, parent_id=parent)
        await trio.sleep(5)
        for parent in ("p", "q"):
            await cancel(api, parent, cascade=False)
            assert (await ended(api, parent))["state"] == "cancelled"
            assert (await ended(api, f"{parent}-child"))["state"] == "succeeded"


@pytest.mark.parametrize("cascade", [True, False])
async def test_a_bulk_cancel_takes_the_children_along_unless_told_otherwise(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, cascade: bool
) -> None:
    async with open_api(queue) as api:
        await submit(api, "p", delay=500, tags=["x"])
        await submit(api, "child", delay=20, parent_id="p")
        await api.post("/v1/tasks/cancel", {"filter": {"tag": "x"}, "cascade": cascade})
        assert (await ended(api, "child"))["state"] == ("cancelled" if cascade else "succeeded")


async def test_children_do_not_end_with_a_parent_that_succeeds_or_fails(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for parent, type in (("p", "nap"), ("q", "bad")):
            await submit(api, parent, type, payload={"seconds": 1})
            await submit(api, f"{parent}-child", delay=20, parent_id=parent)
            await ended(api, parent)
            assert (await ended(api, f"{parent}-child"))["state"] == "succeeded"


async def test_who_waits_for_a_child_is_told_when_it_is_cancelled_with_its_parent(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "p", delay=500)
        await submit(api, "child", delay=500, parent_id="p")
        await submit(api, "dependent", depends_on=["child"])
        told: dict[str, tuple[str, float]] = {}

        async def hold(task_id: str) -> None:
            task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
            told[task_id] = (task["reason"], trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, "child")
            nursery.start_soon(hold, "dependent")
            await trio.sleep(7)
            await cancel(api, "p")
        assert told == {"child": ("parent", 7), "dependent": ("dependency", 7)}


@pytest.mark.parametrize("parent", ["cancelled", "stopping"])
async def test_a_cancelled_parent_gets_no_more_children(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, parent: str
) -> None:
    @queue.task("tidy")
    async def tidy(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.cleanup():
                await trio.sleep(1)

    async with open_api(queue) as api:
        await submit(api, "cancelled", delay=9)
        await submit(api, "stopping", "tidy")
        await trio.sleep(1)
        await cancel(api, parent)
        answer = await api.post("/v1/tasks", {"type": "nap", "parent_id": parent})
        assert (answer.status, answer.json["code"], answer.json["field"]) == (409, "conflict", "parent_id")


async def test_what_a_handler_submits_is_a_child_of_its_task(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    refused: list[str] = []

    @queue.task("split", timeout=100)
    async def split(ctx: Context) -> list[str]:
        made = [
            await ctx.submit("nap", {"seconds": 20}, id="a", priority="high", tags=["part"]),
            await ctx.submit("nap", {"seconds": 20}, id="b", delay=50),
            await ctx.submit("nap", id="free", parent_id=None, delay=50),
        ]
        try:
            await ctx.submit("nope")
        except UnknownType as refusal:
            refused.append(refusal.code)
        await trio.sleep(30)
        return [*made]

    async with open_api(queue) as api:
        await submit(api, "s", "split")
        await trio.sleep(1)
        children = (await api.get("/v1/tasks?parent_id=s")).json["tasks"]
        assert [(task["id"], task["parent_id"], task["state"]) for task in children] == [
            ("b", "s", "scheduled"),
            ("a", "s", "running"),
        ]
        assert (children[1]["priority"], children[1]["tags"]) == (10, ["part"])
        assert "parent_id" not in (await api.get("/v1/tasks/free")).json
        assert refused == ["unknown_type"]
        await cancel(api, "s")
        assert await state(api, "s") == ("cancelled", "user")
        for task_id in ("a", "b"):
            assert (await ended(api, task_id))["finished_at"] == at(1)
            assert await state(api, task_id) == ("cancelled", "parent")
        assert await state(api, "free") == ("scheduled", None)


async def test_a_handler_that_is_being_cancelled_cannot_submit_children(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    said: list[str] = []

    @queue.task("tidy", timeout=100)
    async def tidy(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.cleanup():
                await ctx.submit("nap", id="repair", parent_id=None)
                try:
                    await ctx.submit("nap", id="child")
                except Conflict as refusal:
                    said.append(refusal.message)

    async with open_api(queue) as api:
        await submit(api, "t", "tidy")
        await trio.sleep(1)
        await api.ask("POST", "/v1/tasks/t/cancel?wait=5")
        assert said == ["parent_id: task t is cancelled: it gets no more children"]
        assert (await ended(api, "repair"))["state"] == "succeeded"
        assert (await api.get("/v1/tasks/child")).status == 404


# The tree


def ids_of(tree: dict[str, Any]) -> Any:
    """The ids of a tree: a text for a leaf, else a pair."""
    return (tree["id"], [ids_of(child) for child in tree["children"]]) if tree["children"] else tree["id"]


async def test_the_tree_has_all_descendants_in_order_of_arrival(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "top", payload={"seconds": 9})
        for child, parent in (
            ("a", "top"),
            ("b", "top"),
            ("b1", "b"),
            ("a1", "a"),
            ("a2", "a"),
            ("a11", "a1"),
        ):
            await submit(api, child, delay=5, parent_id=parent)
        answer = (await api.get("/v1/tasks/top/tree")).json
        assert ids_of(answer["tree"]) == ("top", [("a", [("a1", ["a11"]), "a2"]), ("b", ["b1"])])
        assert answer["more"] is False
        assert answer["tree"]["children"][1]["children"] == [
            {"id": "b1", "type": "nap", "queue": "default", "state": "scheduled", "children": []}
        ]
        assert ids_of((await api.get("/v1/tasks/a1/tree")).json["tree"]) == ("a1", ["a11"])
        assert (await api.get("/v1/tasks/nobody/tree")).status == 404


@slow
async def test_a_tree_is_cut_off_at_five_hundred_tasks_and_says_so(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "top", delay=5)
        batch = [{"id": f"c{n}", "type": "nap", "delay": 5, "parent_id": "top"} for n in range(499)]
        await api.post("/v1/tasks/batch", batch)
        answer = (await api.get("/v1/tasks/top/tree")).json
        assert (len(answer["tree"]["children"]), answer["more"]) == (499, False)
        await submit(api, "below", delay=5, parent_id="c3")
        answer = (await api.get("/v1/tasks/top/tree")).json
        assert (len(answer["tree"]["children"]), answer["more"]) == (499, True)
        assert answer["tree"]["children"][3]["children"] == []
        await submit(api, "c499", delay=5, parent_id="top")
        answer = (await api.get("/v1/tasks/top/tree")).json
        assert (len(answer["tree"]["children"]), answer["more"]) == (499, True)


@slow
async def test_a_tree_is_cut_off_below_a_hundred_levels_and_says_so(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "c0", delay=5)
        chain = [
            {"id": f"c{n}", "type": "nap", "delay": 5, "parent_id": f"c{n - 1}"} for n in range(1, 1_000)
        ]
        await api.post("/v1/tasks/batch", chain)
        answer = (await api.get("/v1/tasks/c0/tree")).json
        tree, levels = answer["tree"], 1
        while tree["children"]:
            (tree,) = tree["children"]
            levels += 1
        assert (levels, tree["id"], answer["more"]) == (100, "c99", True)
        assert (await api.get("/v1/tasks/c900/tree")).json["more"] is False


# Dependencies


async def test_a_blocked_task_runs_when_all_that_it_depends_on_have_succeeded(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "a", payload={"seconds": 10})
        await submit(api, "b", payload={"seconds": 30})
        await submit(api, "done")
        await ended(api, "done")
        created = await submit(api, "g", "gather", depends_on=["a", "b", "done", "a"])
        assert created["state"] == "blocked"
        task = (await api.get("/v1/tasks/g")).json
        assert (task["waiting_for"], task["depends_on"]) == (2, ["a", "b", "done"])
        await trio.sleep(15)
        assert (await api.get("/v1/tasks/g")).json["waiting_for"] == 1
        task = await ended(api, "g")
        assert (task["state"], task["started_at"]) == ("succeeded", at(30))
        assert task["result"] == {"a": "rested", "b": "rested", "done": "rested"}
        assert "waiting_for" not in task


async def test_an_unblocked_task_that_is_delayed_goes_on_waiting(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "a", payload={"seconds": 10})
        await submit(api, "b", depends_on=["a"], delay=100)
        await trio.sleep(11)
        assert await state(api, "b") == ("scheduled", None)
        assert (await ended(api, "b"))["started_at"] == at(100)


async def test_a_task_whose_dependencies_have_succeeded_already_does_not_wait(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "a")
        await ended(api, "a")
        assert (await submit(api, "b", depends_on=["a"]))["state"] == "pending"


async def test_a_chain_of_many_levels_is_gone_through_without_a_pause(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "t0", payload={"seconds": 1})
        batch = [
            {"id": f"t{n}", "type": "nap", "payload": {"seconds": 1}, "depends_on": [f"t{n - 1}"]}
            for n in range(1, 100)
        ]
        assert (await api.post("/v1/tasks/batch", batch)).status == 201
        assert (await ended(api, "t99"))["finished_at"] == at(100)


async def test_a_dependency_that_fails_cancels_all_that_wait_for_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "f", "bad", payload={"seconds": 10})
        await submit(api, "other", payload={"seconds": 100})
        await submit(api, "d0", depends_on=["f", "other"])
        for n in range(1, 50):
            await submit(api, f"d{n}", depends_on=[f"d{n - 1}"])
        task = await ended(api, "d49")
        assert (task["state"], task["reason"], task["finished_at"]) == ("cancelled", "dependency", at(10))
        assert await state(api, "d0") == ("cancelled", "dependency")
        assert await state(api, "other") == ("running", None)


async def test_a_cancelled_dependency_counts_as_one_that_failed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "a", delay=500)
        await submit(api, "b", payload={"seconds": 500})
        for task_id in ("a", "b"):
            await submit(api, f"after-{task_id}", depends_on=[task_id])
        await trio.sleep(5)
        for task_id in ("a", "b"):
            await cancel(api, task_id)
            task = await ended(api, f"after-{task_id}")
            assert (task["reason"], task["finished_at"]) == ("dependency", at(5))


async def test_a_task_can_run_although_what_it_depends_on_has_failed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "f", "bad", payload={"seconds": 10})
        await submit(api, "a", payload={"seconds": 20})
        created = await submit(api, "g", "gather", depends_on=["f", "a"], on_dependency_failure="run")
        assert created["state"] == "blocked"
        task = await ended(api, "g")
        assert (task["state"], task["started_at"], task["result"]) == ("succeeded", at(20), {"a": "rested"})
        assert task["on_dependency_failure"] == "run"


async def test_to_depend_on_what_has_failed_already_is_to_be_cancelled_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "f", "bad")
        await ended(api, "f")
        assert (await submit(api, "a", depends_on=["f"]))["state"] == "cancelled"
        assert await state(api, "a") == ("cancelled", "dependency")
        created = await submit(api, "g", "gather", depends_on=["f"], on_dependency_failure="run")
        assert created["state"] == "pending"
        answer = await api.post("/v1/tasks", {"type": "nap", "depends_on": ["f"]}, {"Prefer": "wait=60"})
        assert (answer.status, answer.json["reason"], trio.current_time()) == (200, "dependency", 0)


async def test_a_dependency_that_is_retried_is_waited_for(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("second", retry=None)
    async def second(ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ValueError("no")
        return "at last"

    async with open_api(queue) as api:
        retry = {"kind": "fixed", "base": 10, "jitter": 0}
        await submit(api, "s", "second", retry=retry)
        await submit(api, "g", "gather", depends_on=["s"])
        task = await ended(api, "g")
        assert (task["started_at"], task["result"]) == (at(10), {"s": "at last"})


async def test_a_dependency_that_waits_too_long_cancels_those_that_wait_for_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "a", delay=500, expires_at=at(20))
        await submit(api, "b", depends_on=["a"])
        task = await ended(api, "b")
        assert (task["reason"], task["finished_at"]) == ("dependency", at(20))


async def test_an_attempt_that_cannot_read_what_it_depends_on_is_not_burnt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    class Deaf(MemoryStore):
        """Cannot be asked for one task as often as it is told."""

        failures = 0

        def read(self, query: Query[R]) -> R:
            if self.failures and isinstance(query, GetTask):
                self.failures -= 1
                raise StorageUnavailable("out of reach (injected)")
            return super().read(query)

    store = Deaf()
    async with open_api(queue, store=store) as api:
        await submit(api, "a", payload={"seconds": 1})
        await submit(api, "g", "gather", depends_on=["a"])
        store.failures = 3
        await trio.sleep(5)
        assert store.failures == 0
        task = await ended(api, "g")
        assert (task["state"], task["attempt"], task["errors"]) == ("succeeded", 1, [])
        assert task["result"] == {"a": "rested"}


async def test_cycles_cannot_be_said(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        batch = [
            {"id": "a", "type": "nap", "depends_on": ["b"]},
            {"id": "b", "type": "nap", "depends_on": ["a"]},
        ]
        answer = await api.post("/v1/tasks/batch", batch)
        assert (answer.status, answer.json["field"], answer.json["index"]) == (422, "depends_on", 0)
        assert "it must be stored before this one" in answer.json["detail"]
        answer = await api.post("/v1/tasks", {"id": "a", "type": "nap", "depends_on": ["a"]})
        assert (answer.status, answer.json["field"]) == (422, "depends_on")
        answer = await api.post("/v1/tasks", {"id": "a", "type": "nap", "parent_id": "a"})
        assert (answer.status, answer.json["field"]) == (422, "parent_id")
        assert (await api.server.stats()).submitted == 0


async def test_blocked_tasks_take_no_worker(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await submit(api, "a", delay=50)
        await api.post("/v1/tasks/batch", [{"type": "nap", "depends_on": ["a"]} for _ in range(300)])
        await submit(api, "free")
        assert (await ended(api, "free"))["finished_at"] == at(0)
        await trio.sleep(51)
        assert (await api.get("/v1/stats")).json["states"]["succeeded"] == 302
