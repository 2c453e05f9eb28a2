"""Real servers for tests: ``python -m tq serve`` as a child, its output as lines, and HTTP to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from tq.core.task import Task
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Snapshot

HERE: Final = Path(__file__).parent
START_S: Final = 20.0
"""Seconds that a server may take to say that it listens, on a machine that has much else to do."""
PATIENCE_S: Final = 20.0
"""Seconds to wait for what comes soon if it comes at all."""
SOON_S: Final = 5.0
"""Seconds for what takes one at the most, on a machine that has much else to do."""
SHUTDOWN_SLACK_S: Final = 5.0
"""A server that was told to stop has ended this long after its grace (design, 5.11)."""
LEAVING_S: Final = 3.0
"""Seconds for a process on a busy machine to hear a signal, and to be gone once it has said its last line."""
DB: Final = "tq.db"

JSON_TYPE: Final = {"Content-Type": "application/json"}
NDJSON_TYPE: Final = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


class Output:
    """All lines that a process writes to its two outputs, as they come."""

    def __init__(self, *streams: IO[str]) -> None:
        self._lines: list[str] = []
        self._open = len(streams)
        self._changed = threading.Condition()
        for stream in streams:
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def wait(self, *texts: str, timeout_s: float = PATIENCE_S) -> str:
        """The first line that has each of *texts* in it, once it is there."""

        def found() -> str | None:
            return next((line for line in self._lines if all(text in line for text in texts)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or not self._open, timeout_s)
            line = found()
            assert line is not None, f"no line with {texts} in:\n" + "\n".join(self._lines)
            return line

    def last(self, count: int = 30) -> str:
        """The last *count* lines so far."""
        return "\n".join(self._lines[-count:])

    def text(self) -> str:
        """Everything, once the process has closed both outputs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, PATIENCE_S)
            return "\n".join(self._lines)


class Server:
    """One ``tq serve`` that runs. The paths are those of its Site."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.output = Output(process.stdout, process.stderr)
        self.port = 0

    def wait_listening(self, *, timeout_s: float = START_S) -> None:
        line = self.output.wait("listening on http://127.0.0.1:", timeout_s=timeout_s)
        self.port = int(line.rpartition(":")[2])

    # Ending

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def drain(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Tell it to stop; when that was, once it drains."""
        told = time.monotonic()
        self.send(number)
        self.output.wait("server.draining")
        return told

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def wait_exit(self, *, since: float, within_s: float) -> int:
        """Its exit code; it stopped *within_s* after *since*, by its own clock, and about so by ours."""
        try:
            code = self.process.wait(since + within_s + LEAVING_S - time.monotonic())
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still ran after {within_s} s:\n{self.output.text()}") from None
        taken_s = self._stopping_s()
        assert taken_s is None or taken_s <= within_s, f"took {taken_s} s:\n{self.output.text()}"
        return code

    def _stopping_s(self) -> float | None:
        """Seconds from ``server.draining`` to ``server.stopped``, as it logged them; None if it did not."""
        at = {
            line["event"]: datetime.fromisoformat(line["ts"])
            for line in map(json.loads, re.findall(r'^\{"ts".*\}$', self.output.text(), re.MULTILINE))
            if line["event"] in ("server.draining", "server.stopped")
        }
        if len(at) < 2:
            return None
        return (at["server.stopped"] - at["server.draining"]).total_seconds()

    def stop(self) -> None:
        """End it in order, with nothing left running."""
        self.send(signal.SIGTERM)
        code = self.wait_exit(since=time.monotonic(), within_s=PATIENCE_S)
        assert code == 0, self.output.text()

    # Asking

    def connect(self, *, timeout_s: float = PATIENCE_S) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def open_socket(self, *, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            return ask_on(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, content: object, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, json.dumps(content).encode(), JSON_TYPE | dict(headers or {}))

    def submit(self, type: str, payload: object = None, **more: object) -> str:
        """The id of a task that was stored."""
        answer = self.post("/v1/tasks", {"type": type, "payload": payload, **more})
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def task(self, task_id: str, *, wait_s: int = 0) -> Any:
        answer = self.get(f"/v1/tasks/{task_id}" + (f"?wait={wait_s}" if wait_s else ""))
        assert answer.status == 200, answer
        return answer.json

    def final(self, task_id: str) -> Any:
        """The task, which must end soon."""
        task = self.task(task_id, wait_s=int(PATIENCE_S / 2))
        assert task["state"] in ("succeeded", "failed", "cancelled"), task
        return task

    def states(self) -> dict[str, int]:
        """How many tasks are in each state that any is in."""
        states = self.get("/v1/stats").json["states"]
        return {state: count for state, count in states.items() if count}


def ask_on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on *connection*, its answer read to the end."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    content = response.read()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


class Site:
    """A folder with a store, and the servers that were started on it. All are gone after `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / DB
        self._servers: list[Server] = []

    def start(self, app: str = "work_app:app", **settings: object) -> Server:
        """A server that listens. *settings* are flags of ``tq serve``, without their dashes."""
        server = self.spawn(app, **settings)
        server.wait_listening()
        return server

    def spawn(self, app: str = "work_app:app", **settings: object) -> Server:
        """A server of which nothing is known yet."""
        flags = {"bind": "127.0.0.1:0", "store": f"sqlite:///{self.db}", "log_format": "json", **settings}
        command = [sys.executable, "-m", "tq", "serve", app]
        for name, value in flags.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
        paths = [str(HERE), environment.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server = Server(process)
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            assert server.process.stdin is not None
            server.process.stdin.close()
            server.output.text()

    def snapshot(self) -> Snapshot:
        """What is in the store, which no server may have open."""
        store = SqliteStore(self.db)
        try:
            return store.snapshot()
        finally:
            store.close()

    def stored(self) -> dict[str, Task]:
        """The tasks in the store, by id."""
        return {task.id: task for task in self.snapshot().tasks}


def wait_until(
    condition: Callable[[], bool],
    complaint: Callable[[], str],
    *,
    timeout_s: float = PATIENCE_S,
    every_s: float = 0.02,
) -> None:
    """Poll *condition*, for what nothing tells about; *complaint* is what is said if it stays false."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(every_s)
