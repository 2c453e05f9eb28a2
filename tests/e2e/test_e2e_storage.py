"""A store that is taken, or that cannot be written for a while: never a false success, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from typing import Final

import apsw
from process import NDJSON_TYPE, PATIENCE_S, Answer, Server, Site
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)

CANNOT_OPEN_STORE: Final = 4
REFUSED: Final = {503: "storage_unavailable", 507: "storage_full"}
RESUMED_S: Final = 5.0
"""Services go on this soon after the store is back (design, 5.12)."""
LONG: Final = "x" * 20_000


@contextlib.contextmanager
def full_disk(server: Server, *, at_bytes: int) -> Iterator[None]:
    """No file that *server* writes may grow past *at_bytes* meanwhile: writes fail with EFBIG."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def log_size(site: Site) -> int:
    return (site.folder / "tq.db-wal").stat().st_size


def is_refused(answer: Answer) -> bool:
    """Whether it is a refusal; if so, it must be in due form."""
    if answer.status in (200, 201):
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == REFUSED[answer.status]
    assert int(answer.headers["retry-after"]) >= 1
    return True


def check_file(site: Site) -> None:
    db = apsw.Connection(str(site.db), flags=apsw.SQLITE_OPEN_READONLY)
    assert db.pragma("integrity_check") == "ok"
    db.close()


def test_a_full_disk_refuses_submits_and_loses_nothing(site: Site) -> None:
    server = site.start()
    kept = [server.submit("echo", n, delay=3600) for n in range(20)]
    refused: list[str] = []
    with full_disk(server, at_bytes=log_size(site) + 100_000):
        for n in range(30):
            task_id = f"full-{n}"
            task = {"type": "echo", "id": task_id, "payload": LONG, "delay": 3600}
            (refused if is_refused(server.post("/v1/tasks", task)) else kept).append(task_id)
        assert len(refused) > 10
        assert all(is_refused(server.post("/submit", {"type": "echo", "payload": LONG})) for _ in range(3))
        batch = [{"type": "echo", "id": f"batch-{n}", "payload": LONG} for n in range(10)]
        assert is_refused(server.post("/v1/tasks/batch", batch))
        lines = b"".join(json.dumps(task | {"id": f"line-{task['id']}"}).encode() + b"\n" for task in batch)
        assert is_refused(server.ask("POST", "/v1/tasks/batch", lines, NDJSON_TYPE))
        assert server.get("/livez").status == 200
        assert server.get("/readyz").status == 503
        assert all(server.task(task_id)["state"] == "scheduled" for task_id in kept), "reading goes on"
    # It goes on by itself as soon as there is room, and what was refused can be said again.
    assert not is_refused(server.post("/v1/tasks", {"type": "echo", "id": refused[0], "delay": 3600}))
    assert server.get("/readyz").status == 200
    server.kill()

    server = site.start()
    assert server.states() == {"scheduled": len(kept) + 1}
    server.stop()
    check_file(site)
    assert site.stored().keys() == {*kept, refused[0]}


def test_what_ran_while_the_disk_was_full_is_recorded_once_there_is_room(site: Site) -> None:
    server = site.start()
    task_id = server.submit("nap", {"seconds": 0.5})
    server.output.wait("started", task_id)
    with full_disk(server, at_bytes=0):
        server.output.wait("storage.unavailable")
        assert server.task(task_id)["state"] == "running", "its end is not stored, so it is not told"
    back = time.monotonic()
    task = server.final(task_id)
    assert time.monotonic() - back < RESUMED_S
    assert (task["state"], task["attempt"], task["crashes"]) == ("succeeded", 1, 0)
    server.output.wait("storage.restored")
    assert server.final(server.submit("echo", 1))["result"] == 1
    server.stop()


def test_it_stops_in_time_while_the_disk_is_full(site: Site) -> None:
    server = site.start(grace=1)
    running = server.submit("hang_once")
    server.output.wait("started", running)
    waiting = server.submit("echo", "kept", delay=3600)
    with full_disk(server, at_bytes=0):
        assert is_refused(server.post("/v1/tasks", {"type": "echo"}))
        told = server.drain()
        assert server.wait_exit(since=told, within_s=6.0) == 0
    server = site.start()
    assert server.final(running)["state"] == "succeeded"
    assert server.task(waiting)["state"] == "scheduled"
    server.stop()
    check_file(site)


def test_a_second_server_on_the_same_file_is_refused(site: Site) -> None:
    first = site.start()
    second = site.spawn()
    assert second.process.wait(PATIENCE_S) == CANNOT_OPEN_STORE
    (line,) = second.output.text().splitlines()
    assert line.startswith("tq: ")
    assert str(site.db) in line
    assert f"in use by process {first.process.pid}" in line
    assert first.final(first.submit("echo", 1))["result"] == 1, "the first is not disturbed"
    first.stop()
