"""A PostgreSQL of our own, servers on it, each by its own way, and what must hold whatever befalls them."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
from fault_load import Journal, Ports, load
from fault_proxy import Proxy
from process import PATIENCE_S, Server, Site, wait_until

from tq.core.queries import LaneCount, Stats
from tq.core.task import FINAL, State, Task
from tq.storage.postgres import PostgresStore
from tq.storage.store import Snapshot

LEASE_S: Final = 15.0
BEAT_S: Final = 5.0
SLACK_S: Final = 1.0
"""A heartbeat on a busy machine may have been so late."""
TAKEN_OVER_S: Final = 20.0
"""What a dead server ran runs again after so long at most."""
RESUMED_S: Final = 5.0
"""And servers work so soon after their database is back."""
DEAF_S: Final = 10.0 + SLACK_S
"""And a server to which nothing comes on the connection that listens knows it so soon."""
DRAIN_S: Final = 60.0
START_S: Final = 60.0
"""Seconds that the last of many servers may take to start, all at once on few cores."""


@dataclass
class Run:
    """One run of a handler, as it noted it. Instants by `time.monotonic`; ``ended`` is None if it has not."""

    task_id: str
    generation: int
    attempt: int
    pid: int
    started: float
    ended: float | None = None


def read_runs(path: Path) -> list[Run]:
    """All runs so far, by start. The last line may be half written."""
    runs: dict[tuple[str, int], Run] = {}
    whole, _, _ = path.read_text().rpartition("\n")
    for line in whole.splitlines():
        what, task_id, *numbers = line.split()
        generation, attempt, pid, ns = map(int, numbers)
        if what == "start":
            assert (task_id, generation) not in runs, f"started twice under one lease: {line}"
            runs[task_id, generation] = Run(task_id, generation, attempt, pid, ns / 1e9)
        else:
            runs[task_id, generation].ended = ns / 1e9
    return sorted(runs.values(), key=lambda run: run.started)


class World:
    """Servers of one database, and their clients."""

    def __init__(self, site: Site, port: int, url: str, *, options: str, seed: str) -> None:
        self.site = site
        self.url = url
        """Of the database, past the ways."""
        self._options = options
        self.journal = Journal()
        self.ports = Ports()
        self.servers: list[Server] = []
        self._upstream = port
        self._ways: dict[int, Proxy] = {}
        self._seed = seed
        self._lapses: dict[int, list[float]] = {}
        """By process, for each time that it was lost: from when on others may run what it then ran, even if
        it still does."""
        self._stopped: set[int] = set()
        """The processes that were told to stop, and give back what they run."""
        self._runs = site.folder / "runs"
        self._runs.touch()
        self._naps = 0

    # Servers

    def spawn(self, **settings: object) -> Server:
        """A server on its way to listening."""
        way = Proxy(self._upstream)
        parts = urlsplit(self.url)
        url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{way.port}", query=self._options).geturl()
        server = self.site.spawn("fault_app:app", store=url, **settings)
        self._ways[server.process.pid] = way
        return server

    def admit(self, server: Server) -> None:
        """Have *server*, once it listens, take requests."""
        server.wait_listening(timeout_s=START_S)
        self.servers.append(server)
        self.ports.add(server.port)

    def add(self, count: int) -> None:
        """So many new servers that take requests."""
        for server in [self.spawn() for _ in range(count)]:
            self.admit(server)

    def follower(self) -> Server:
        """One that does not lead: whoever takes its place as leader is not waited for."""
        listed = self.servers[0].get("/v1/servers").json["servers"]
        leaders = [each["id"] for each in listed if each["leads"]]
        return next(server for server in self.servers if self._id_of(server) not in leaders)

    def _id_of(self, server: Server) -> str:
        return str(json.loads(server.output.wait('"server.started"'))["server"])

    def way(self, server: Server) -> Proxy:
        return self._ways[server.process.pid]

    def kill(self, server: Server) -> float:
        """SIGKILL; when that was."""
        self.remove(server)
        server.kill()
        return self.lose(server)

    def stop(self, server: Server) -> None:
        """SIGTERM, and its end, in order."""
        self._stopped.add(server.process.pid)
        server.stop()
        self.remove(server)

    def stand_still(self, server: Server) -> float:
        """SIGSTOP; when that was."""
        self.ports.remove(server.port)
        server.send(signal.SIGSTOP)
        return self.lose(server)

    def go_on(self, server: Server) -> None:
        """SIGCONT."""
        server.send(signal.SIGCONT)
        self.ports.add(server.port)

    def remove(self, server: Server) -> None:
        """Let no client ask *server* any more."""
        self.ports.remove(server.port)
        self.servers.remove(server)

    def lose(self, server: Server) -> float:
        """From now on *server* cannot say that it lives; what now is."""
        now = time.monotonic()
        self._lapses.setdefault(server.process.pid, []).append(now + LEASE_S - BEAT_S - SLACK_S)
        return now

    def end_lease(self, server: Server) -> None:
        """Have the lease of a lost *server* end now."""
        self._lapses[server.process.pid][-1] = time.monotonic()
        aged = "UPDATE tq.servers SET seen_at = seen_at - 60000 WHERE server = %s"
        self.execute(aged, self._id_of(server))

    def close(self) -> None:
        for way in self._ways.values():
            way.close()

    # The database

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as db:
            found = db.execute(statement.encode(), parameters)
            return found.fetchall() if found.description else []

    def snapshot(self) -> Snapshot:
        with closing(PostgresStore(self.url)) as store:
            return store.snapshot()

    # Load

    @contextmanager
    def load(self) -> Iterator[None]:
        """Clients submit meanwhile."""
        with load(self.ports, self.journal, seed=self._seed):
            yield

    def runs(self) -> list[Run]:
        return read_runs(self._runs)

    def unended(self, server: Server) -> set[str]:
        """The naps that *server* has begun and not ended."""
        return {
            run.task_id
            for run in self.runs()
            if run.pid == server.process.pid and run.ended is None and run.task_id.startswith("nap")
        }

    def have_nap(self, server: Server, *, ms: int) -> None:
        """Return when *server* runs a task that takes so long when it is first run."""
        until = time.monotonic() + PATIENCE_S
        while not self.unended(server):
            assert time.monotonic() < until, "others take all of them"
            self._submit_naps(server, count=5, ms=ms)
            time.sleep(0.1)

    def wait_ended(self, task_ids: set[str], server: Server) -> None:
        """Return when *server* has ended its runs of *task_ids*."""
        wait_until(lambda: not self.unended(server) & task_ids, lambda: f"still runs {task_ids}")

    def _submit_naps(self, server: Server, *, count: int, ms: int) -> None:
        first, self._naps = self._naps, self._naps + count
        tasks = [
            {"id": f"nap-{n}", "type": "nap", "payload": {"n": ms}, "priority": 5}
            for n in range(first, self._naps)
        ]
        answer = server.post("/v1/tasks/batch", tasks)
        assert answer.status == 201, answer
        self.journal.acknowledge(tasks, server.port)

    def wait_again(self, task_ids: set[str], *, since: float) -> list[float]:
        """Seconds after *since* that each of *task_ids* took to be run again to its end."""

        def again() -> list[float]:
            return [
                run.started - since
                for run in self.runs()
                if run.task_id in task_ids and run.generation > 1 and run.ended is not None
            ]

        wait_until(
            lambda: len(again()) == len(task_ids),
            lambda: f"not run again: {task_ids}, {self._unfinished()}",
            timeout_s=2 * TAKEN_OVER_S,
        )
        return again()

    def wait_resumed(self, since: float) -> list[float]:
        """Seconds after *since* that each server took to acknowledge a submit, and to start a task."""

        def resumed() -> list[float]:
            acknowledged = {port: at for at, port in reversed(self.journal.acknowledgements) if at > since}
            started = {run.pid: run.started for run in reversed(self.runs()) if run.started > since}
            found = []
            for server in self.servers:
                if server.port in acknowledged and server.process.pid in started:
                    found += [acknowledged[server.port] - since, started[server.process.pid] - since]
            return found

        def silent() -> str:
            heard = {port for at, port in self.journal.acknowledgements if at > since}
            ran = {run.pid for run in self.runs() if run.started > since}
            return "\n".join(
                f"{server.port} acknowledges: {server.port in heard}, runs: {server.process.pid in ran}:\n"
                f"{server.output.last()}"
                for server in self.servers
                if server.port not in heard or server.process.pid not in ran
            )

        wait_until(lambda: len(resumed()) == 2 * len(self.servers), silent)
        return resumed()

    # What must hold

    def check(self) -> None:
        """All that was acknowledged is done, as it was asked for; servers are well; the books are right."""
        assert self.journal.problems == []
        for server in self.servers:
            assert server.process.poll() is None, f"it ended by itself:\n{server.output.text()}"
            wait_until(partial(is_ready, server), lambda: "not ready")
        self.wait_drained()
        self.check_healthy()
        snapshot, runs = self.snapshot(), self.runs()
        tasks: dict[str, Task] = {task.id: task for task in snapshot.tasks}
        self._check_acknowledged(tasks)
        by_task: dict[str, list[Run]] = {}
        for run in runs:
            by_task.setdefault(run.task_id, []).append(run)
        for task in snapshot.tasks:
            self._check_task(task, by_task.get(task.id, []))
        check_books(snapshot)

    def wait_drained(self) -> None:
        """Return when nothing is left to do."""
        server = self.servers[0]
        wait_until(
            lambda: server.states().keys() <= FINAL,
            lambda: f"left: {server.states()}: {self._unfinished()}",
            timeout_s=DRAIN_S,
            every_s=0.1,
        )

    def _unfinished(self) -> list[Task]:
        return [task for task in self.snapshot().tasks if task.state not in FINAL][:5]

    def check_healthy(self) -> None:
        """Each server stores, and each does work."""
        for server in self.servers:
            self.submit(server)
        self.wait_drained()

    def submit(self, server: Server) -> None:
        """Have *server* take a task."""
        task_id = f"one-{server.port}-{time.monotonic_ns()}"
        task = {"id": task_id, "type": "quick", "payload": {"n": 1}, "priority": 0}
        answer = server.post("/v1/tasks", task)
        assert answer.status == 201, answer
        self.journal.acknowledge([task], server.port)

    def _check_acknowledged(self, tasks: dict[str, Task]) -> None:
        lost = self.journal.acknowledged.keys() - tasks.keys()
        assert lost == set(), f"acknowledged and lost: {sorted(lost)[:10]}"
        for task_id, asked in self.journal.acknowledged.items():
            task = tasks[task_id]
            kept = {"type": task.type, "payload": json.loads(task.payload), "priority": task.priority}
            assert kept == {name: asked[name] for name in kept}, f"not as acknowledged: {task} {asked}"

    def _check_task(self, task: Task, runs: Sequence[Run]) -> None:
        """It succeeded in its last run, was never run beside itself, nor again but for a reason."""
        assert runs, f"ended unrun: {task}"
        assert (task.state, task.result) == (State.SUCCEEDED, str(json.loads(task.payload)["n"])), (
            f"{task} {runs}"
        )
        assert task.attempt == (2 if task.type == "second_try" else 1), f"{task} {runs}"
        by_lease = sorted(runs, key=lambda run: run.generation)
        for run, after in pairwise(by_lease):
            self._check_again(task, run, after)
        last = by_lease[-1]
        assert last.generation == task.generation, f"{task} {by_lease}"
        assert last.ended is not None, f"{task} {by_lease}"

    def _check_again(self, task: Task, run: Run, after: Run) -> None:
        told = f"{task.id} ran at {run} and again at {after}, lapses: {self._lapses}"
        if any(run.started < lapse <= after.started for lapse in self._lapses.get(run.pid, ())):
            return
        assert run.ended is not None, told
        assert run.ended <= after.started, told
        if run.pid in self._stopped:
            return
        assert (task.type, run.attempt, after.attempt) == ("second_try", 1, 2), told


def is_ready(server: Server) -> bool:
    return server.get("/readyz").status == 200


def check_books(snapshot: Snapshot) -> None:
    """The counters are what counting says."""
    counted = Counter((task.queue, task.type, task.state) for task in snapshot.tasks)
    lanes = tuple(LaneCount(*lane, count) for lane, count in sorted(counted.items()))
    ended = Counter(task.state for task in snapshot.tasks)
    assert snapshot.stats == Stats(
        lanes=lanes,
        submitted=len(snapshot.tasks),
        succeeded=ended[State.SUCCEEDED],
        failed=ended[State.FAILED],
        cancelled=ended[State.CANCELLED],
    )
