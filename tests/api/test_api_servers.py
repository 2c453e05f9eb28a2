"""GET /v1/servers."""

from __future__ import annotations

import trio
import trio.testing
from msgspec.structs import replace
from raw_http import open_api

from tq import __version__
from tq.core.ops import Beat
from tq.core.servers import server_text
from tq.core.task import ServerId
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing.kit import open_server


def queue_of(type: str) -> TaskQueue:
    queue = TaskQueue()

    @queue.task(type)
    async def work() -> None:
        await trio.sleep(3)

    return queue


async def test_a_server_alone_shows_itself_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    settings = Settings(workers=3, host="box", pid=7, url="http://box:8080")
    async with open_api(queue_of("mail"), settings=settings) as api:
        await trio.sleep(1)
        await api.post("/v1/tasks", {"type": "mail"})
        answer = await api.get("/v1/servers")
        assert answer.status == 200
        assert answer.json == {
            "servers": [
                {
                    "id": api.server.id,
                    "host": "box",
                    "pid": 7,
                    "version": __version__,
                    "url": "http://box:8080",
                    "started_at": "2026-01-01T00:00:00.000Z",
                    "seen_at": "2026-01-01T00:00:01.000Z",
                    "types": ["mail"],
                    "workers": 3,
                    "busy": 1,
                    "leads": True,
                    "draining": False,
                    "here": True,
                }
            ]
        }


async def test_all_servers_of_a_store_are_shown_by_id(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore(exclusive=False)
    async with open_server(queue_of("fax"), store=store, seed=7) as other:
        await trio.sleep(3)
        async with open_api(queue_of("mail"), store=store) as api:
            await trio.sleep(3)
            shown = (await api.get("/v1/servers")).json["servers"]
    assert [each["id"] for each in shown] == sorted([other.id, api.server.id])
    by_id = {each["id"]: each for each in shown}
    here, there = by_id[api.server.id], by_id[other.id]
    assert (here["here"], here["leads"], here["types"]) == (True, False, ["mail"])
    assert (there["here"], there["leads"], there["types"]) == (False, True, ["fax"])
    # It beats every five seconds, and when another joins: within a second of that.
    assert there["seen_at"] == "2026-01-01T00:00:03.000Z"


async def test_of_a_leader_that_died_and_the_next_only_the_next_is_shown_to_lead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore(exclusive=False)
    async with open_api(queue_of("mail"), store=store, settings=Settings(host="here")) as api:
        await trio.sleep(1)
        said = server_text(replace(api.server.fleet.info(), host="gone"))
        store.apply([Beat(ServerId("gone"), said=said)], api.server.clock.now_ms() - 1)
        await trio.sleep(2)
        shown = (await api.get("/v1/servers")).json["servers"]
    assert {each["host"]: each["leads"] for each in shown} == {"gone": False, "here": True}
