"""Two real servers on one PostgreSQL: each does what the other cannot, and hears what the other says."""

from __future__ import annotations

import time

from process import SOON_S, Server
from tiers import slow

pytest_plugins = ("pair_fixture",)


def test_what_is_submitted_on_one_server_runs_where_it_is_handled(pair: tuple[Server, Server]) -> None:
    one, other = pair
    task_id = one.submit("elsewhere", {"value": 1})
    assert one.final(task_id)["result"] == 2
    task_id = other.submit("echo", "there")
    assert other.final(task_id)["result"] == "there"
    known = one.get("/v1/servers").json["servers"]
    assert sorted(len(each["types"]) for each in known)[0] == 2
    assert [each["here"] for each in known].count(True) == 1
    assert [each["leads"] for each in known].count(True) == 1
    unknown = one.post("/v1/tasks", {"type": "nobody"})
    assert (unknown.status, unknown.json["code"]) == (422, "unknown_type")


@slow
def test_a_task_that_runs_on_one_server_is_cancelled_by_the_other(pair: tuple[Server, Server]) -> None:
    one, _ = pair
    task_id = one.submit("forever")
    _wait_running(one, task_id)
    begun = time.monotonic()
    asked = one.post(f"/v1/tasks/{task_id}/cancel?wait=10", {})
    assert asked.json["state"] == "cancelled"
    assert time.monotonic() - begun < SOON_S


@slow
def test_who_watches_on_one_server_sees_what_happens_on_the_other(pair: tuple[Server, Server]) -> None:
    one, _ = pair
    task_id = one.submit("elsewhere", {"value": 1}, delay=1)
    connection = one.connect()
    connection.request("GET", f"/v1/tasks/{task_id}/events")
    stream = connection.getresponse().read().decode()
    connection.close()
    names = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
    assert names[0] == "snapshot"
    assert [name for name in names if name in ("task.started", "attempt.finished", "end")] == [
        "task.started",
        "attempt.finished",
        "end",
    ]


def _wait_running(server: Server, task_id: str) -> None:
    until = time.monotonic() + SOON_S
    while server.task(task_id)["state"] != "running":
        assert time.monotonic() < until, server.task(task_id)
