"""No payload, no result, no error, no key of anybody is in the log, whatever is asked of the server."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import urlencode

from process import JSON_TYPE, NDJSON_TYPE, Server, Site, wait_until
from tiers import slow

from tq.api.route import Route
from tq.api.routes import ROUTES

pytestmark = slow

pytest_plugins = ("site_fixture",)

CANARY: Final = "canary-7f3a9c51"
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRETIVE: Final = {
    "authorization": f"Bearer {CANARY}",
    "idempotency-key": f'"{CANARY}"',
    "cookie": f"session={CANARY}",
    "last-event-id": CANARY,
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
}
ENDLESS: Final = ("/v1/events", "/v1/tasks/{id}/events")
"""Streams, which are asked for with a query that is refused."""


def fly(server: Server) -> None:
    """Have tasks with the canary wherever a user may put a word, in each way that they can end."""
    payload = {"secret": CANARY}
    # First, since its process takes longest to start.
    apart = server.submit("tell_apart", payload)
    kept = server.post("/v1/tasks", {"id": "kept", "type": "keep", "payload": payload}, SECRETIVE)
    assert kept.status == 201
    assert server.final("kept")["result"] == CANARY
    assert server.final(server.submit("tell", payload))["errors"][0]["message"] == CANARY
    assert server.post("/v1/tasks", {"type": "keep", "payload": CANARY}).status == 422
    lines = json.dumps({"type": "keep", "payload": payload}) + "\n" + CANARY + "\n"
    assert server.ask("POST", "/v1/tasks/batch", lines.encode(), NDJSON_TYPE).status == 200
    schedule = {"every": 3600, "type": "keep", "payload": payload}
    put = server.ask("PUT", "/v1/schedules/hourly", json.dumps(schedule).encode(), JSON_TYPE)
    assert put.status == 201
    ran = server.post("/v1/schedules/hourly/run", {})
    assert server.final(ran.json["id"])["result"] == CANARY
    wait_until(lambda: server.task(apart)["state"] == "failed", lambda: "it goes on")
    assert server.task(apart)["errors"][0]["message"] == CANARY


def ask_everything(server: Server, route: Route, task_id: str) -> None:
    """Ask for *route* with the canary in its query, its headers and bodies that it takes and does not."""
    path = route.path.replace("*", "").replace("{id}", task_id).replace("{queue}", "default")
    path = path.replace("{name}", "hourly").replace("{key_id}", "nobodyknowsthis1")
    queries = [
        urlencode({"canary": CANARY}),
        urlencode({"where": f"payload.secret:{CANARY}", "ticket": CANARY}),
    ]
    if route.path not in ENDLESS:
        queries.append("")
    for query in queries:
        for body in (json.dumps({"secret": CANARY}).encode(), json.dumps(CANARY).encode(), CANARY.encode()):
            sent = body if route.bodies else None
            server.ask(route.method, f"{path}?{query}", sent, JSON_TYPE | SECRETIVE)


def test_no_log_tells_what_users_keep_to_themselves(site: Site) -> None:
    server = site.start("canary_app:app", log_level="debug", access_log="on")
    fly(server)
    for route in ROUTES:
        ask_everything(server, route, "kept" if route.method == "GET" else "nobody")
    with server.open_socket() as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nhost: x\r\nx-{CANARY}\r\n\r\n".encode())
        sock.recv(4096)
    server.stop()
    text = server.output.text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    told = {line["event"] for line in lines}
    assert told >= {"task.submitted", "task.started", "attempt.finished", "schedule.changed", "http.answered"}
    routes = {(line["method"], line.get("route")) for line in lines if line["event"] == "http.answered"}
    assert {(route.method, route.path) for route in ROUTES} <= routes
    assert not [line for line in text.splitlines() if CANARY in line]


def test_what_is_told_of_a_task_names_its_trace(site: Site) -> None:
    server = site.start("canary_app:app", log_level="debug")
    server.post("/v1/tasks", {"id": "kept", "type": "keep", "payload": {"secret": CANARY}}, SECRETIVE)
    server.final("kept")
    server.stop()
    lines = [json.loads(line) for line in server.output.text().splitlines() if line.startswith("{")]
    assert [(line["event"], line["trace_id"]) for line in lines if line.get("task_id") == "kept"] == [
        ("task.submitted", TRACE),
        ("task.started", TRACE),
        ("attempt.finished", TRACE),
    ]
