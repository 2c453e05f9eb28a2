"""The measurements: each starts fresh servers, does one thing to them, and gives rows of the table."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from benchmarks import limits
from benchmarks.client import (
    Address,
    Connection,
    Load,
    ask,
    hammer,
    quantile,
    request_bytes,
    stream_at_once,
    stream_lines,
)
from benchmarks.servers import ROOT, Server, serve_hello, serve_tq

DELAYED: Final = b'{"type":"noop","payload":{},"delay":86400}'
"""Stays in the store: only its submit is measured."""
FIRST_KEY: Final = b'{"scopes":["admin","submit"]}'
NDJSON_AT_ONCE: Final = 500
"""Lines that tq stores in one transaction, and so the size of the raw ones."""
BATCH: Final = 1_000
DRAIN_AT_ONCE: Final = 100
MEASURED: Final = "measured"
WAITING: Final = "waiting"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; see FULL and QUICK."""

    rounds: int
    round_s: float
    submits: int
    drained: int
    drains: int
    waiting: int
    samples: int
    starts: int


FULL: Final = Sizes(
    rounds=3, round_s=3.0, submits=200_000, drained=50_000, drains=3, waiting=1_000_000, samples=500, starts=5
)
QUICK: Final = Sizes(
    rounds=3, round_s=1.0, submits=40_000, drained=20_000, drains=1, waiting=100_000, samples=100, starts=3
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; empty is what does not apply."""

    what: str
    figure: str
    limit: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on the disk that the repository is on: /tmp may be memory, where a flush costs nothing."""
    with tempfile.TemporaryDirectory(prefix=".run-", dir=ROOT / "benchmarks") as name:
        path = Path(name)
        # Should this process be killed, git does not see what is left.
        (path / ".gitignore").write_text("*\n")
        yield path


# Single submits


def posts(sizes: Sizes) -> Iterator[Row]:
    """Durable single submits beside hello world, in turns, at two numbers of connections."""
    with folder() as ours, folder() as theirs, ExitStack() as running:
        tq = running.enter_context(serve_tq(ours))
        hello = running.enter_context(serve_hello(theirs))
        for connections in (16, 64):
            yield _compare_posts(tq, hello, connections, sizes)


def _compare_posts(tq: Server, hello: Server, connections: int, sizes: Sizes) -> Row:
    request = request_bytes("POST", "/v1/tasks", DELAYED)

    def load(server: Server, seconds: float) -> tuple[Load, float]:
        before = server.cpu_s()
        load = hammer(server.address, request, connections=connections, seconds=seconds)
        return load, (server.cpu_s() - before) / len(load.latencies_ms) * 1e6

    for server in (hello, tq):
        load(server, 0.3)
    pairs = [(load(hello, sizes.round_s), load(tq, sizes.round_s)) for _ in range(sizes.rounds)]
    ratio = statistics.median(ours.per_second / theirs.per_second for (theirs, _), (ours, _) in pairs)
    theirs_per_s = statistics.median(theirs.per_second for (theirs, _), _ in pairs)
    ours_per_s = statistics.median(ours.per_second for _, (ours, _) in pairs)
    latencies = [ms for _, (ours, _) in pairs for ms in ours.latencies_ms]
    theirs_cpu, ours_cpu = (statistics.median(pair[side][1] for pair in pairs) for side in (0, 1))
    return Row(
        f"POST /v1/tasks, {connections} connections",
        f"{ours_per_s:,.0f}/s",
        f"{theirs_per_s:,.0f}/s hello world",
        ratio,
        "0.80 of it",
        ratio >= 0.80,
        f"p50 {quantile(latencies, 0.5):.1f} ms, p99 {quantile(latencies, 0.99):.1f} ms;"
        f" CPU {ours_cpu:.0f} µs each, hello {theirs_cpu:.0f}",
    )


def keys(sizes: Sizes) -> Iterator[Row]:
    """What a key costs: the same single submits to a server without keys and to one with, in turns."""
    with folder() as free, folder() as locked, ExitStack() as running:
        servers = [running.enter_context(serve_tq(each)) for each in (free, locked)]
        with closing(Connection(servers[1].address)) as connection:
            made = connection.ask(request_bytes("POST", "/v1/keys", FIRST_KEY))
        requests = [request_bytes("POST", "/v1/tasks", DELAYED, key=key) for key in (None, made["key"])]

        def cpu_us(server: Server, request: bytes, seconds: float) -> float:
            before = server.cpu_s()
            load = hammer(server.address, request, connections=16, seconds=seconds)
            return (server.cpu_s() - before) / len(load.latencies_ms) * 1e6

        for pair in zip(servers, requests, strict=True):
            cpu_us(*pair, 0.3)
        rounds = [
            [cpu_us(*pair, sizes.round_s) for pair in zip(servers, requests, strict=True)]
            for _ in range(2 * sizes.rounds)
        ]
    without, with_key = (statistics.median(each[side] for each in rounds) for side in (0, 1))
    yield Row(
        "POST /v1/tasks with a key, CPU",
        f"{with_key:.0f} µs each",
        f"{without:.0f} µs without keys",
        with_key / without,
        "1.10 of it",
        with_key <= 1.10 * without,
    )


# Many submits


def ndjson(sizes: Sizes) -> Iterator[Row]:
    """Durable submits as lines, over one connection and over several."""
    yield from _many_submits("NDJSON", sizes, _send_lines)


def batch(sizes: Sizes) -> Iterator[Row]:
    """Durable submits as arrays of a thousand."""
    yield from _many_submits("batches of 1,000", sizes, send_batches)


def _many_submits(name: str, sizes: Sizes, send: Callable[[Address, int, int], float]) -> Iterator[Row]:
    with folder() as path:
        raw = limits.raw_inserts(path, count=sizes.submits, at_once=NDJSON_AT_ONCE)
    for connections in (1, 4):
        with folder() as path, serve_tq(path) as server:
            before = server.cpu_s()
            per_s = sizes.submits / send(server.address, sizes.submits, connections)
            cpu_us = (server.cpu_s() - before) / sizes.submits * 1e6
        yield Row(
            f"submit by {name}, {connections} connection{'s' * (connections > 1)}",
            f"{per_s:,.0f}/s",
            f"{raw:,.0f}/s raw inserts",
            per_s / raw,
            "40,000/s",
            per_s >= 40_000,
            f"CPU {cpu_us:.0f} µs each",
        )


def _send_lines(address: Address, count: int, connections: int) -> float:
    return stream_at_once(address, DELAYED + b"\n", count, connections=connections)


def send_batches(address: Address, count: int, connections: int) -> float:
    request = request_bytes("POST", "/v1/tasks/batch", b"[" + b",".join([DELAYED] * BATCH) + b"]")
    return hammer(address, request, connections=connections, count=count // BATCH).seconds


# Running tasks


def drain(sizes: Sizes) -> Iterator[Row]:
    """No-op tasks run and their results stored: alone and beside many that wait, in turns; and in memory."""
    with folder() as path:
        raw = limits.raw_drain(path, count=sizes.drained, at_once=DRAIN_AT_ONCE)
    kinds: tuple[dict[str, Any], ...] = ({}, {"delay_ms": limits.DAY_MS}, {"priority": -10})
    rounds = [[_drain(sizes, kind) for kind in kinds] for _ in range(sizes.drains)]
    alone, delayed, low = (
        statistics.median(one.per_second for one in kind) for kind in zip(*rounds, strict=True)
    )
    cpu_us = [statistics.median(one.cpu_us for one in kind) for kind in zip(*rounds, strict=True)]
    yield Row(
        f"drain of {sizes.drained:,} no-op tasks",
        f"{alone:,.0f}/s",
        f"{raw:,.0f}/s raw claim and finish",
        alone / raw,
        "8,000/s",
        alone >= 8_000,
        f"CPU {cpu_us[0]:.0f} µs each",
    )
    for index, name, per_s in ((1, "delayed", delayed), (2, "of low priority", low)):
        ratio = statistics.median(one[index].per_second / one[0].per_second for one in rounds)
        yield Row(
            f"the same, {sizes.waiting:,} {name} waiting",
            f"{per_s:,.0f}/s",
            f"{alone:,.0f}/s without them",
            ratio,
            "0.80 of it",
            ratio >= 0.80,
            f"CPU {cpu_us[index]:.0f} µs each",
        )
    yield _drain_memory(sizes)


@dataclass(frozen=True, slots=True)
class Drained:
    """How fast tasks were run, and the CPU that each took."""

    per_second: float
    cpu_us: float


def _drain(sizes: Sizes, waiting: dict[str, Any]) -> Drained:
    """Run what is in the store before the server starts, from the first start to the last finish.

    Args:
        waiting: What makes the others wait; without it there are none.
    """
    with folder() as path:
        others = limits.new_tasks(sizes.waiting, queue=WAITING, **waiting) if waiting else iter(())
        limits.fill(path / "tq.db", chain(others, limits.new_tasks(sizes.drained, queue=MEASURED)))
        with serve_tq(path) as server:
            cpu_s = server.cpu_s()
            wait_succeeded(server.address, sizes.drained, MEASURED)
            cpu_s = server.cpu_s() - cpu_s
        took_s = limits.first_start_to_last_finish_s(path / "tq.db", queue=MEASURED)
    return Drained(sizes.drained / took_s, cpu_s / sizes.drained * 1e6)


def _drain_memory(sizes: Sizes) -> Row:
    with folder() as path, serve_tq(path, store="memory:") as server:
        start = time.perf_counter()
        stream_lines(server.address, b'{"type":"noop","payload":{}}\n', sizes.drained)
        wait_succeeded(server.address, sizes.drained, "default")
        per_s = sizes.drained / (time.perf_counter() - start)
    return Row("submit by NDJSON and drain, memory:", f"{per_s:,.0f}/s", note="no target")


def wait_succeeded(address: Address, count: int, queue: str) -> None:
    while ask(address, "GET", "/v1/stats")["queues"].get(queue, {}).get("succeeded", 0) < count:
        time.sleep(0.1)


# An idle server


def latency(sizes: Sizes) -> Iterator[Row]:
    """Submit to handler start, one task every 20 ms."""
    with folder() as path, serve_hello(path) as server:
        hello_ms = _sample_hello(server.address, sizes.samples)
    with folder() as path, serve_tq(path) as server:
        took_ms, answered_ms = sample(server.address, sizes.samples)
    for share, target_ms in ((0.5, 3.0), (0.99, 10.0)):
        ms = quantile(took_ms, share)
        yield Row(
            f"submit to handler start at 50/s, p{share * 100:.0f}",
            f"{ms:.2f} ms",
            f"{quantile(hello_ms, share):.2f} ms hello world answered",
            None,
            f"≤ {target_ms:.0f} ms",
            ms <= target_ms,
            f"submit answered after {quantile(answered_ms, share):.2f} ms",
        )


def sample(address: Address, count: int, *, before: int = 0) -> tuple[list[float], list[float]]:
    """Of *count* tasks: how long after its submit each started, and how long its submit took.

    Args:
        before: How many tasks have succeeded before.
    """
    request = request_bytes("POST", "/v1/tasks", b'{"type":"stamp","payload":{}}')
    sent_ns: dict[str, int] = {}
    answered_ms: list[float] = []
    with closing(Connection(address)) as connection:
        for _ in steadily(count):
            now = time.monotonic_ns()
            sent_ns[connection.ask(request)["id"]] = now
            answered_ms.append((time.monotonic_ns() - now) / 1e6)
    wait_succeeded(address, before + count, "default")
    # Only now, when it disturbs nothing, is each asked when it started.
    with closing(Connection(address)) as connection:
        started_ns = {id: connection.ask(request_bytes("GET", f"/v1/tasks/{id}"))["result"] for id in sent_ns}
    return [(started_ns[id] - sent) / 1e6 for id, sent in sent_ns.items()], answered_ms


def _sample_hello(address: Address, count: int) -> list[float]:
    """How long each of *count* hello worlds took: the stack and this machine's noise, and nothing else."""
    request = request_bytes("POST", "/v1/tasks", DELAYED)
    took_ms = []
    with closing(Connection(address)) as connection:
        for _ in steadily(count):
            now = time.monotonic_ns()
            connection.ask(request)
            took_ms.append((time.monotonic_ns() - now) / 1e6)
    return took_ms


def steadily(count: int) -> Iterator[None]:
    """*count* turns at a steady 50 a second."""
    due = time.monotonic()
    for _ in range(count):
        due += 1 / 50
        time.sleep(max(0.0, due - time.monotonic()))
        yield


def memory(sizes: Sizes) -> Iterator[Row]:
    """Resident memory, of a server that has done nothing and of one with many tasks waiting."""
    with folder() as path, serve_tq(path) as server:
        ask(server.address, "GET", "/readyz")
        time.sleep(1)
        idle = server.resident_mb()
        yield Row("resident memory, idle", f"{idle:.0f} MB", target="≤ 80 MB", met=idle <= 80)
        stream_at_once(server.address, DELAYED + b"\n", sizes.waiting, connections=4)
        full = server.resident_mb()
        yield Row(
            f"resident memory, {sizes.waiting:,} waiting",
            f"{full:.0f} MB",
            target="≤ 150 MB",
            met=full <= 150,
        )


def start(sizes: Sizes) -> Iterator[Row]:
    """From the start of the process to the first request answered."""
    took = []
    for _ in range(sizes.starts):
        with folder() as path:
            before = time.perf_counter()
            with serve_tq(path) as server:
                ask(server.address, "GET", "/v1/stats")
                took.append(time.perf_counter() - before)
    seconds = statistics.median(took)
    yield Row(
        "start to first answered request",
        f"{seconds:.2f} s",
        target="≤ 1 s",
        met=seconds <= 1,
        note=f"middle of {len(took)}",
    )


MEASUREMENTS: Final[dict[str, Callable[[Sizes], Iterator[Row]]]] = {
    "posts": posts,
    "keys": keys,
    "ndjson": ndjson,
    "batch": batch,
    "drain": drain,
    "latency": latency,
    "memory": memory,
    "start": start,
}
