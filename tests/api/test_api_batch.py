"""Many tasks at once: arrays, all or none, and NDJSON, line by line while the upload goes on."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, NDJSON_TYPE, Api, Client, lines, open_api

from tq.api.endpoints.ndjson import LINE_MAX, Splitter
from tq.core.errors import StorageFull, StorageUnavailable
from tq.core.ops import Submit
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore

Clock = trio.testing.MockClock
CHUNKED = NDJSON_TYPE | {"Transfer-Encoding": "chunked"}


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("it")
    async def it(n: int = 0) -> None:
        pass

    return queue


def line(id: str, **more: object) -> bytes:
    return json.dumps({"id": id, "type": "it", "delay": 3600, **more}).encode() + b"\n"


def sizes(store: FaultyStore) -> list[int]:
    """How many tasks each transaction stored."""
    counts = [sum(isinstance(op, Submit) for op in batch) for batch in store.batches]
    return [count for count in counts if count]


# Arrays


async def test_an_array_is_stored_and_answered_in_order(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "b", "type": "it", "delay": 60})
        tasks = [{"id": "a", "type": "it", "delay": 60}, {"id": "b", "type": "it"}]
        answer = await api.post("/v1/tasks/batch", tasks)
        assert answer.status == 201
        assert answer.json == {
            "tasks": [
                {"id": "a", "state": "scheduled"},
                {"id": "b", "state": "scheduled", "duplicate": True},
            ]
        }
        again = await api.post("/v1/tasks/batch", tasks)
        assert (again.status, [task["duplicate"] for task in again.json["tasks"]]) == (200, [True, True])


async def test_an_empty_array_is_nothing_to_do(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks/batch", [])
        assert (answer.status, answer.json) == (200, {"tasks": []})


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        ({"type": "nope"}, 422, "unknown_type"),
        ({"type": "it", "payload": {"n": "x"}}, 422, "payload_invalid"),
        ({"type": "it", "zebra": 1}, 422, "invalid_input"),
        ({"type": "it", "priority": 101}, 422, "invalid_input"),
        ({"id": "known", "type": "it", "payload": {"n": 2}}, 409, "duplicate_task"),
        ({"id": "t0", "type": "it", "payload": {"n": 3}}, 409, "duplicate_task"),
        (7, 400, "invalid_input"),
    ],
)
async def test_one_bad_task_refuses_the_whole_array_and_is_named(
    queue: TaskQueue, autojump_clock: Clock, bad: object, status: int, code: str
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "known", "type": "it", "payload": {"n": 1}})
        answer = await api.post("/v1/tasks/batch", [{"id": "t0", "type": "it"}, bad, {"type": "it"}])
        assert (answer.status, answer.json["code"], answer.json["index"]) == (status, code, 1)
        assert (await api.server.stats()).submitted == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"7", b"[{}"])
async def test_what_is_not_an_array_is_400(queue: TaskQueue, autojump_clock: Clock, body: bytes) -> None:
    async with open_api(queue) as api:
        assert (await api.ask("POST", "/v1/tasks/batch", body, JSON_TYPE)).status == 400


async def test_a_thousand_tasks_are_taken_and_one_more_is_413(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks/batch", [{"type": "it", "delay": 60}] * 1001)
        assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
        answer = await api.post("/v1/tasks/batch", [{"type": "it", "delay": 60}] * 1000)
        assert (answer.status, len(answer.json["tasks"])) == (201, 1000)


async def test_an_array_may_be_larger_than_one_task(queue: TaskQueue, autojump_clock: Clock) -> None:
    queue.task("big")(take)
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks/batch", [{"type": "big", "payload": {"x": "x" * 500_000}}] * 20)
        assert answer.status == 201
        client = await api.connect()
        async with client.stream:
            too_long = JSON_TYPE | {"Content-Length": str(32 * 1024 * 1024 + 1)}
            await client.begin("POST", "/v1/tasks/batch", too_long)
            assert (await client.answer()).status == 413


async def take(x: str) -> None:
    pass


# NDJSON


async def test_each_line_is_answered_in_order_and_stands_alone(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    body = b"".join(
        [
            line("t1"),
            b"\n",
            b'{"type":"nope"}\n',
            b"  \r\n",
            b'\xff{"type":"it"}\n',
            b"{\n",
            b'{"type":"it","zebra":1}\n',
            line("t1"),
            line("t1", payload={"n": 1}),
            line("t2").strip(),
        ]
    )
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tasks/batch", body, NDJSON_TYPE)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        told = lines(answer)
        assert [(one.get("id"), one.get("line"), one.get("error", {}).get("code")) for one in told] == [
            ("t1", None, None),
            (None, 3, "unknown_type"),
            (None, 5, "invalid_input"),
            (None, 6, "invalid_input"),
            (None, 7, "invalid_input"),
            ("t1", None, None),
            (None, 9, "duplicate_task"),
            ("t2", None, None),
        ]
        assert told[0] == {"id": "t1", "state": "scheduled"}
        assert told[5] == {"id": "t1", "state": "scheduled", "duplicate": True}
        assert told[4]["error"]["field"] == "zebra"
        assert told[4]["error"]["status"] == 422
        assert (await api.server.stats()).submitted == 2


@pytest.mark.parametrize("body", [b"", b"\n\n \n"])
async def test_no_lines_have_no_answers(queue: TaskQueue, autojump_clock: Clock, body: bytes) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tasks/batch", body, NDJSON_TYPE)
        assert (answer.status, answer.body) == (200, b"")


async def test_many_lines_are_stored_in_chunks_of_five_hundred_at_most(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    store = FaultyStore(MemoryStore())
    body = b"".join(line(f"t{n}") for n in range(5_000))
    async with open_api(queue, store=store) as api:
        answer = await api.ask("POST", "/v1/tasks/batch", body, NDJSON_TYPE)
        assert [one["id"] for one in lines(answer)] == [f"t{n}" for n in range(5_000)]
        assert sum(sizes(store)) == 5_000
        assert max(sizes(store)) == 500
        assert len(sizes(store)) < 20


async def begin(api: Api, client: Client, *sent: bytes) -> None:
    """Begin an upload, send *sent*, and wait for the answer to it."""
    await client.begin("POST", "/v1/tasks/batch", CHUNKED)
    for piece in sent:
        await client.send(piece)


async def read_lines(client: Client) -> list[dict[str, object]]:
    event = await client.event()
    assert isinstance(event, h11.Data), event
    return [json.loads(text) for text in bytes(event.data).splitlines()]


async def test_a_slow_upload_is_answered_line_by_line_however_it_is_cut(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client, line("t1")[:5])
            await trio.sleep(12)
            await client.send(line("t1")[5:] + line("t2")[:9])
            head = await client.event()
            assert isinstance(head, h11.Response)
            assert head.status_code == 200
            assert await read_lines(client) == [{"id": "t1", "state": "scheduled"}]
            assert (await api.server.stats()).submitted == 1
            await trio.sleep(12)
            await client.send(line("t2")[9:])
            assert await read_lines(client) == [{"id": "t2", "state": "scheduled"}]
            await client._send(h11.EndOfMessage())
            assert isinstance(await client.event(), h11.EndOfMessage)
            # And the connection is kept.
            assert (await client.ask("GET", "/livez")).status == 200


async def test_an_upload_that_stops_is_given_up_after_fifteen_seconds_and_says_where(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client, line("t1"), line("t2")[:5])
            answer = await client.answer()
            assert trio.current_time() == 15
            (first, last) = lines(answer)
            assert first["id"] == "t1"
            assert (last["line"], last["stopped"], last["error"]["code"]) == (2, True, "body_too_slow")


async def test_an_upload_that_never_starts_is_408(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client)
            answer = await client.answer()
            assert (answer.status, trio.current_time()) == (408, 15)


async def test_a_line_over_the_limit_is_refused_alone(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client, line("t1"))
            await client.event()
            assert (await read_lines(client))[0]["id"] == "t1"
            for _ in range(40):
                await client.send(b"x" * 65536)
            await client.send(b"\n" + line("t3"))
            await client._send(h11.EndOfMessage())
            (refused, stored) = await answers(client)
            assert (refused["line"], refused["error"]["code"]) == (2, "payload_too_large")
            assert stored["id"] == "t3"


async def answers(client: Client) -> list[dict[str, Any]]:
    body = b""
    while isinstance(event := await client.event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return [json.loads(text) for text in body.splitlines()]


async def test_a_client_that_vanishes_keeps_what_was_answered(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        await begin(api, client, line("t1"), line("t2")[:10])
        await client.event()
        assert (await read_lines(client))[0]["id"] == "t1"
        await client.stream.aclose()
        await trio.sleep(1)
        assert (await api.server.stats()).submitted == 1
        assert (await api.get("/livez")).status == 200


async def test_a_half_line_before_the_connection_ends_is_no_line(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            # It would be a whole task, but the body has not ended.
            await begin(api, client, line("t1").strip())
            await client.stream.send_eof()
            await client.until_closed()
        assert (await api.server.stats()).submitted == 0


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [(StorageUnavailable, 503, "storage_unavailable"), (StorageFull, 507, "storage_full")],
)
async def test_without_a_store_the_whole_is_refused_by_its_status(
    queue: TaskQueue, autojump_clock: Clock, failure: type[StorageUnavailable], status: int, code: str
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        store.failing = failure
        answer = await api.ask("POST", "/v1/tasks/batch", line("t1"), NDJSON_TYPE)
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (status, code, "1")


async def test_a_store_that_goes_away_in_the_middle_ends_the_answers_and_says_where(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client, line("t1"), b"\n")
            await client.event()
            assert (await read_lines(client))[0]["id"] == "t1"
            store.failing = StorageUnavailable
            # It still sends: the answer comes all the same, and then the end.
            await client.send(line("t3") + line("t4"))
            (last,) = await answers(client)
            assert (last["line"], last["stopped"]) == (3, True)
            assert last["error"]["code"] == "storage_unavailable"
            assert "line 3 and all after it were not stored" in str(last["error"]["detail"])
            await client.send(line("t5") * 1000)
            assert await client.until_closed() == b""
        store.failing = None
        assert (await api.server.stats()).submitted == 1


async def test_a_server_that_drains_ends_the_answers_at_once_and_says_where(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await begin(api, client, line("t1"))
            await client.event()
            assert (await read_lines(client))[0]["id"] == "t1"
            await trio.sleep(1)
            api.server.draining.set()
            (last,) = await answers(client)
            assert (last["line"], last["error"]["code"]) == (2, "shutting_down")
            assert trio.current_time() == 1


async def test_an_upload_is_read_no_faster_than_its_answers_are_taken(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        client = await api.connect(receive_buffer=4096)
        async with client.stream:
            await client.begin("POST", "/v1/tasks/batch", CHUNKED)
            sent = 0
            with trio.move_on_after(10):
                while sent < 400_000:
                    await client.send(line("t") * 1000)
                    sent += 1000
            # It stood still long before the end, with kernel buffers full and no more than those.
            assert sum(sizes(store)) < sent < 400_000


def test_splitter_gives_lines_however_they_are_cut() -> None:
    text = b"one\ntwo\r\n\nlast"
    for cut in range(len(text) + 1):
        splitter = Splitter()
        found = splitter.feed(text[:cut]) + splitter.feed(text[cut:]) + splitter.end()
        assert found == [b"one", b"two\r", b"", b"last"]
    assert Splitter().end() == []


def test_splitter_never_keeps_more_than_a_line_may_have() -> None:
    splitter = Splitter()
    assert splitter.feed(b"x" * LINE_MAX) == []
    assert splitter.feed(b"x") == [None]
    assert splitter.rest == b""
    assert splitter.feed(b"x" * 100) == []
    assert splitter.rest == b""
    assert splitter.feed(b"x\nnext\n") == [b"next"]
    assert splitter.feed(b"x" * (LINE_MAX + 1) + b"\n" + b"y" * LINE_MAX + b"\n") == [None, b"y" * LINE_MAX]
