"""Killed with work in every state, and started again: each task goes on from where it was."""

from __future__ import annotations

from process import Server, Site, wait_until
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)

HOUR_S = 3600


def shown(server: Server, task_id: str) -> dict[str, object]:
    """A task without what only its own server knows."""
    task = server.task(task_id)
    return {name: value for name, value in task.items() if name not in ("worker", "started_at")}


def test_a_killed_server_goes_on_with_tasks_in_every_state(site: Site) -> None:
    server = site.start(workers=1)
    succeeded = server.submit("echo", {"kept": True})
    server.final(succeeded)
    failed = server.submit("fail")
    server.final(failed)
    retrying = server.submit("fail_for_now")
    server.output.wait("attempt.finished", retrying, '"state":"retrying"')
    scheduled = server.submit("echo", "later", delay=HOUR_S)
    soon = server.submit("echo", "soon", delay=2)
    running = server.submit("hang_once")
    server.output.wait("started", running)
    pending = [server.submit("echo", n) for n in range(10)]
    states = {"succeeded": 1, "failed": 1, "retrying": 1, "scheduled": 2, "running": 1, "pending": 10}
    # Short tasks are claimed a little ahead, and given back when one turns out to be long.
    wait_until(lambda: server.states() == states, lambda: f"{server.states()} is not {states}")
    untouched = (succeeded, failed, retrying, scheduled)
    before = {task_id: shown(server, task_id) for task_id in untouched}
    totals = server.get("/v1/stats").json["totals"]
    server.kill()

    server = site.start(workers=1)
    server.output.wait("lease.expired", '"pending":1')
    recovered = server.final(running)
    assert (recovered["state"], recovered["attempt"], recovered["crashes"]) == ("succeeded", 1, 1)
    assert [(error["attempt"], error["reason"]) for error in recovered["errors"]] == [(1, "interrupted")]
    assert [server.final(task_id)["result"] for task_id in pending] == list(range(10))
    assert all(server.task(task_id)["crashes"] == 0 for task_id in pending)
    assert server.final(soon)["result"] == "soon"
    assert {task_id: shown(server, task_id) for task_id in untouched} == before
    assert server.get("/v1/stats").json["totals"] == totals | {"succeeded": totals["succeeded"] + 12}
    assert server.states() == {"succeeded": 13, "failed": 1, "retrying": 1, "scheduled": 1}
    server.stop()


def test_a_task_under_which_three_servers_died_has_failed(site: Site) -> None:
    server = site.start()
    task_id = server.submit("hang")
    for crashes in range(3):
        server.output.wait("started", task_id)
        assert server.task(task_id)["crashes"] == crashes
        server.kill()
        server = site.start()
    task = server.task(task_id)
    assert (task["state"], task["reason"], task["crashes"], task["attempt"]) == ("failed", "poison", 3, 0)
    assert [error["reason"] for error in task["errors"]] == ["interrupted"] * 3
    assert server.get("/stats").json == {
        "total_processed": 1,
        "successful": 0,
        "failed": 1,
        "queue_length": 0,
    }
    assert server.get(f"/status/{task_id}").json["success"] is False
    server.stop()


def test_orderly_stops_are_no_crashes(site: Site) -> None:
    server = site.start(grace=0)
    task_id = server.submit("hang")
    for _ in range(4):
        server.output.wait("started", task_id)
        assert (server.task(task_id)["crashes"], server.task(task_id)["attempt"]) == (0, 1)
        server.stop()
        server = site.start(grace=0)
    server.output.wait("started", task_id)
    server.stop()
