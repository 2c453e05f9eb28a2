"""Clients that submit to many servers at once, each task until somebody has acknowledged it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from process import JSON_TYPE, PATIENCE_S, ask_on

TYPES: Final = ("quick",) * 6 + ("slow",) * 2 + ("thread", "second_try")
BATCH: Final = 8
BATCHES: Final = 0.2
"""Share of the submits that are of a batch."""
PAUSE_S: Final = 0.01
"""Between two submits of a client, so that the servers have time for more than these."""
ANSWER_S: Final = 4.0
"""A client that has no answer for so long asks another server."""
CLIENTS: Final = 4

AGAIN: Final = frozenset({502, 503, 504})
"""Statuses after which a careful client asks again."""


class Journal:
    """What the clients know: each acknowledged task by id, and when which server acknowledged something."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.acknowledgements: list[tuple[float, int]] = []
        """The instant, by `time.monotonic`, and the port."""
        self.refused = 0
        """Answers that asked to come again."""
        self.problems: list[str] = []
        self._guard = threading.Lock()
        self._names = 0

    def acknowledge(self, tasks: list[dict[str, Any]], port: int) -> None:
        with self._guard:
            self.acknowledged.update((task["id"], task) for task in tasks)
            self.acknowledgements.append((time.monotonic(), port))

    def refuse(self) -> None:
        with self._guard:
            self.refused += 1

    def complain(self, problem: str) -> None:
        with self._guard:
            self.problems.append(problem)

    def new_name(self) -> str:
        with self._guard:
            self._names += 1
            return f"client-{self._names}"


class Ports:
    """Where servers take requests now."""

    def __init__(self) -> None:
        self._ports: list[int] = []
        self._changed = threading.Condition()

    def add(self, port: int) -> None:
        with self._changed:
            self._ports = [*self._ports, port]
            self._changed.notify_all()

    def remove(self, port: int) -> None:
        with self._changed:
            self._ports = [each for each in self._ports if each != port]

    def one(self, random: Random) -> int:
        """Any of them; waits for one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ports, PATIENCE_S):
                raise AssertionError("no server for a client")
            return random.choice(self._ports)


class Client:
    """One thread that submits until it is told to stop; what it has begun it brings to its end."""

    def __init__(self, ports: Ports, journal: Journal, seed: str) -> None:
        self._ports = ports
        self._journal = journal
        self._name = journal.new_name()
        self._random = Random(f"{seed} {self._name}")
        self._count = 0
        self._port = 0
        self._connection: http.client.HTTPConnection | None = None

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(PAUSE_S):
                self._submit(BATCH if self._random.random() < BATCHES else 1)
        except Exception as error:
            self._journal.complain(f"{self._name}: {error!r}")
        finally:
            self._hang_up()

    def _submit(self, count: int) -> None:
        tasks = [self._new() for _ in range(count)]
        path = "/v1/tasks" if count == 1 else "/v1/tasks/batch"
        body = json.dumps(tasks[0] if count == 1 else tasks).encode()
        until = time.monotonic() + 2 * PATIENCE_S
        while not self._is_acknowledged(path, body, tasks):
            if time.monotonic() > until:
                raise AssertionError(f"nobody took {tasks[0]['id']}")
            time.sleep(2 * PAUSE_S)

    def _new(self) -> dict[str, Any]:
        self._count += 1
        type = self._random.choice(TYPES)
        priority = self._random.randint(-2, 2)
        task_id = f"{self._name}-{self._count}"
        return {"id": task_id, "type": type, "payload": {"n": self._count}, "priority": priority}

    def _is_acknowledged(self, path: str, body: bytes, tasks: list[dict[str, Any]]) -> bool:
        """Ask once; a connection that breaks, or is silent, is left for another server's."""
        if self._connection is None:
            self._port = self._ports.one(self._random)
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            answer = ask_on(self._connection, "POST", path, body, JSON_TYPE)
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return False
        if answer.status in AGAIN:
            self._journal.refuse()
            self._hang_up()
            return False
        if answer.status not in (200, 201):
            raise AssertionError(f"{answer.status} {answer.body!r}")
        self._journal.acknowledge(tasks, self._port)
        if self._random.random() < 0.1:
            self._hang_up()
        return True

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def load(ports: Ports, journal: Journal, *, seed: str, clients: int = CLIENTS) -> Iterator[None]:
    """Have clients submit meanwhile; at the end all that they have begun is acknowledged."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=Client(ports, journal, seed).run, args=(stop,), daemon=True)
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(3 * PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "a client is still waiting"
