"""Streams of events: what they tell and in which order, over SSE and WebSocket."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from live_client import Seen, sse, websocket
from raw_http import Api, open_api
from wsproto.events import TextMessage

from tq.context import Context
from tq.core.errors import StorageUnavailable
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore

Clock = trio.testing.MockClock
STEADY = {"kind": "fixed", "base": 5, "jitter": 0}


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", timeout=1000, queue="beds")
    async def nap(seconds: float) -> str:
        await trio.sleep(seconds)
        return "rested"

    @queue.task("tell", timeout=1000)
    async def tell(ctx: Context) -> None:
        await trio.sleep(1)
        ctx.log("one")
        ctx.log("two")
        ctx.progress(0.5, "half")
        await trio.sleep(1)

    @queue.task("fail", max_attempts=2)
    async def fail() -> None:
        raise ValueError("no")

    return queue


async def submit(api: Api, type: str, payload: object = None, **fields: object) -> str:
    answer = await api.post("/v1/tasks", {"type": type, "payload": payload, **fields})
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


def names(seen: list[Seen]) -> list[str]:
    return [each.event for each in seen]


# One task


async def test_a_stream_of_a_task_has_a_snapshot_every_change_and_the_whole_task_at_its_end(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        id = await submit(api, "nap", {"seconds": 1}, id="t1", delay=1)
        async with sse(api, f"/v1/tasks/{id}/events") as stream:
            seen = await stream.rest()
        task = (await api.get("/v1/tasks/t1")).json
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert names(seen) == ["snapshot", "task.started", "attempt.finished", "end"]
        snapshot, started, finished, end = [each.data for each in seen]
        assert (snapshot["id"], snapshot["state"]) == ("t1", "scheduled")
        assert started == {
            "at": "2026-01-01T00:00:01.000Z",
            "task_id": "t1",
            "type": "nap",
            "queue": "beds",
            "attempt": 1,
            "worker": started["worker"],
        }
        assert (finished["at"], finished["state"], finished["duration_ms"]) == (
            "2026-01-01T00:00:02.000Z",
            "succeeded",
            1000,
        )
        assert end == task
        assert end["result"] == "rested"
        assert stream.ended
        # It ended at once: no heartbeat, no keep-alive had to pass.
        assert trio.current_time() == 2


async def test_the_connection_of_a_stream_that_ended_takes_the_next_request(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        id = await submit(api, "nap", {"seconds": 1})
        async with sse(api, f"/v1/tasks/{id}/events") as stream:
            await stream.rest()
            assert (await stream.client.ask("GET", "/livez")).status == 200


async def test_an_ended_task_has_a_snapshot_and_no_more(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        id = await submit(api, "nap", {"seconds": 1})
        await trio.sleep(2)
        async with sse(api, f"/v1/tasks/{id}/events") as stream:
            (seen,) = await stream.rest()
        assert (seen.event, seen.data["state"]) == ("snapshot", "succeeded")


async def test_the_snapshot_of_a_running_task_is_what_get_shows(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "tell", id="t1")
        await trio.sleep(1.5)
        async with sse(api, "/v1/tasks/t1/events") as stream:
            seen = await stream.next()
            assert seen.data == (await api.get("/v1/tasks/t1")).json
            assert [line["text"] for line in seen.data["logs"]] == ["one", "two"]
            assert names(await stream.rest()) == ["attempt.finished", "end"]


async def test_progress_and_lines_are_told_when_they_are_said(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "tell", id="t1")
        async with sse(api, "/v1/tasks/t1/events") as stream:
            first = await stream.next()
            if not first.data.get("worker"):
                assert (await stream.next()).event == "task.started"
            one, two, half = [await stream.next() for _ in range(3)]
            # Stored they are at 1.25 at the earliest.
            assert trio.current_time() == 1
            about = {"at": "2026-01-01T00:00:01.000Z", "task_id": "t1", "type": "tell", "queue": "default"}
            assert (one.event, one.data) == ("task.logged", {**about, "attempt": 1, "text": "one"})
            assert (two.event, two.data["text"]) == ("task.logged", "two")
            assert (half.event, half.data) == (
                "task.progressed",
                {**about, "attempt": 1, "fraction": 0.5, "message": "half"},
            )
            assert names(await stream.rest()) == ["attempt.finished", "end"]


async def test_a_task_that_fails_and_comes_again_is_watched_to_its_last_attempt(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "fail", id="t1", delay=1, retry=STEADY)
        async with sse(api, "/v1/tasks/t1/events") as stream:
            seen = await stream.rest()
        assert [(each.event, each.data.get("state")) for each in seen] == [
            ("snapshot", "scheduled"),
            ("task.started", None),
            ("attempt.finished", "retrying"),
            ("task.started", None),
            ("attempt.finished", "failed"),
            ("end", "failed"),
        ]


async def test_a_task_that_is_changed_and_cancelled_is_told_of_both(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "nap", {"seconds": 1}, id="t1", delay=60)
        async with sse(api, "/v1/tasks/t1/events") as stream:
            await stream.next()
            await api.ask("PATCH", "/v1/tasks/t1", b'{"priority": 3}', {"Content-Type": "application/json"})
            await api.post("/v1/tasks/t1/cancel", {})
            seen = await stream.rest()
        assert [(each.event, each.data["state"]) for each in seen] == [
            ("task.updated", "scheduled"),
            ("task.cancelled", "cancelled"),
            ("end", "cancelled"),
        ]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/tasks/t1/events"])
async def test_the_head_of_a_stream_is_only_its_head(
    queue: TaskQueue, autojump_clock: Clock, path: str
) -> None:
    async with open_api(queue) as api:
        await submit(api, "nap", {"seconds": 900}, id="t1")
        client = await api.connect()
        async with client.stream:
            await client.stream.send_all(b"HEAD %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
            head = bytes(await client.stream.receive_some(65536))
            assert head.startswith(b"HTTP/1.1 200")
            assert b"content-type: text/event-stream" in head
            assert head.endswith(b"\r\n\r\n")
            await trio.sleep(0.1)
            assert api.server.watchers.count == 0
            # It is over: the connection is idle, and closes when it was so for long.
            assert await client.until_closed() == b""
        assert trio.current_time() < 6


async def test_a_task_that_is_not_there_is_404(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        async with sse(api, "/v1/tasks/nope/events") as stream:
            assert (stream.status, (await stream.problem())["code"]) == (404, "not_found")
        async with websocket(api, "/v1/tasks/nope/events") as socket:
            assert socket.status == 404
            assert b'"code":"not_found"' in socket.problem
        assert api.server.watchers.count == 0


async def test_a_store_that_is_away_is_503_at_the_start_and_drops_the_stream_at_the_end(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "nap", {"seconds": 1}, id="t1")
        async with sse(api, "/v1/tasks/t1/events") as stream:
            await stream.next()
            real = store.read
            await trio.sleep(0.5)

            def fail(query: object) -> object:
                raise StorageUnavailable("away")

            store.read = fail  # type: ignore[assignment, method-assign]
            seen = await stream.rest()
            assert names(seen)[-2:] == ["attempt.finished", "dropped"]
            async with sse(api, "/v1/tasks/t1/events") as second:
                assert (second.status, (await second.problem())["code"]) == (503, "storage_unavailable")
            store.read = real  # type: ignore[method-assign]
        async with sse(api, "/v1/tasks/t1/events", last=stream.last_id) as third:
            assert names(await third.rest()) == ["end"]
        async with sse(api, "/v1/tasks/t1/events", last=third.last_id) as fourth:
            assert fourth.status == 204


# All


async def test_a_stream_of_all_has_every_event_that_is_in_the_log(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        async with sse(api, "/v1/events") as stream:
            assert await stream.next() == Seen(f"{api.server.id}-0", "opened", {"server": api.server.id})
            await submit(api, "tell", id="t1")
            await api.ask("PUT", "/v1/workers", b'{"count": 3}', {"Content-Type": "application/json"})
            await api.post("/v1/queues/beds/pause", {})
            await trio.sleep(3)
            seen = [await stream.next() for _ in range(5)]
        assert sorted(names(seen)) == [
            "attempt.finished",
            "queue.changed",
            "task.started",
            "task.submitted",
            "workers.resized",
        ]
        assert [each.id for each in seen] == [f"{api.server.id}-{n}" for n in _numbers(seen)]
        # What the handler said has numbers too, and is only for who watches its task.
        assert _numbers(seen)[-1] == 8


def _numbers(seen: list[Seen]) -> list[int]:
    return [int(str(each.id).rpartition("-")[2]) for each in seen]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?queue=beds", ["a"]),
        ("?type=fail", ["c"]),
        ("?type=nap&queue=beds", ["a"]),
        ("?type=nap&queue=default", []),
        ("?type=tell", ["b"]),
    ],
)
async def test_a_filter_leaves_the_events_of_its_queue_and_type(
    queue: TaskQueue, autojump_clock: Clock, query: str, ids: list[str]
) -> None:
    async with open_api(queue) as api:
        await submit(api, "nap", {"seconds": 1}, id="a", delay=5)
        await submit(api, "tell", id="b", delay=5)
        await submit(api, "fail", id="c", delay=5, retry=STEADY)
        async with sse(api, f"/v1/events{query}") as stream:
            await stream.next()
            # These say nothing of queue and type: the store does.
            for id in ("a", "b", "c"):
                await api.post(f"/v1/tasks/{id}/cancel", {})
                await api.post(f"/v1/tasks/{id}/retry", {})
            await trio.sleep(14)
            seen = []
            with trio.move_on_after(0.5):
                while True:
                    seen.append(await stream.next())
        assert list(dict.fromkeys(each.data["task_id"] for each in seen)) == ids
        if ids:
            assert names(seen)[:2] == ["task.cancelled", "task.retried"]
            assert names(seen)[-1] == "attempt.finished"


async def test_the_store_is_asked_once_for_all_who_filter(queue: TaskQueue, autojump_clock: Clock) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "nap", {"seconds": 1}, id="a", delay=5)
        async with (
            sse(api, "/v1/events?queue=beds") as one,
            sse(api, "/v1/events?type=nap") as two,
            sse(api, "/v1/events") as three,
        ):
            for stream in (one, two, three):
                await stream.next()
            reads = 0
            real = store.read

            def count(query: object) -> object:
                nonlocal reads
                reads += 1
                return real(query)  # type: ignore[arg-type]

            store.read = count  # type: ignore[assignment, method-assign]
            await api.post("/v1/queues/beds/purge", {})
            events = [(await stream.next()).event for stream in (one, two, three)]
            assert events == ["task.cancelled"] * 3
            assert reads <= 3


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("queue=a%20b", "queue"),
        ("type=", "type"),
        ("state=failed", None),
        ("last_event_id=%00", "last_event_id"),
    ],
)
async def test_a_query_that_is_wrong_is_refused_by_name(
    queue: TaskQueue, autojump_clock: Clock, query: str, parameter: str | None
) -> None:
    async with open_api(queue) as api:
        answer = await api.get(f"/v1/events?{query}")
        assert (answer.status, answer.json.get("parameter")) == (400, parameter)
        async with websocket(api, f"/v1/events?{query}") as socket:
            assert socket.status == 400


# WebSocket


async def test_a_websocket_has_the_messages_of_sse_and_is_closed_with_1000_at_the_end(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "tell", id="t1", delay=1)
        async with (
            sse(api, "/v1/tasks/t1/events") as stream,
            websocket(api, "/v1/tasks/t1/events") as socket,
        ):
            told = await socket.rest()
            seen = await stream.rest()
        assert names(told) == [
            "snapshot",
            "task.started",
            "task.logged",
            "task.logged",
            "task.progressed",
            "attempt.finished",
            "end",
        ]
        # The end has a number of its own.
        assert told[:-1] == seen[:-1]
        assert told[-1].data == seen[-1].data
        assert socket.code == 1000


async def test_what_a_client_says_over_its_websocket_is_read_and_dropped(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        async with websocket(api, "/v1/events") as socket:
            assert (await socket.next()).event == "opened"
            for _ in range(100):
                await socket.stream.send_all(socket.wire.send(TextMessage("x" * 1000)))
            await submit(api, "nap", {"seconds": 1}, id="t1")
            assert (await socket.next()).event == "task.submitted"
        await trio.sleep(0.1)
        assert api.server.watchers.count == 0


async def test_a_websocket_comes_back_with_the_last_id_in_its_query(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        async with websocket(api, "/v1/events") as socket:
            await submit(api, "nap", {"seconds": 1}, id="t1", delay=9)
            await socket.next()
            last = (await socket.next()).id
        await api.post("/v1/tasks/t1/cancel", {})
        async with websocket(api, f"/v1/events?last_event_id={last}") as socket:
            assert (await socket.next()).event == "task.cancelled"


async def test_a_page_of_elsewhere_gets_no_websocket(queue: TaskQueue, autojump_clock: Clock) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Origin": "https://evil.example",
    }
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("GET", "/v1/events", upgrade)
            assert (await client.answer()).status == 403


# Liveness, and the end of it


async def test_a_silent_stream_has_a_heartbeat_every_15_seconds_that_says_how_far_it_is(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        async with sse(api, "/v1/events?queue=beds") as stream:
            await stream.next()
            await submit(api, "tell", id="t1")
            beats = []
            for _ in range(3):
                beat = await stream.block()
                assert beat is not None
                beats.append((trio.current_time(), beat))
        assert [at for at, _ in beats if at][:2] == [15, 30]
        number = api.server.watchers.ring.last
        assert beats[-1][1] == Seen(f"{api.server.id}-{number}", "")


async def test_a_websocket_is_pinged_every_15_seconds(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api, websocket(api, "/v1/events") as socket:
        await socket.next()
        with trio.move_on_after(31):
            await socket.rest()
        assert [round(at) for at in socket.pings] == [0, 15, 30]


async def test_a_client_that_leaves_is_forgotten_at_once(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await submit(api, "nap", {"seconds": 900}, id="t1")
        async with (
            sse(api, "/v1/tasks/t1/events") as one,
            sse(api, "/v1/events") as two,
            websocket(api, "/v1/events") as three,
        ):
            for each in (one, two, three):
                await each.next()
            assert api.server.watchers.count == 3
        await trio.sleep(0.1)
        assert api.server.watchers.count == 0
        assert api.server.watchers._of_task == {}
        assert trio.current_time() < 1


async def test_a_draining_server_says_so_and_every_stream_ends_at_once(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue, settings=Settings(grace_s=100)) as api:
        await submit(api, "nap", {"seconds": 50}, id="t1")
        async with (
            sse(api, "/v1/tasks/t1/events") as one,
            sse(api, "/v1/events?queue=x") as two,
            websocket(api, "/v1/events") as three,
        ):
            for each in (one, two, three):
                await each.next()
            await trio.sleep(1)
            api.server.draining.set()
            ends = [await each.rest() for each in (one, two, three)]
            assert trio.current_time() == 1
            words = [end[-1] for end in ends]
            assert {word.event for word in words} == {"server.draining"}
            assert words[0].data == {
                "at": "2026-01-01T00:00:01.000Z",
                "server": api.server.id,
                "running": 1,
                "grace_ms": 100_000,
            }
            assert (one.ended, two.ended, three.code) == (True, True, 1001)
            assert [sum(each.event == "server.draining" for each in end) for end in ends] == [1, 1, 1]
            assert await one.client.until_closed() == b""
            assert trio.current_time() == 1


async def test_a_draining_server_takes_no_watcher(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        api.server.watchers.close()
        async with sse(api, "/v1/events") as stream:
            assert (stream.status, (await stream.problem())["code"]) == (503, "shutting_down")


async def test_over_the_cap_watchers_are_told_when_to_come_again(
    queue: TaskQueue, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.engine.watchers.WATCHERS_MAX", 2)
    async with open_api(queue) as api:
        async with sse(api, "/v1/events") as one, sse(api, "/v1/events") as two:
            for each in (one, two):
                await each.next()
            async with sse(api, "/v1/events") as three:
                assert (three.status, three.headers["retry-after"]) == (503, "5")
                assert (await three.problem())["code"] == "overloaded"
            async with websocket(api, "/v1/events") as socket:
                assert socket.status == 503
        await trio.sleep(0.1)
        async with sse(api, "/v1/events") as four:
            assert four.status == 200
