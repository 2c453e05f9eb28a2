"""Listing tasks: each filter, filters together, pages while rows change, and what is refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import trio
import trio.testing
from raw_http import Answer, Api, open_api

from tq.context import Context
from tq.core.task import TaskId
from tq.engine.server import Settings
from tq.handlers import TaskQueue


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("echo")
    async def echo(payload: object) -> object:
        return payload

    @queue.task("hold", timeout=1000)
    async def hold() -> None:
        await trio.sleep_forever()

    @queue.task("fail", max_attempts=1)
    async def fail(message: str = "it broke") -> None:
        raise ValueError(message)

    @queue.task("parent")
    async def parent(ctx: Context) -> None:
        await ctx.submit("echo", id=f"{ctx.task_id}.child")

    return queue


async def submit(api: Api, id: str, type: str = "echo", **fields: object) -> None:
    answer = await api.post("/v1/tasks", {"id": id, "type": type, **fields})
    assert answer.status == 201, answer.body


async def ids(api: Api, query: str = "") -> list[str]:
    answer = await api.get(f"/v1/tasks?{query}")
    assert answer.status == 200, answer.body
    assert answer.json["next"] is None
    return [task["id"] for task in answer.json["tasks"]]


async def fill(api: Api) -> None:
    """A task, at least, in every state but blocked, and one that hangs on another."""
    await submit(api, "ended", key="acme", tags=["red", "blue"], queue="mail", payload={"user": {"id": 42}})
    await submit(api, "broken", "fail", payload={"message": "No Such Door"}, tags=["red"])
    await submit(api, "family", "parent")
    await trio.sleep(1)
    await submit(api, "later", delay=3600, key="acme", payload={"user": {"id": "42"}, "n": 1.5})
    await submit(api, "dropped", delay=3600, queue="mail", payload={"flag": True, "nothing": None})
    await api.post("/v1/tasks/dropped/cancel", {})
    await submit(api, "after", depends_on=["later"])
    await submit(api, "busy", "hold")
    await api.post("/v1/queues/shut/pause", {})
    await submit(api, "idle", queue="shut", tags=["blue"])
    await trio.sleep(1)


async def test_without_a_filter_all_tasks_are_listed_newest_first(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(grace_s=0)) as api:
        assert (await api.get("/v1/tasks")).json == {"tasks": [], "next": None}
        await fill(api)
        assert await ids(api) == [
            "idle",
            "busy",
            "after",
            "dropped",
            "later",
            "family.child",
            "family",
            "broken",
            "ended",
        ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=pending", ["idle"]),
        ("state=running", ["busy"]),
        ("state=blocked", ["after"]),
        ("state=scheduled", ["later"]),
        ("state=retrying", []),
        ("state=succeeded", ["family.child", "family", "ended"]),
        ("state=failed", ["broken"]),
        ("state=cancelled", ["dropped"]),
        ("state=failed,cancelled", ["dropped", "broken"]),
        ("state=waiting", ["idle", "after", "later"]),
        ("state=ended", ["dropped", "family.child", "family", "broken", "ended"]),
        ("state=waiting,running", ["idle", "busy", "after", "later"]),
        ("queue=mail", ["dropped", "ended"]),
        ("queue=nobody", []),
        ("type=fail", ["broken"]),
        ("key=acme", ["later", "ended"]),
        ("tag=red", ["broken", "ended"]),
        ("tag=blue", ["idle", "ended"]),
        ("parent_id=family", ["family.child"]),
        ("schedule=nightly", []),
        ("error=no such", ["broken"]),
        ("error=ValueError: No Such Door", ["broken"]),
        ("error=No Such Window", []),
        ("error=%", []),
        ("created_after=2026-01-01T00:00:01Z", ["idle", "busy", "after", "dropped", "later"]),
        ("created_before=2026-01-01T00:00:01Z", ["family.child", "family", "broken", "ended"]),
        ("created_after=2026-01-01T01:00:01%2B01:00", ["idle", "busy", "after", "dropped", "later"]),
        ("where=payload.user.id:42", ["later", "ended"]),
        ('where=payload.user.id:"42"', ["later"]),
        ("where=payload.user.id:43", []),
        ("where=payload.n:1.5", ["later"]),
        ("where=payload.flag:true", ["dropped"]),
        ("where=payload.nothing:null", ["dropped"]),
        ("where=payload.message:No Such Door", ["broken"]),
        ("where=payload.user:42", []),
        ("state=ended&queue=mail", ["dropped", "ended"]),
        ("state=ended&queue=mail&tag=red", ["ended"]),
        ("key=acme&where=payload.user.id:42&state=waiting", ["later"]),
        ("tag=red&type=fail&error=door&created_before=2026-01-01T00:00:01Z", ["broken"]),
        ("tag=red&type=fail&key=acme", []),
    ],
)
async def test_a_filter_finds_what_it_says(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, query: str, expected: list[str]
) -> None:
    async with open_api(queue, settings=Settings(grace_s=0)) as api:
        await fill(api)
        assert await ids(api, quote(query, safe="=&%:,")) == expected


async def test_failures_are_found_by_their_fingerprint(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "one", "fail")
        await submit(api, "two", "fail", payload={"message": "other words"})
        await trio.sleep(1)
        fingerprint = (await api.get("/v1/tasks/one")).json["fingerprint"]
        assert await ids(api, f"fingerprint={fingerprint}") == ["two", "one"]
        assert await ids(api, "fingerprint=000000000000") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=", "state"),
        ("state=done", "state"),
        ("state=failed,", "state"),
        ("state=Failed", "state"),
        ("queue=a%20b", "queue"),
        ("queue=", "queue"),
        ("type=" + "x" * 65, "type"),
        ("key=", "key"),
        ("key=" + "x" * 129, "key"),
        ("tag=a%20b", "tag"),
        ("parent_id=a/b", "parent_id"),
        ("schedule=a/b", "schedule"),
        ("fingerprint=xyz", "fingerprint"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01", "created_after"),
        ("created_before=2026-13-01T00:00:00Z", "created_before"),
        ("error=", "error"),
        ("error=" + "x" * 201, "error"),
        ("where=", "where"),
        ("where=user.id:42", "where"),
        ("where=payload:42", "where"),
        ("where=payload.user.id", "where"),
        ("where=payload..id:42", "where"),
        ("where=payload" + ".a" * 17 + ":1", "where"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=%C2%B2", "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=-1", "cursor"),
        ("cursor=1.5", "cursor"),
        ("cursor=" + "9" * 30, "cursor"),
        ("view=", "view"),
        ("view=short", "view"),
        ("view=Brief", "view"),
    ],
)
async def test_a_bad_value_is_400_and_names_its_parameter(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, query: str, parameter: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.get(f"/v1/tasks?{query}")
        assert (answer.status, answer.json["code"]) == (400, "invalid_input")
        assert answer.json["parameter"] == parameter
        assert parameter in answer.json["detail"]


async def test_a_parameter_that_is_unknown_or_given_twice_is_refused_by_name(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.get("/v1/tasks?State=failed")
        assert (answer.status, answer.json["parameters"]) == (400, ["State"])
        answer = await api.get("/v1/tasks?state=failed&state=running")
        assert (answer.status, answer.json["parameter"]) == (400, "state")


# Pages


def link(answer: Answer) -> str:
    target, rel = answer.headers["link"].split("; ")
    assert rel == 'rel="next"'
    return target.strip("<>")


async def test_a_page_has_50_tasks_and_a_link_to_the_next(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks/batch", [{"id": f"t{n}", "type": "echo", "delay": 60} for n in range(120)])
        found: list[str] = []
        sizes = []
        path = "/v1/tasks"
        while path:
            answer = await api.get(path)
            found += [task["id"] for task in answer.json["tasks"]]
            sizes.append(len(answer.json["tasks"]))
            path = link(answer) if answer.json["next"] else ""
        assert sizes == [50, 50, 20]
        assert "link" not in answer.headers
        assert found == [f"t{n}" for n in range(119, -1, -1)]


async def test_a_link_keeps_the_filter_and_the_limit(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for n in range(5):
            await submit(api, f"t{n}", delay=60, key="a&b=c d", payload={"name": "é/:&"})
            await submit(api, f"u{n}", delay=60)
        query = f"key={quote('a&b=c d')}&where={quote('payload.name:é/:&')}&limit=2"
        first = await api.get(f"/v1/tasks?{query}")
        second = await api.get(link(first))
        third = await api.get(link(second))
        assert [[task["id"] for task in answer.json["tasks"]] for answer in (first, second, third)] == [
            ["t4", "t3"],
            ["t2", "t1"],
            ["t0"],
        ]
        assert third.json["next"] is None


async def test_a_full_last_page_says_that_there_is_no_more(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for n in range(4):
            await submit(api, f"t{n}", delay=60)
        first = await api.get("/v1/tasks?limit=2")
        second = await api.get(link(first))
        assert ([task["id"] for task in second.json["tasks"]], second.json["next"]) == (["t1", "t0"], None)


async def test_pages_neither_repeat_nor_miss_a_task_while_others_come_and_go(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for n in range(12):
            await submit(api, f"t{n}", delay=60)
        found: list[str] = []
        path = "/v1/tasks?state=scheduled&limit=3"
        round_number = 0
        while path:
            answer = await api.get(path)
            found += [task["id"] for task in answer.json["tasks"]]
            path = link(answer) if answer.json["next"] else ""
            await submit(api, f"new{round_number}", delay=60)
            # One that was seen, and one at the far end, go; the last of the page is what the cursor is.
            for gone in (found[-1], f"t{round_number}"):
                await api.post(f"/v1/tasks/{gone}/cancel", {})
                await api.delete(f"/v1/tasks/{gone}")
            round_number += 1
        stayed = [f"t{n}" for n in range(11, 3, -1)]
        assert [id for id in found if id in stayed] == stayed
        assert len(found) == len(set(found))


async def test_a_task_is_listed_as_it_is_shown_by_itself(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(grace_s=0)) as api:
        await fill(api)
        for task in (await api.get("/v1/tasks")).json["tasks"]:
            assert (await api.get(f"/v1/tasks/{task['id']}")).json == task
        assert api.server.pool.find(TaskId("busy")) is not None


async def test_a_brief_list_has_all_but_what_may_be_long_and_its_link_keeps_it_so(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(grace_s=0)) as api:
        await fill(api)
        whole = {task["id"]: task for task in (await api.get("/v1/tasks?view=full")).json["tasks"]}
        first = await api.get("/v1/tasks?view=brief&limit=5")
        second = await api.get(link(first))
        brief = {task["id"]: task for answer in (first, second) for task in answer.json["tasks"]}
        assert list(brief) == list(whole)
        for task_id, task in whole.items():
            left_out = {"payload", "result", "logs"} & set(task)
            assert set(task) - set(brief[task_id]) == left_out
            assert {**brief[task_id], "errors": []} == {
                name: value for name, value in task.items() if name not in left_out
            } | {"errors": []}
        [error] = brief["broken"]["errors"]
        assert error["message"] == "No Such Door"
        assert "traceback" in whole["broken"]["errors"][0]
        assert "traceback" not in error
        assert await ids(api, "view=brief&where=payload.user.id:42") == ["later", "ended"]
