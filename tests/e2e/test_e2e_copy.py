"""A queue that moves to PostgreSQL by ``tq db copy``: real servers before and after, and kills between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from process import Server, Site, wait_until
from tiers import slow, tiered

from tq.core import ops
from tq.core.task import Json, NewTask, TaskId
from tq.storage.sqlite import SqliteStore

pytest_plugins = ("site_fixture", "postgres_fixtures")

NOW = 1_700_000_000_000
MANY = 20_000


# As from a terminal, even if whoever runs the tests ignores signals.
BEGIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_{hang_up})
from tq.cli.main import main
main()
"""


def tq_db(*args: str, cwd: Path, hang_up: str = "DFL") -> subprocess.Popen[str]:
    """``tq db`` *args*, begun."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(hang_up=hang_up), "db", *args],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def seen(server: Server, ids: list[str]) -> dict[str, Any]:
    """What a client sees of the queue."""
    found: dict[str, Any] = {task_id: server.task(task_id) for task_id in ids}
    found |= {f"status {task_id}": server.get(f"/status/{task_id}").json for task_id in ids}
    found["stats"] = server.get("/v1/stats").json
    found["schedules"] = server.get("/v1/schedules").json
    found["queues"] = server.get("/v1/queues").json
    found["failures"] = server.get("/v1/failures").json
    return found


@slow
def test_a_queue_moves_to_postgres_with_all_it_has(site: Site, postgres_url: str) -> None:
    server = site.start(grace=0)
    done = server.submit("echo", {"text": "ñ " + "x" * 3_000}, tags=["red"])
    failed = server.submit("fail")
    retrying = server.submit("fail_for_now")
    running = server.submit("hang_once")
    server.output.wait(f"started {running}")
    for task_id in (done, failed):
        server.final(task_id)
    wait_until(lambda: bool(server.task(retrying)["state"] == "retrying"), lambda: str(server.task(retrying)))
    assert server.post("/v1/queues/later/pause", {}).status == 200
    paused = server.submit("echo", 1, queue="later")
    blocked = server.submit("echo", 2, depends_on=[paused])
    child = server.submit("echo", 3, queue="later", parent_id=done)
    delayed = server.submit("echo", 4, delay=3600)
    cancelled = server.submit("echo", 5, queue="later")
    assert server.post(f"/v1/tasks/{cancelled}/cancel", {}).status == 200
    assert server.ask(
        "PUT",
        "/v1/schedules/nightly",
        json.dumps({"cron": "0 3 * * *", "type": "echo", "payload": 6}).encode(),
        {"Content-Type": "application/json"},
    ).status in (200, 201)
    once = {"Idempotency-Key": "k1"}
    again = server.post("/v1/tasks", {"type": "echo", "payload": 7, "queue": "later"}, once).json["id"]
    ids = [done, failed, retrying, paused, blocked, child, delayed, cancelled, again]
    before = seen(server, ids)
    # As a server dies: what runs is still said to run.
    server.kill()

    code, out, err = ended(tq_db("copy", f"sqlite:///{site.db}", postgres_url, "--json", cwd=site.folder))
    assert code == 0, err
    counts = {each["what"]: (each["source"], each["target"]) for each in json.loads(out)["counts"]}
    assert counts["tasks"] == (10, 10)
    assert counts["tasks running"] == (1, 1)
    code, out, err = ended(tq_db("check", "--store", postgres_url, cwd=site.folder))
    assert code == 0, out + err

    server = site.start(store=postgres_url, grace=1)
    after = seen(server, ids)
    ran = server.final(running)
    assert (ran["result"], ran["attempt"], ran["crashes"]) == (2, 1, 1)
    for each in (before, after):
        # What ran may have been taken back by now.
        for state in ("running", "pending", "succeeded"):
            each["stats"]["states"].pop(state, None)
        each["stats"] = {name: each["stats"][name] for name in ("states", "totals")}
        each["stats"]["totals"].pop("succeeded")
        each["queues"] = [each for each in each["queues"]["queues"] if each["queue"] == "later"]
    assert after == before
    assert (
        server.post("/v1/tasks", {"type": "echo", "payload": 7, "queue": "later"}, once).json["id"] == again
    )
    assert server.post("/v1/queues/later/resume", {}).status == 200
    assert [server.final(task_id)["result"] for task_id in (paused, blocked, child, again)] == [1, 2, 3, 7]
    server.stop()


def test_a_queue_moves_back_once_its_server_has_stopped(site: Site, postgres_url: str) -> None:
    server = site.start(store=postgres_url, grace=1)
    done = server.submit("echo", 1)
    assert server.final(done)["result"] == 1
    delayed = server.submit("echo", 2, delay=3600)
    args = ("copy", postgres_url, f"sqlite:///{site.db}")
    code, _, err = ended(tq_db(*args, cwd=site.folder))
    assert (code, f"in use by process {server.process.pid} on" in err) == (4, True), err
    server.stop()
    code, _, err = ended(tq_db(*args, cwd=site.folder))
    assert code == 0, err
    stored = site.stored()
    assert (stored[done].result, stored[delayed].state.value) == ("1", "scheduled")


def fill(path: Path, count: int) -> None:
    store = SqliteStore(path, durable=False)
    for at in range(0, count, 1_000):
        many = tuple(
            NewTask(
                id=TaskId(f"t{n}"),
                type="echo",
                queue="default",
                payload=Json(f'"{"x" * 500}"'),
                priority=0,
                run_at=NOW,
                timeout_ms=5_000,
                max_attempts=3,
            )
            for n in range(at, at + 1_000)
        )
        store.apply([ops.SubmitMany(many)], NOW)
    store.close()


def stored(url: str) -> int:
    with psycopg.connect(url) as db:
        [(count,)] = db.execute("SELECT count(*) FROM tq.tasks").fetchall()
    return int(count)


def schemas(url: str) -> list[str]:
    """Those that are there. A copy that is lost is rolled back a moment later: it is waited for."""
    lost = (
        "SELECT 1 FROM pg_stat_activity"
        " WHERE application_name = 'tq db copy' AND datname = current_database()"
    )
    with psycopg.connect(url, autocommit=True) as db:
        wait_until(lambda: not db.execute(lost).fetchall(), lambda: "its connection is still there")
        found = db.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'tq'").fetchall()
    return [name for (name,) in found]


def is_copying(url: str) -> bool:
    """Whether a copy has begun to write tasks."""
    with psycopg.connect(url) as db:
        found = db.execute(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY lives%' AND datname = current_database()"
        ).fetchall()
    return bool(found)


@slow
@pytest.mark.parametrize("number", tiered([signal.SIGKILL, signal.SIGINT, signal.SIGTERM], quick=2))
def test_a_copy_into_a_database_that_is_ended_leaves_nothing_and_can_be_run_again(
    site: Site, postgres_url: str, number: signal.Signals
) -> None:
    fill(site.db, MANY)
    args = ("copy", f"sqlite:///{site.db}", postgres_url)
    process = tq_db(*args, cwd=site.folder)
    wait_until(lambda: is_copying(postgres_url), lambda: "it did not begin", every_s=0.005)
    process.send_signal(number)
    assert ended(process)[0] == (-number if number == signal.SIGKILL else 130)
    assert schemas(postgres_url) == []
    begun = time.monotonic()
    code, out, err = ended(tq_db(*args, cwd=site.folder))
    assert code == 0, err
    assert "tasks pending\t20000\t20000\n" in out
    assert stored(postgres_url) == MANY
    assert time.monotonic() - begun < 60


@slow
@pytest.mark.parametrize("number", tiered([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
def test_a_copy_into_a_file_that_is_ended_leaves_nothing(site: Site, number: signal.Signals) -> None:
    fill(site.db, MANY)
    folder = site.folder / "target"
    folder.mkdir()
    process = tq_db("copy", f"sqlite:///{site.db}", f"sqlite:///{folder}/tq.db", cwd=site.folder)
    log = folder / "tq.db-wal"
    wait_until(lambda: log.exists() and log.stat().st_size > 0, lambda: "it did not begin", every_s=0.005)
    process.send_signal(number)
    assert ended(process)[0] == 130
    assert list(folder.iterdir()) == []


@slow
def test_a_copy_under_nohup_outlives_its_terminal(site: Site) -> None:
    fill(site.db, MANY)
    target = site.folder / "target.db"
    process = tq_db("copy", f"sqlite:///{site.db}", f"sqlite:///{target}", cwd=site.folder, hang_up="IGN")
    wait_until(target.exists, lambda: "it did not begin", every_s=0.005)
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 0


@pytest.mark.parametrize("bytes_free", tiered([600_000, 1, 5_000, 100_000]))
def test_a_full_disk_leaves_nothing_of_a_copy(site: Site, bytes_free: int) -> None:
    fill(site.db, 2_000)
    folder = site.folder / "target"
    folder.mkdir()
    target = folder / "tq.db"
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_free}, {bytes_free}));"
        "from tq.cli.main import main; sys.argv[0] = 'tq'; main()"
    )
    args = ["db", "copy", f"sqlite:///{site.db}", f"sqlite:///{target}"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *args], cwd=site.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done
    assert done.stderr.startswith("tq: "), done.stderr
    assert list(folder.iterdir()) == []
    code, _, err = ended(tq_db(*args[1:], cwd=site.folder))
    assert code == 0, err
