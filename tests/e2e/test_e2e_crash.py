"""SIGKILL at random moments while clients submit and watch: what was acknowledged holds.

TQ_CRASH_CYCLES says how many kills, TQ_CRASH_SEED when they come (the threads keep their own time, so a
seed brings back the plan, not the run).
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw
import pytest
from process import JSON_TYPE, NDJSON_TYPE, PATIENCE_S, Answer, Server, Site, ask_on, wait_until
from tiers import tiered

from tq.core.task import CRASHES_MAX, FINAL, Reason, State, Task

pytest_plugins = ("site_fixture",)

FEW_CYCLES: Final = 2
CYCLES: Final = int(os.environ.get("TQ_CRASH_CYCLES", "30"))
SEED: Final = int(os.environ.get("TQ_CRASH_SEED", "1"))
LIFE_MAX_S: Final = 0.3
"""The longest that a server lives once it listens."""
START_KILLED: Final = 0.2
"""Share of the servers that are killed while they start."""
START_MAX_S: Final = 0.1
TYPES: Final = ("quick",) * 12 + ("thread",) * 2 + ("second_try",) * 2 + ("slow",)
BATCH: Final = 8
LINES: Final = 25
ABANDONED: Final = 0.5
"""Share of the batches that are not repeated after their connection broke."""


class Journal:
    """What the clients know. `acknowledged`: ids of tasks whose submit was answered with a 2xx.

    `seen_final`: for each id that a reply called final, how long the file of runs was when it had been read.
    `abandoned`: batches of which nobody knows whether they are stored.
    """

    def __init__(self, runs: Path) -> None:
        self.acknowledged: set[str] = set()
        self.seen_final: dict[str, int] = {}
        self.abandoned: list[list[str]] = []
        self.problems: list[str] = []
        self._runs = runs
        self._guard = threading.Lock()

    def acknowledge(self, *ids: str) -> None:
        with self._guard:
            self.acknowledged.update(ids)

    def note(self, task: dict[str, Any]) -> None:
        """A reply said that *task* is in its state."""
        if task["state"] in FINAL:
            size = self._runs.stat().st_size
            with self._guard:
                self.seen_final.setdefault(task["id"], size)

    def abandon(self, ids: list[str]) -> None:
        with self._guard:
            self.abandoned.append(ids)

    def complain(self, problem: str) -> None:
        with self._guard:
            self.problems.append(problem)

    def unseen(self, random: Random) -> str | None:
        """An acknowledged task whose end has not been seen."""
        with self._guard:
            waiting = sorted(self.acknowledged - self.seen_final.keys())
        return random.choice(waiting) if waiting else None


class Place:
    """Where the server is now; clients wait here while there is none."""

    def __init__(self) -> None:
        self._port: int | None = None
        self._changed = threading.Condition()
        self.closing = threading.Event()
        """No new requests: only what was begun is brought to its end."""

    def move(self, port: int | None) -> None:
        with self._changed:
            self._port = port
            self._changed.notify_all()

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the server; waits for one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._port is not None, PATIENCE_S):
                raise AssertionError("no server came back")
            port = self._port
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def rest(self) -> None:
        """Wait a little: the server has just gone, and may not have been taken off this place yet."""
        self.closing.wait(0.02)


class Client:
    """One thread that repeats what it does until `Place.closing`, each request until it is answered."""

    def __init__(self, name: str, place: Place, journal: Journal, seed: str) -> None:
        self._name = name
        self._place = place
        self._journal = journal
        self._random = Random(seed)
        self._count = 0
        self._connection: http.client.HTTPConnection | None = None

    def run(self, once: Callable[[Client], None]) -> None:
        try:
            while not self._place.closing.is_set():
                once(self)
        except Exception as error:
            self._journal.complain(f"{self._name}: {error!r}")
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _until_answered(self, ask: Callable[[http.client.HTTPConnection], None]) -> None:
        """Call *ask* again after each connection that broke, as a careful client does."""
        while not self._is_answered(ask):
            self._place.rest()

    def _is_answered(self, ask: Callable[[http.client.HTTPConnection], None]) -> bool:
        """Call *ask* once; False if the connection broke."""
        try:
            self._connection = self._connection or self._place.connect()
            ask(self._connection)
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return False
        return True

    def _new(self, count: int) -> list[dict[str, Any]]:
        self._count += count
        return [
            {"id": f"{self._name}-{n}", "type": self._random.choice(TYPES)}
            for n in range(self._count - count, self._count)
        ]

    def _check(self, answer: Answer, *allowed: int) -> Answer:
        if answer.status not in allowed:
            raise AssertionError(f"{answer.status} {answer.body!r}")
        return answer

    # What clients do

    def submit_and_wait(self) -> None:
        """Ahead of all others, so that its end is seen the moment it comes: the one a kill may undo."""
        (task,) = self._new(1)
        body = json.dumps(task | {"priority": "critical"}).encode()

        def ask(connection: http.client.HTTPConnection) -> None:
            answer = ask_on(connection, "POST", "/v1/tasks", body, JSON_TYPE | {"Prefer": "wait=1"})
            reply = self._check(answer, 200, 201).json
            self._journal.acknowledge(reply["id"])
            self._journal.note(reply)

        self._until_answered(ask)

    def submit_as_the_original(self) -> None:
        (task,) = self._new(1)
        body = json.dumps(task | {"payload": {}}).encode()

        def ask(connection: http.client.HTTPConnection) -> None:
            answer = ask_on(connection, "POST", "/submit", body, JSON_TYPE)
            self._journal.acknowledge(self._check(answer, 200).json["task_id"])

        self._until_answered(ask)

    def submit_one(self) -> None:
        (task,) = self._new(1)

        def ask(connection: http.client.HTTPConnection) -> None:
            answer = ask_on(connection, "POST", "/v1/tasks", json.dumps(task).encode(), JSON_TYPE)
            self._journal.acknowledge(self._check(answer, 200, 201).json["id"])

        self._until_answered(ask)

    def submit_batch(self) -> None:
        """All are stored or none: what is abandoned tells, because nothing completes it later."""
        tasks = self._new(BATCH)
        ids = [task["id"] for task in tasks]

        def ask(connection: http.client.HTTPConnection) -> None:
            answer = ask_on(connection, "POST", "/v1/tasks/batch", json.dumps(tasks).encode(), JSON_TYPE)
            self._check(answer, 200, 201)
            self._journal.acknowledge(*ids)

        if not self._is_answered(ask):
            if self._random.random() < ABANDONED:
                self._journal.abandon(ids)
            else:
                self._until_answered(ask)

    def submit_lines(self) -> None:
        """Each answer counts as soon as its line is here, even if the rest never comes."""
        tasks = self._new(LINES)

        def ask(connection: http.client.HTTPConnection) -> None:
            body = b"\n".join(json.dumps(task).encode() for task in tasks)
            connection.request("POST", "/v1/tasks/batch", body, NDJSON_TYPE)
            response = connection.getresponse()
            for task in tasks:
                line = response.readline()
                if not line.endswith(b"\n"):
                    raise http.client.IncompleteRead(line)
                reply = json.loads(line)
                if reply.get("id") != task["id"]:
                    raise AssertionError(f"{response.status} {line!r}")
                self._journal.acknowledge(reply["id"])
            if response.read():
                raise AssertionError("more answers than lines")

        self._until_answered(ask)

    def watch_one(self) -> None:
        task_id = self._journal.unseen(self._random)
        if task_id is None:
            self._place.rest()
            return

        def ask(connection: http.client.HTTPConnection) -> None:
            answer = ask_on(connection, "GET", f"/v1/tasks/{task_id}?wait=0.2")
            self._journal.note(self._check(answer, 200).json)

        self._until_answered(ask)


ROLES: Final[dict[str, Callable[[Client], None]]] = {
    "wait-1": Client.submit_and_wait,
    "wait-2": Client.submit_and_wait,
    "wait-3": Client.submit_and_wait,
    "one": Client.submit_one,
    "old": Client.submit_as_the_original,
    "batch": Client.submit_batch,
    "lines": Client.submit_lines,
    "watch": Client.watch_one,
}


@contextmanager
def clients(place: Place, journal: Journal) -> Iterator[None]:
    """Let all of them work; at the end, what each has begun is answered."""
    threads = [
        threading.Thread(target=Client(name, place, journal, f"{SEED} {name}").run, args=(role,), daemon=True)
        for name, role in ROLES.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        place.closing.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "a client is still waiting"


class Standby:
    """The next server of *site*: started ahead, so that only a moment is lost at each restart."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._next = self._spawn()

    def _spawn(self) -> Server:
        return self._site.spawn("crash_app:app", log_level="warning")

    def go(self) -> Server:
        """The server, on its way to listening."""
        server, self._next = self._next, self._spawn()
        assert server.process.stdin is not None
        server.process.stdin.write("\n")
        server.process.stdin.flush()
        return server


def kill_again_and_again(standby: Standby, place: Place, random: Random, cycles: int) -> None:
    for _ in range(cycles):
        server = standby.go()
        if random.random() < START_KILLED:
            time.sleep(random.uniform(0, START_MAX_S))
        else:
            server.wait_listening()
            place.move(server.port)
            time.sleep(random.uniform(0, LIFE_MAX_S))
        assert server.process.poll() is None, f"it ended by itself:\n{server.output.text()}"
        server.kill()
        place.move(None)


def wait_drained(server: Server) -> None:
    """Return when nothing is left to do."""
    wait_until(lambda: server.states().keys() <= FINAL, lambda: f"left: {server.states()}", every_s=0.05)


def read_runs(path: Path) -> list[tuple[int, str, int]]:
    """Every run, in order: where its line begins, of which task, with which generation."""
    runs, position = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        task_id, generation = line.decode().split()
        runs.append((position, task_id, int(generation)))
        position += len(line)
    return runs


@pytest.mark.timeout(60 + 3 * CYCLES)
@pytest.mark.parametrize("cycles", tiered([FEW_CYCLES, CYCLES]))
def test_nothing_acknowledged_is_lost_or_undone_by_kills(site: Site, cycles: int) -> None:
    random = Random(SEED)
    runs_file = site.folder / "runs"
    runs_file.touch()
    journal, place, standby = Journal(runs_file), Place(), Standby(site)
    with clients(place, journal):
        kill_again_and_again(standby, place, random, cycles)
        server = standby.go()
        server.wait_listening()
        place.move(server.port)
    wait_drained(server)
    server.kill()

    # All is final now: one more start runs what is new and nothing else.
    size = runs_file.stat().st_size
    server = standby.go()
    server.wait_listening()
    last = server.final(server.submit("quick", id="last"))
    journal.acknowledge(last["id"])
    server.stop()
    assert [task_id for at, task_id, _ in read_runs(runs_file) if at >= size] == ["last"]

    check_all(site, journal, read_runs(runs_file), cycles)


def check_all(site: Site, journal: Journal, runs: Sequence[tuple[int, str, int]], cycles: int) -> None:
    told = f"TQ_CRASH_SEED={SEED} TQ_CRASH_CYCLES={cycles}"
    snapshot = site.snapshot()
    tasks: dict[str, Task] = {task.id: task for task in snapshot.tasks}
    generations: dict[str, list[int]] = {}
    for _, task_id, generation in runs:
        generations.setdefault(task_id, []).append(generation)

    assert journal.problems == [], told
    assert journal.acknowledged - tasks.keys() == set(), f"acknowledged and lost: {told}"
    unsure = {task_id for batch in journal.abandoned for task_id in batch}
    assert tasks.keys() - journal.acknowledged <= unsure, f"never asked for: {told}"
    for batch in journal.abandoned:
        assert sum(task_id in tasks for task_id in batch) in (0, BATCH), f"half a batch, {batch}: {told}"
    assert [task for task in tasks.values() if task.state not in FINAL] == [], f"not final: {told}"

    again = [task_id for at, task_id, _ in runs if at >= journal.seen_final.get(task_id, at + 1)]
    assert again == [], f"ran after it was seen final: {told}"
    for task_id, numbers in generations.items():
        assert all(a < b for a, b in itertools.pairwise(numbers)), f"{task_id} {numbers} {told}"
    for task in tasks.values():
        check_task(task, generations.get(task.id, []), told)

    states = Counter(task.state for task in tasks.values())
    stats = snapshot.stats
    totals = (stats.submitted, stats.succeeded, stats.failed, stats.cancelled)
    assert totals == (len(tasks), states[State.SUCCEEDED], states[State.FAILED], 0), told
    assert {state: stats.count(state) for state in states} == states, told
    assert len(journal.seen_final) > cycles, f"the clients saw too little for a test: {told}"
    db = apsw.Connection(str(site.db), flags=apsw.SQLITE_OPEN_READONLY)
    assert db.pragma("integrity_check") == "ok", told
    db.close()


def check_task(task: Task, generations: list[int], told: str) -> None:
    """What a final task says of itself agrees with how often it was run."""
    # A lease may be lost before its handler has begun.
    assert len(generations) <= task.attempt + task.crashes, f"{task} {generations} {told}"
    assert task.crashes <= CRASHES_MAX, f"{task} {told}"
    if task.state is State.SUCCEEDED:
        assert generations, f"{task} succeeded unrun: {told}"
        assert generations[-1] == task.generation, f"{task} {generations} {told}"
        assert task.attempt == (2 if task.type == "second_try" else 1), f"{task} {told}"
    else:
        assert (task.state, task.reason, task.crashes) == (State.FAILED, Reason.POISON, CRASHES_MAX), told
