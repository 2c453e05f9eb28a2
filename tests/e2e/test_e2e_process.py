"""A server as its users have it: a process that is started, asked over HTTP, stopped and started again."""

from __future__ import annotations

import json
import socket
import time

import pytest
from process import JSON_TYPE, NDJSON_TYPE, SHUTDOWN_SLACK_S, Server, Site, ask_on
from tiers import slow

pytest_plugins = ("site_fixture",)

GRACE_S = 2.0


# Submitting, in every way there is


@slow
def test_a_task_of_the_original_client_is_done(site: Site) -> None:
    server = site.start()
    answer = server.post("/submit", {"id": "mine", "type": "shout", "payload": {"text": "hi"}})
    assert (answer.status, answer.json) == (
        200,
        {"message": "Task submitted successfully", "task_id": "mine", "status": "pending"},
    )
    server.final("mine")
    status = server.get("/status/mine").json
    assert (status["success"], status["data"]) == (True, "HI")
    assert server.get("/stats").json == {
        "total_processed": 1,
        "successful": 1,
        "failed": 0,
        "queue_length": 0,
    }
    server.stop()


def test_every_way_of_submitting_leads_to_a_result(site: Site) -> None:
    server = site.start()
    waited = server.post("/v1/tasks", {"type": "echo", "payload": [1]}, {"Prefer": "wait=10"})
    assert (waited.status, waited.json["state"], waited.json["result"]) == (200, "succeeded", [1])
    plain = server.submit("echo", {"a": None})
    batch = server.post("/v1/tasks/batch", [{"type": "echo", "payload": n} for n in range(20)])
    assert batch.status == 201
    lines = b"".join(b'{"type": "echo", "payload": %d}\n' % n for n in range(50))
    streamed = server.ask("POST", "/v1/tasks/batch", lines, NDJSON_TYPE)
    assert streamed.status == 200
    assert server.final(plain)["result"] == {"a": None}
    assert [server.final(each["id"])["result"] for each in batch.json["tasks"]] == list(range(20))
    assert [server.final(each["id"])["result"] for each in streamed.lines] == list(range(50))
    assert server.states() == {"succeeded": 72}
    server.stop()


@slow
def test_a_failure_is_told(site: Site) -> None:
    server = site.start()
    task = server.final(server.submit("fail"))
    assert (task["state"], task["reason"], task["attempt"]) == ("failed", "error", 1)
    assert task["errors"][0]["message"] == "as the test wants it"
    server.stop()


# Stopping in the middle of work


def test_what_ends_within_the_grace_has_succeeded(site: Site) -> None:
    server = site.start(grace=10)
    task_id = server.submit("nap", {"seconds": 1.0})
    server.output.wait("started", task_id)
    told = server.drain()
    assert server.wait_exit(since=told, within_s=10 + SHUTDOWN_SLACK_S) == 0
    assert time.monotonic() - told < 5, "nothing was left to wait for"
    task = site.stored()[task_id]
    assert (task.state, task.result, task.attempt, task.crashes) == ("succeeded", '"rested"', 1, 0)


@slow
def test_what_runs_longer_and_what_waits_is_kept_and_done_after_a_restart(site: Site) -> None:
    server = site.start(workers=2, grace=GRACE_S)
    done = server.post("/v1/tasks", {"type": "echo", "payload": 1}, {"Prefer": "wait=10"}).json["id"]
    failed = server.final(server.submit("fail"))["id"]
    short = server.submit("nap", {"seconds": 0.5})
    long = server.submit("hang_once")
    server.output.wait("started", short)
    server.output.wait("started", long)
    # At once: one after the other they may take longer than the nap.
    batch = server.post("/v1/tasks/batch", [{"type": "echo", "payload": n} for n in range(30)])
    waiting = [stored["id"] for stored in batch.json["tasks"]]
    later = server.submit("echo", "later", delay=3600)

    told = server.drain()
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    stored = site.stored()
    assert {id: stored[id].state for id in (done, failed, short, later)} == {
        done: "succeeded",
        failed: "failed",
        short: "succeeded",
        later: "scheduled",
    }
    given_back = stored[long]
    assert (given_back.state, given_back.attempt, given_back.crashes, given_back.errors) == (
        "pending",
        0,
        0,
        (),
    )
    for task_id in waiting:
        task = stored[task_id]
        assert (task.state, task.attempt, task.crashes) == ("pending", 0, 0)

    server = site.start(workers=2)
    assert server.final(long)["attempt"] == 1
    assert server.final(long)["result"] > 1
    assert [server.final(task_id)["result"] for task_id in waiting] == list(range(30))
    assert server.states() == {"succeeded": 33, "failed": 1, "scheduled": 1}
    server.stop()


@slow
def test_totals_survive_a_restart(site: Site) -> None:
    server = site.start()
    for n in range(3):
        server.final(server.submit("echo", n))
    server.final(server.submit("fail"))
    before = server.get("/stats").json
    assert before == {"total_processed": 4, "successful": 3, "failed": 1, "queue_length": 0}
    server.stop()
    server = site.start()
    assert server.get("/stats").json == before
    server.final(server.submit("echo"))
    assert server.get("/stats").json["total_processed"] == 5
    server.stop()


# Clients while it stops


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def begin_submit(server: Server, sock: socket.socket, body: bytes) -> None:
    """Send the head of a submit of *body*, and see that it has arrived."""
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock.sendall(head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
    assert sock.recv(100).startswith(b"HTTP/1.1 100 ")


@slow
def test_a_submit_on_an_open_connection_is_refused_while_it_stops(site: Site) -> None:
    server = site.start(grace=GRACE_S)
    running = server.submit("nap", {"seconds": 1.0})
    server.output.wait("started", running)
    body = b'{"type": "echo", "id": "too-late"}'
    with server.open_socket() as sock:
        begin_submit(server, sock, body)
        told = server.drain()
        sock.sendall(body)
        head, _, content = read_all(sock).partition(b"\r\n\r\n")
    headers = head.lower().split(b"\r\n")
    assert headers[0] == b"http/1.1 503 "
    assert b"content-type: application/problem+json" in headers
    assert b"retry-after: 1" in headers
    assert b"connection: close" in headers
    assert json.loads(content)["code"] == "shutting_down"
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    assert "too-late" not in site.stored()


@slow
def test_an_upload_under_way_is_told_which_lines_are_stored(site: Site) -> None:
    server = site.start(grace=GRACE_S)
    with server.open_socket() as sock:
        sock.sendall(
            b"POST /v1/tasks/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        line = b'{"type": "echo", "id": "in-time"}\n'
        sock.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        answer = b""
        while b"in-time" not in answer:
            answer += sock.recv(65536)
        told = server.drain()
        answer += read_all(sock)
    assert b'"stopped":true' in answer
    assert b"shutting_down" in answer
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    assert list(site.stored()) == ["in-time"]


@slow
@pytest.mark.parametrize("way", ["get", "prefer"])
def test_a_held_request_is_answered_at_once_when_it_stops(site: Site, way: str) -> None:
    server = site.start(grace=GRACE_S)
    connection = server.connect()
    if way == "get":
        task_id = server.submit("hang")
        server.output.wait("started", task_id)
        assert ask_on(connection, "GET", "/livez").status == 200
        connection.request("GET", f"/v1/tasks/{task_id}?wait=60")
        # Nothing tells that it is held, but what came before this answer was read before it.
        assert server.get("/livez").status == 200
    else:
        task_id = "held"
        body = b'{"type": "hang", "id": "held"}'
        connection.request("POST", "/v1/tasks", body, JSON_TYPE | {"Prefer": "wait=60"})
        server.output.wait("started", task_id)
    told = server.drain()
    response = connection.getresponse()
    task = json.loads(response.read())
    took_s = time.monotonic() - told
    connection.close()
    assert (task["id"], task["state"]) == (task_id, "running")
    assert took_s < 1.0, "well before the grace is over"
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
