"""Every route of the table, and who may ask it; what keys are for, and how often they may ask."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import h11
import pytest
import trio
from key_kit import ROOT, bearer, key, locked, put
from live_client import Socket, Stream, sse, websocket
from raw_http import JSON_TYPE, Answer, Api, open_api
from tiers import whole
from trio.testing import MockClock

from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.core.errors import StorageUnavailable
from tq.core.keys import KEY_SCOPES, NewKey, Scope, make_key
from tq.core.limits import Rate
from tq.core.ops import RevokeKey
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing.faults import FaultyStore
from tq.testing.kit import EPOCH_MS

MATRIX = {
    "submit": ("submit_original", "submit_task", "submit_tasks"),
    "read": (
        *("get_status", "get_original_stats", "list_tasks", "list_failures", "get_task", "get_tree"),
        *("watch_task", "watch_all", "make_ticket", "list_queues", "get_queue", "list_schedules"),
        *("get_schedule", "get_stats", "get_workers", "get_servers", "list_types"),
    ),
    "operate": (
        *("cancel_tasks", "retry_tasks", "delete_tasks", "update_task", "delete_task", "cancel_task"),
        *("retry_task", "pause_queue", "resume_queue", "purge_queue", "pause_schedule", "resume_schedule"),
        "run_schedule",
    ),
    "admin": (
        *("put_queue", "put_schedule", "delete_schedule", "set_workers"),
        *("create_key", "list_keys", "revoke_key"),
    ),
    "metrics": ("get_metrics",),
    "any": ("get_current_key",),
    "open": ("get_alive", "get_ready", "get_contract", "get_docs", "get_dashboard", "get_dashboard_file"),
}
"""What each route needs. A new route is added here by hand."""
OF_ALL = (
    *("get_original_stats", "list_failures", "list_schedules", "get_schedule", "get_stats", "get_workers"),
    *("pause_schedule", "resume_schedule", "run_schedule", "put_schedule", "delete_schedule", "set_workers"),
    *("create_key", "list_keys", "revoke_key", "get_metrics", "list_types", "get_servers"),
)
"""What no key that is limited to some queues may ask."""
BODIES: dict[str, object] = {
    "submit_original": {"type": "x", "payload": 1},
    "submit_task": {"type": "x", "queue": "default"},
    "submit_tasks": [{"type": "x", "queue": "default"}],
    "cancel_tasks": {"filter": {"queue": "default"}},
    "retry_tasks": {"filter": {"queue": "default"}},
    "delete_tasks": {"filter": {"queue": "default"}},
}
GUARDED = [pytest.param(route, id=route.name) for route in ROUTES if route.scope is not Scope.OPEN]
SCOPED = [param for param in GUARDED if param.id != "get_current_key"]


async def ask(api: Api, route: Route, headers: dict[str, str]) -> Answer:
    path = route.path.replace("{id*}", "t").replace("{id}", "t").replace("{queue}", "default")
    path = path.replace("{name}", "s").replace("{key_id}", "0" * 16)
    if route.name == "watch_all":
        path += "?queue=default"
    body = json.dumps(BODIES.get(route.name, {})).encode() if route.bodies else b""
    with trio.move_on_after(1):
        return await api.ask(route.method, path, body, (JSON_TYPE if body else {}) | headers)
    return Answer(200, {}, b"{}")  # a stream, which has no end


def test_every_route_is_in_the_matrix() -> None:
    assert {route.name: route.scope.value for route in ROUTES} == {
        name: scope for scope, names in MATRIX.items() for name in names
    }
    assert set(OF_ALL) <= {route.name for route in ROUTES}


@whole
@pytest.mark.parametrize("route", GUARDED)
async def test_a_route_asks_for_a_good_key(route: Route, queue: TaskQueue, autojump_clock: MockClock) -> None:
    expired, revoked, unknown = key(1), key(2), key(3)
    every = KEY_SCOPES
    async with locked(queue, put(expired, *every, expires_at=EPOCH_MS), put(revoked, *every)) as api:
        answer = await api.ask("DELETE", f"/v1/keys/{revoked.id}", headers=bearer(ROOT))
        assert (answer.status, answer.json["revoked_at"][:4]) == (200, "2026")
        wrong_secret = make_key(bytes([255]) * 8 + bytes([7]) * 32)
        assert wrong_secret.id == ROOT.id
        slip = ROOT.text[:-1] + ("0" if ROOT.text[-1] != "0" else "1")
        bad: list[NewKey | str] = [expired, revoked, unknown, wrong_secret, slip, "tq_", ROOT.text.upper()]
        for headers in [{}, *map(bearer, bad), {"Authorization": f"Basic {ROOT.text}"}]:
            answer = await ask(api, route, headers)
            assert (answer.status, answer.json["code"]) == (401, "unauthorized"), headers
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await ask(api, route, bearer(ROOT))).status not in (401, 403)


@pytest.mark.parametrize("route", SCOPED)
async def test_a_route_asks_for_its_scope(route: Route, queue: TaskQueue, autojump_clock: MockClock) -> None:
    right = key(1)
    others = [scope for scope in KEY_SCOPES if scope is not route.scope]
    keys = {scope: key(10 + number) for number, scope in enumerate(others)}
    made = [put(each, scope) for scope, each in keys.items()]
    async with locked(queue, put(right, route.scope), *made) as api:
        assert (await ask(api, route, bearer(right))).status not in (401, 403)
        for each in keys.values():
            answer = await ask(api, route, bearer(each))
            assert (answer.status, answer.json.get("scope")) == (403, route.scope.value)


@pytest.mark.parametrize("route", SCOPED)
async def test_a_key_of_another_queue_reaches_nothing(
    route: Route, queue: TaskQueue, autojump_clock: MockClock
) -> None:
    @queue.task("*")
    async def work(payload: object) -> None:
        pass

    own, other = key(1), key(2)
    scoped = [put(own, route.scope, queues=("default",)), put(other, route.scope, queues=("other",))]
    async with locked(queue, *scoped) as api:
        task = {"id": "t", "type": "x", "queue": "default", "delay": 60}
        assert (await api.post("/v1/tasks", task, bearer(ROOT))).status == 201
        answer = await ask(api, route, bearer(other))
        if route.name in OF_ALL:
            assert answer.status == 403
            assert (await ask(api, route, bearer(own))).status == 403
        elif "{id}" in route.path or "{queue}" in route.path:
            assert answer.status == 404
            assert (await ask(api, route, bearer(own))).status != 404
        elif route.name in ("list_tasks", "list_queues", "make_ticket", "get_status"):
            assert answer.status in (200, 201)
            assert "default" not in answer.body.decode()
        else:
            assert answer.status == 403
            assert (await ask(api, route, bearer(own))).status in (200, 201)


async def test_any_good_key_is_told_what_it_may_do(queue: TaskQueue, autojump_clock: MockClock) -> None:
    keys = {scope: key(10 + number) for number, scope in enumerate(KEY_SCOPES)}
    limited = key(1)
    rate = Rate(limit=2, period_ms=60_000, burst=2)
    expires_at = EPOCH_MS + 60_000
    narrow = put(limited, Scope.SUBMIT, Scope.READ, queues=("mail", "bank"), rate=rate, expires_at=expires_at)
    async with locked(queue, narrow, *(put(each, scope) for scope, each in keys.items())) as api:
        for scope, each in keys.items():
            answer = await api.ask("GET", "/v1/keys/current", headers=bearer(each))
            assert (answer.status, answer.json["scopes"], answer.json["queues"]) == (200, [scope.value], None)
        answer = await api.ask("GET", "/v1/keys/current", headers=bearer(limited))
        listed = await api.ask("GET", "/v1/keys", headers=bearer(ROOT))
        (as_listed,) = [each for each in listed.json["keys"] if each["id"] == limited.id]
        assert answer.json == {"key": as_listed, "scopes": ["submit", "read"], "queues": ["bank", "mail"]}
        assert as_listed["expires_at"]
        assert limited.text[19:83] not in answer.body.decode()
        assert limited.digest not in answer.body.decode()
        assert answer.headers["ratelimit"] == '"key";r=1;t=30', "it counts as any request does"


async def test_the_current_key_is_no_key_that_can_be_revoked(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with locked(queue) as api:
        refused = await api.ask("DELETE", "/v1/keys/current", headers=bearer(ROOT))
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        unknown = await api.ask("DELETE", f"/v1/keys/{'0' * 16}", headers=bearer(ROOT))
        assert (unknown.status, unknown.json["code"]) == (404, "not_found")


async def test_without_keys_anybody_is_told_that_everything_is_allowed(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.get("/v1/keys/current")
        every = ["submit", "read", "operate", "admin", "metrics"]
        assert answer.json == {"key": None, "scopes": every, "queues": None}


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/openapi.json", "/docs"])
async def test_open_routes_ask_for_no_key(path: str, queue: TaskQueue, autojump_clock: MockClock) -> None:
    async with locked(queue) as api:
        assert (await api.get(path)).status == 200


async def test_the_first_key_locks_the_server_and_its_text_is_shown_once(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_api(queue) as api:
        poor = await api.post("/v1/keys", {"name": "a", "scopes": ["read"]})
        assert (poor.status, poor.json["field"]) == (422, "scopes")
        made = await api.post("/v1/keys", {"name": "a", "scopes": ["read", "admin"]})
        assert (made.status, made.headers["cache-control"]) == (201, "no-store")
        assert (await api.get("/v1/stats")).status == 401
        listed = await api.ask("GET", "/v1/keys", headers=bearer(made.json["key"]))
        assert [each["id"] for each in listed.json["keys"]] == [made.json["id"]]
        assert made.json["key"][19:83] not in listed.body.decode()
        # A server whose keys have all been revoked is locked, not open.
        await api.ask("DELETE", f"/v1/keys/{made.json['id']}", headers=bearer(made.json["key"]))
        assert (await api.get("/v1/stats")).status == 401


async def test_a_key_expires_on_the_clock_of_the_server(queue: TaskQueue, autojump_clock: MockClock) -> None:
    short = key(1)
    async with locked(queue, put(short, Scope.READ, expires_at=EPOCH_MS + 10_000)) as api:
        assert (await api.ask("GET", "/v1/stats", headers=bearer(short))).status == 200
        await trio.sleep(10)
        assert (await api.ask("GET", "/v1/stats", headers=bearer(short))).status == 401


async def ended(stream: Stream | Socket) -> None:
    """Return when *stream* has no more to say, whatever its client calls that."""
    with suppress(AssertionError, trio.EndOfChannel, h11.RemoteProtocolError):
        while True:
            await stream.next()


async def test_streams_end_when_their_key_is_revoked(queue: TaskQueue, autojump_clock: MockClock) -> None:
    reader = key(1)
    async with locked(queue, put(reader, Scope.READ)) as api:
        tickets = [
            (await api.ask("POST", "/v1/tickets", headers=bearer(reader))).json["ticket"] for _ in range(3)
        ]
        async with (
            sse(api, f"/v1/events?ticket={tickets[0]}") as stream,
            websocket(api, f"/v1/events?ticket={tickets[1]}") as socket,
        ):
            assert (await stream.next()).event == "opened"
            assert (await socket.next()).event == "opened"
            await api.ask("DELETE", f"/v1/keys/{reader.id}", headers=bearer(ROOT))
            with trio.fail_after(5):
                await ended(stream)
                await ended(socket)
            assert socket.code == 1008
        assert (await api.get(f"/v1/events?ticket={tickets[2]}")).status == 401


async def test_a_key_over_its_rate_is_told_when_to_come_back(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    slow = key(1)
    rate = Rate(limit=2, period_ms=60_000, burst=2)
    async with locked(queue, put(slow, Scope.READ, rate=rate)) as api:

        async def once() -> tuple[int, str, str]:
            answer = await api.ask("GET", "/v1/stats", headers=bearer(slow))
            return answer.status, answer.headers.get("ratelimit", ""), answer.headers.get("retry-after", "")

        assert await once() == (200, '"key";r=1;t=30', "")
        assert await once() == (200, '"key";r=0;t=60', "")
        assert await once() == (429, '"key";r=0;t=60', "30")
        await trio.sleep(30)
        assert (await once())[0] == 200
        assert (await api.ask("GET", "/v1/stats", headers=bearer(ROOT))).status == 200


async def test_a_websocket_is_refused_before_it_is_opened(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    poor = key(1)
    async with locked(queue, put(poor, Scope.SUBMIT)) as api:
        for path in ("/v1/events", "/v1/tasks/t1/events"):
            for headers, status in (({}, 401), (bearer(key(2)), 401), (bearer(poor), 403)):
                async with websocket(api, path, headers) as socket:
                    assert socket.status == status, path


async def test_what_is_over_the_rate_of_an_address_is_refused(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    rate = Rate(limit=2, period_ms=60_000, burst=2)
    async with open_api(queue, address_rate=rate) as api:

        async def once(path: str, address: str) -> tuple[int, str, str]:
            answer = await ask_from(api, address, path)
            return answer.status, answer.headers.get("ratelimit", ""), answer.headers.get("retry-after", "")

        assert await once("/v1/stats", "203.0.113.9") == (200, '"address";r=1;t=30', "")
        assert await once("/v1/stats", "203.0.113.9") == (200, '"address";r=0;t=60', "")
        assert await once("/v1/stats", "203.0.113.9") == (429, '"address";r=0;t=60', "30")
        assert await once("/livez", "203.0.113.9") == (200, "", "")
        assert (await once("/v1/stats", "203.0.113.10"))[0] == 200
        # An IPv6 network of 64 bits is one client's; the machine's own addresses have no rate.
        statuses = [(await once("/v1/stats", f"2001:db8:0:1::{each}"))[0] for each in range(3)]
        assert statuses == [200, 200, 429]
        assert (await once("/v1/stats", "2001:db8:0:2::1"))[0] == 200
        assert [(await once("/v1/stats", "127.0.0.1"))[0] for _ in range(5)] == [200] * 5


async def test_a_guess_at_keys_from_one_address_holds_up_no_other(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with locked(queue) as api:
        guesses = [await ask_from(api, "203.0.113.9", "/v1/stats", bearer(key(3))) for _ in range(21)]
        assert [answer.status for answer in guesses] == [401] * 20 + [429]
        assert guesses[-1].headers["retry-after"] == "3"
        assert (await ask_from(api, "203.0.113.10", "/v1/stats", bearer(key(3)))).status == 401
        assert (await ask_from(api, "203.0.113.9", "/v1/stats", bearer(ROOT))).status == 200
        await trio.sleep(3)
        assert (await ask_from(api, "203.0.113.9", "/v1/stats")).status == 401


async def ask_from(api: Api, address: str, path: str, headers: dict[str, str] | None = None) -> Answer:
    """What GET *path* from *address* is answered, past the socket, which knows its own addresses only."""
    told = {"host": "localhost"} | (headers or {})
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
        "client": (address, 1234),
        "server": ("127.0.0.1", api.port),
        "extensions": {},
        "state": {},
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await api.app(scope, receive, send)
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], got, b"".join(each.get("body", b"") for each in sent[1:]))


async def test_a_guess_at_tickets_counts_too(queue: TaskQueue, autojump_clock: MockClock) -> None:
    async with locked(queue) as api:
        statuses = [(await api.get(f"/v1/events?ticket={each}")).status for each in range(22)]
        assert statuses == [403] * 20 + [429] * 2


async def test_a_stream_from_before_the_first_key_goes_on(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_api(queue) as api, sse(api, "/v1/events") as stream:
        assert (await stream.next()).event == "opened"
        made = await api.post("/v1/keys", {"scopes": ["admin"]})
        assert (await stream.next()).event == "key.created"
        await api.ask("DELETE", f"/v1/keys/{made.json['id']}", headers=bearer(made.json["key"]))
        assert (await stream.next()).event == "key.revoked"


# Several servers on one store


async def test_what_one_server_does_with_keys_holds_on_all_within_five_seconds(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    store.exclusive = False
    async with open_api(queue, store=store) as here, open_api(TaskQueue(), store=store, seed=1) as there:
        assert (await there.get("/v1/stats")).status == 200
        root = (await here.post("/v1/keys", {"scopes": ["admin", "read"]})).json["key"]
        await trio.sleep(5)
        assert (await there.get("/v1/stats")).status == 401
        assert (await there.ask("GET", "/v1/stats", headers=bearer(root))).status == 200
        made = (await here.post("/v1/keys", {"scopes": ["read"]}, bearer(root))).json
        await trio.sleep(5)
        assert (await there.ask("GET", "/v1/stats", headers=bearer(made["key"]))).status == 200
        async with websocket(there, "/v1/events", bearer(made["key"])) as socket:
            assert (await socket.next()).event == "opened"
            await here.ask("DELETE", f"/v1/keys/{made['id']}", headers=bearer(root))
            with trio.fail_after(5):
                await ended(socket)
            assert socket.code == 1008
        assert (await there.ask("GET", "/v1/stats", headers=bearer(made["key"]))).status == 401


async def test_a_revocation_while_the_store_was_away_holds_within_five_seconds_of_its_return(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    store.exclusive = False
    reader = key(1)
    store.apply([put(ROOT, *KEY_SCOPES), put(reader, Scope.READ)], EPOCH_MS)
    async with open_api(queue, store=store) as api:
        store.failing = StorageUnavailable
        await trio.sleep(300)
        store.failing = None
        store.apply([RevokeKey(reader.id)], EPOCH_MS)
        await trio.sleep(5)
        assert (await api.ask("GET", "/v1/stats", headers=bearer(reader))).status == 401


# How often


async def test_each_server_counts_for_itself(queue: TaskQueue, autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.exclusive = False
    slow = key(1)
    rate = Rate(limit=1, period_ms=60_000, burst=1)
    store.apply([put(ROOT, *KEY_SCOPES), put(slow, Scope.READ, rate=rate)], EPOCH_MS)
    async with open_api(queue, store=store) as here, open_api(TaskQueue(), store=store, seed=1) as there:
        for api in (here, there):
            statuses = [(await api.ask("GET", "/v1/stats", headers=bearer(slow))).status for _ in range(2)]
            assert statuses == [200, 429]


async def test_failures_of_an_address_are_limited_and_good_keys_are_not(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with locked(queue) as api:
        statuses = [(await api.get("/v1/stats")).status for _ in range(22)]
        assert statuses[:20] == [401] * 20
        assert statuses[21] == 429
        assert (await api.ask("GET", "/v1/stats", headers=bearer(ROOT))).status == 200


@pytest.mark.parametrize(("field", "value"), [("scopes", "read"), ("queues", "q")])
async def test_a_key_says_no_more_scopes_and_queues_than_a_hundred(
    field: str, value: str, queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with locked(queue) as api:
        asked = {"scopes": ["read"], field: [value] * 100}
        assert (await api.post("/v1/keys", asked, bearer(ROOT))).status == 201
        refused = await api.post("/v1/keys", asked | {field: [value] * 101}, bearer(ROOT))
        assert (refused.status, refused.json["field"]) == (422, field)
