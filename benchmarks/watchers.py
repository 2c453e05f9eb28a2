"""How many clients can watch one server: memory of each, and what the others notice.

``python -m benchmarks.watchers --clients 10000`` opens so many streams of ``/v1/events`` from a process of
its own and asks for ``/livez`` from this one meanwhile: first while nothing happens but heartbeats, then
while every client is told of a task now and then. Needs ``ulimit -n`` of twice the clients.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from benchmarks.client import Address, Connection, quantile, request_bytes
from benchmarks.servers import Server, serve_tq

QUIET_S = 20.0
BUSY_S = 30.0
TASK_EVERY_S = 5.0
LEFT_WITHIN_S = 30.0
WATCH = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
LIVEZ = request_bytes("GET", "/livez")
TASK = request_bytes("POST", "/v1/tasks", b'{"type":"noop","payload":{}}')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.watchers")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--store", default="memory:", help="such as memory: or sqlite:///tq.db")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve_tq(Path(folder), store=asked.store) as server:
        measure(server, asked.clients)


def measure(server: Server, clients: int) -> None:
    """One run over *server*."""
    # With what the first task opens.
    _ask(Connection(server.address), TASK)
    time.sleep(1)
    files, memory_mb = open_files(server), server.resident_mb()
    print(f"load {os.getloadavg()[0]:.1f}; before: {files} descriptors, {memory_mb:.0f} MB", flush=True)
    print(f"/livez with nobody watching: {probed(server, 5.0)}", flush=True)
    with watching(server.address, clients) as pipe:
        opened_s = float(pipe.recv())
        each_kb = (server.resident_mb() - memory_mb) * 1000 / clients
        print(f"{clients} clients in {opened_s:.1f} s: {each_kb:.1f} KB each", flush=True)
        print(f"/livez while they wait: {probed(server, QUIET_S)}", flush=True)
        print(f"/livez, a task every {TASK_EVERY_S:g} s: {probed(server, BUSY_S, TASK_EVERY_S)}", flush=True)
        pipe.send("leave")
        told = int(pipe.recv())
        print(f"events received: {told}", flush=True)
        left_at = time.perf_counter()
        while (now := open_files(server)) > files and time.perf_counter() - left_at < LEFT_WITHIN_S:
            time.sleep(0.05)
        print(f"{time.perf_counter() - left_at:.1f} s after they left: {now} descriptors", flush=True)
    print(f"/livez afterwards: {probed(server, 5.0)}; {server.resident_mb():.0f} MB", flush=True)


def open_files(server: Server) -> int:
    """Descriptors that *server* has open."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def probed(server: Server, seconds: float, task_every_s: float | None = None) -> str:
    """How long ``/livez`` takes, and the CPU used; submits a task now and then."""
    waits: list[float] = []
    cpu_s, begun = server.cpu_s(), time.perf_counter()
    next_task = begun
    connection = Connection(server.address)
    while (now := time.perf_counter()) - begun < seconds:
        if connection.is_last:
            connection.close()
            connection = Connection(server.address)
        if task_every_s is not None and now >= next_task:
            next_task += task_every_s
            _ask(connection, TASK)
            continue
        waits.append(_ask(connection, LIVEZ) * 1000)
        time.sleep(0.01)
    connection.close()
    waits.sort()
    cpu = (server.cpu_s() - cpu_s) / (time.perf_counter() - begun)
    return (
        f"p50 {quantile(waits, 0.5):.1f} ms, p99 {quantile(waits, 0.99):.1f} ms,"
        f" max {waits[-1]:.1f} ms, n {len(waits)}; CPU {cpu:.0%}"
    )


def _ask(connection: Connection, request: bytes) -> float:
    begun = time.perf_counter()
    connection.send(request)
    while not connection.receive():
        pass
    return time.perf_counter() - begun


# The clients, in a process of their own


@contextmanager
def watching(address: Address, clients: int) -> Iterator[Pipe]:
    """The clients; the pipe says when all are there, and takes the word to leave."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=watch, args=(address, clients, there))
    process.start()
    try:
        yield here
    finally:
        process.join(30)
        process.kill()


def watch(address: Address, clients: int, pipe: Pipe) -> None:
    """Open the streams, read them until told to leave, and say how many events came."""
    begun = time.perf_counter()
    selector = selectors.DefaultSelector()
    sockets = [_open(address, selector) for _ in range(clients)]
    greeted = _read_until(selector, lambda events: events >= clients)
    pipe.send(time.perf_counter() - begun)
    events = _read_until(selector, lambda events: pipe.poll()) + greeted - clients
    pipe.recv()
    for sock in sockets:
        sock.close()
    pipe.send(events)


def _open(address: Address, selector: selectors.BaseSelector) -> socket.socket:
    sock = socket.create_connection(address, timeout=60)
    sock.sendall(WATCH)
    sock.setblocking(False)
    selector.register(sock, selectors.EVENT_READ)
    return sock


def _read_until(selector: selectors.BaseSelector, is_enough: Callable[[int], bool]) -> int:
    """Read what comes; how many events there were."""
    events = 0
    while not is_enough(events):
        for key, _ in selector.select(timeout=0.1):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(65536)
            assert data, "a stream was cut"
            events += data.count(b"\nevent: ")
    return events


if __name__ == "__main__":
    main()
