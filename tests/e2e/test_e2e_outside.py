"""What `tq serve` does for who is outside: its access log, its root path, how many it lets in."""

from __future__ import annotations

import json
import resource

from process import Site
from tiers import slow

pytest_plugins = ("site_fixture",)

SECRET = "canary-9d1f"


def test_each_request_is_a_line_on_stderr_and_tells_no_secret(site: Site) -> None:
    server = site.start(access_log="on", host="tasks.example.org")
    asked = {
        "Host": "tasks.example.org",
        "Authorization": f"Bearer {SECRET}",
        "Cookie": SECRET,
        "X-Request-Id": "mine",
        "Content-Type": "application/json",
    }
    body = json.dumps({"type": "echo", "payload": SECRET, "delay": 60, "key": SECRET}).encode()
    answer = server.ask("POST", "/v1/tasks", body, asked)
    assert (answer.status, answer.headers["x-request-id"]) == (201, "mine")
    line = json.loads(server.output.wait("http.answered", '"mine"'))
    took_ms = line.pop("duration_ms")
    assert 0 < took_ms < 20_000
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "event": "http.answered",
        "method": "POST",
        "route": "/v1/tasks",
        "status": 201,
        "sent_bytes": len(answer.body),
        "complete": True,
        "request_id": "mine",
    }
    server.ask("GET", f"/v1/tasks?error={SECRET}", headers={"X-Request-Id": "second"})
    server.output.wait("http.answered", '"second"')
    server.stop()
    assert SECRET not in server.output.text()


@slow
def test_without_the_flag_no_request_is_a_line(site: Site) -> None:
    server = site.start()
    assert server.get("/livez").status == 200
    server.stop()
    assert "http.answered" not in server.output.text()


@slow
def test_below_the_root_path_alone_it_answers(site: Site) -> None:
    server = site.spawn(root_path="/tq")
    first = server.output.wait("listening on http://127.0.0.1:")
    assert first.endswith("/tq")
    server.port = int(first.removesuffix("/tq").rpartition(":")[2])
    answer = server.post("/tq/v1/tasks", {"type": "echo", "delay": 60})
    assert (answer.status, answer.headers["location"]) == (201, f"/tq/v1/tasks/{answer.json['id']}")
    assert server.get(answer.headers["location"]).json["state"] == "scheduled"
    assert server.get("/v1/stats").status == 404


@slow
def test_it_may_open_as_many_files_as_the_system_allows(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = site.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert hard > 256
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
