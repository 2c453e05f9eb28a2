"""Applications that submit in SQL, beside real servers on the same PostgreSQL."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from process import SOON_S, Server
from tiers import slow

pytest_plugins = ("pair_fixture",)


def heard(server: Server, found: list[dict[str, object]], until: threading.Event) -> None:
    """Gather the events of *server*, with their names, until one that is told later comes."""
    connection = server.connect()
    connection.request("GET", "/v1/events")
    answer = connection.getresponse()
    until.set()
    name = ""
    for line in answer:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            found.append({**json.loads(text.removeprefix("data: ")), "name": name})
            if name == "task.submitted" and found[-1].get("task_id") == "last":
                break
    connection.close()


@slow
def test_a_task_begins_when_its_transaction_commits_and_all_who_watch_hear_of_it(
    pair: tuple[Server, Server], postgres_url: str
) -> None:
    one, other = pair
    streams: list[list[dict[str, object]]] = [[], []]
    listeners = []
    for server, found in zip(pair, streams, strict=True):
        begun = threading.Event()
        listeners.append(threading.Thread(target=heard, args=(server, found, begun), daemon=True))
        listeners[-1].start()
        assert begun.wait(SOON_S)

    with psycopg.connect(postgres_url) as db:
        db.execute("SELECT tq.submit_task('elsewhere', '{\"value\": 1}', 'kept')")
        assert one.get("/v1/tasks/kept").status == 404
        db.commit()
        committed_at = time.monotonic()
        assert one.final("kept")["result"] == 2
        assert time.monotonic() - committed_at < SOON_S
        db.execute("SELECT tq.submit_task('elsewhere', '{\"value\": 1}', 'lost')")
        db.rollback()
        db.execute("SELECT tq.submit_task('elsewhere', '{\"value\": 1}', 'put-off', delay => 0.2)")
        db.commit()
        assert one.final("put-off")["result"] == 2
        db.execute("SELECT tq.submit_task('elsewhere', '{\"value\": 1}', 'last')")
        db.commit()

    for listener in listeners:
        listener.join(SOON_S)
        assert not listener.is_alive(), streams
    for found in streams:
        submitted = [each["task_id"] for each in found if each["name"] == "task.submitted"]
        assert submitted == ["kept", "put-off", "last"]
    assert one.get("/v1/tasks/lost").status == 404
    assert other.get("/v1/stats").json["totals"]["submitted"] == 3


@slow
def test_who_submits_an_id_that_a_transaction_holds_is_told_to_come_again_and_nobody_waits_with_them(
    pair: tuple[Server, Server], postgres_url: str
) -> None:
    one, _ = pair
    task = {"type": "elsewhere", "payload": {"value": 1}}
    with psycopg.connect(postgres_url) as db, ThreadPoolExecutor(8) as pool:
        db.execute("SELECT tq.submit_task('elsewhere', '{\"value\": 1}', 'held')")
        asked = [pool.submit(one.post, "/v1/tasks", {**task, "id": name}) for name in ("held", *"abcdef")]
        held, *others = [each.result(SOON_S) for each in asked]
        assert [each.status for each in others] == [201] * 6
        assert (held.status, held.json["code"], held.headers["retry-after"]) == (
            503,
            "storage_unavailable",
            "1",
        )
        assert held.json["detail"].startswith("the id 'held' is in a transaction that has not ended")
        assert one.get("/readyz").status == 200
        db.commit()
    again = one.post("/v1/tasks", {**task, "id": "held"})
    assert (again.status, again.json["id"]) == (200, "held")
    assert one.final("held")["result"] == 2
