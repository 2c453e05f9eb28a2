"""Servers on PostgreSQL, all on this machine: what it does in a second, and what it costs to do nothing.

Of several rounds the best counts, because what else the machine does only ever takes away.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from typing import Final

from benchmarks import limits
from benchmarks.client import Connection, ask, quantile, request_bytes
from benchmarks.databases import (
    DURABLE,
    SELECT_KEPT_TOO_LONG,
    SELECT_TOOK,
    Database,
    database,
    postgres_on_disk,
)
from benchmarks.measurements import (
    BATCH,
    DELAYED,
    WAITING,
    Row,
    Sizes,
    folder,
    sample,
    send_batches,
    steadily,
    wait_succeeded,
)
from benchmarks.servers import Server, serve_tq
from tq.clock import SystemClock
from tq.core.task import NewTask

DRAINED: Final = 20_000
PRUNED: Final = 100_000
IDLE_S: Final = 20.0
SETTLED_S: Final = 15.0
"""Until new servers are as idle as they will be, and PostgreSQL has counted what they did before."""


def postgres(sizes: Sizes) -> Iterator[Row]:
    """All there is of PostgreSQL; each in a database of its own."""
    with postgres_on_disk() as server:
        with database(server) as ours:
            yield Row(
                "PostgreSQL, on the disk",
                str(ours.ask("SHOW server_version")),
                note=" = ".join(DURABLE) + " = on",
            )
        for measure in (_submits, _latency, _idle, _drains, _pruning):
            with database(server) as ours:
                yield from measure(ours, sizes)


@contextmanager
def _servers(database: Database, *apps: str) -> Iterator[list[Server]]:
    """A server for each of *apps*, which know each other."""
    with ExitStack() as running:
        servers = []
        for app in apps:
            path = running.enter_context(folder())
            servers.append(running.enter_context(serve_tq(path, store=database.url, app=app)))
        for server in servers:
            while len(ask(server.address, "GET", "/v1/servers")["servers"]) < len(apps):
                time.sleep(0.1)
        time.sleep(1.0)
        yield servers


@contextmanager
def _cpu_us(database: Database, servers: Iterable[Server], tasks: int) -> Iterator[list[float]]:
    """Gives, once the block has ended, the µs of CPU of each of *tasks*: the servers' and PostgreSQL's."""
    each: list[float] = []
    before = sum(server.cpu_s() for server in servers), database.cpu_s()
    yield each
    after = sum(server.cpu_s() for server in servers), database.cpu_s()
    each += [(late - early) / tasks * 1e6 for early, late in zip(before, after, strict=True)]


# Submitting


def _submits(database: Database, sizes: Sizes) -> Iterator[Row]:
    """Durable submits as arrays of a thousand, over one connection and over several."""
    each = sizes.submits // sizes.rounds // BATCH * BATCH
    with _servers(database, "app") as [server]:
        for connections in (1, 4):
            with _cpu_us(database, [server], sizes.rounds * each) as cpu_us:
                took_s = [send_batches(server.address, each, connections) for _ in range(sizes.rounds)]
            per_s = each / min(took_s)
            over = f"{connections} connection{'s' * (connections > 1)}"
            yield Row(
                f"PostgreSQL: submit by batches of {BATCH:,}, {over}",
                f"{per_s:,.0f}/s",
                target="10,000/s",
                met=per_s >= 10_000,
                note=_cpu_note(cpu_us),
            )


def _cpu_note(cpu_us: list[float]) -> str:
    ours, theirs = cpu_us
    return f"CPU {ours:.0f} µs each, PostgreSQL {theirs:.0f}"


# Running tasks


@dataclass(frozen=True, slots=True)
class _Drained:
    per_second: float
    cpu_us: list[float]


_rounds = count(1)


def _drains(database: Database, sizes: Sizes) -> Iterator[Row]:
    """No-op tasks run and their results stored: by one server, by two, and beside many others."""
    rounds = [[_drain(database, servers) for servers in (1, 2)] for _ in range(sizes.drains)]
    one, two = (_best(kind) for kind in zip(*rounds, strict=True))
    what = f"PostgreSQL: drain of {DRAINED:,} no-op tasks by"
    yield Row(
        f"{what} one server",
        f"{one.per_second:,.0f}/s",
        target="3,000/s",
        met=one.per_second >= 3_000,
        note=_cpu_note(one.cpu_us),
    )
    ratio = two.per_second / one.per_second
    yield Row(
        f"{what} two servers",
        f"{two.per_second:,.0f}/s",
        f"{one.per_second:,.0f}/s by one",
        ratio,
        "1.00 of it",
        ratio >= 1,
        _cpu_note(two.cpu_us),
    )
    day = SystemClock().now_ms() + limits.DAY_MS
    database.fill_finished(sizes.waiting, queue="finished", even_until=day, odd_until=day)
    database.fill(_waiting(sizes.waiting))
    database.vacuum()
    full = _best([_drain(database, 1) for _ in range(sizes.drains)])
    ratio = full.per_second / one.per_second
    yield Row(
        f"{what} one, {sizes.waiting:,} finished and as many waiting",
        f"{full.per_second:,.0f}/s",
        f"{one.per_second:,.0f}/s without them",
        ratio,
        "0.80 of it",
        ratio >= 0.80,
        _cpu_note(full.cpu_us),
    )


def _best(drains: Iterable[_Drained]) -> _Drained:
    return max(drains, key=lambda drained: drained.per_second)


def _waiting(size: int) -> Iterator[NewTask]:
    """Tasks that wait: a third has its time to come, a third no handler, a third low priority."""
    third = size // 3 // BATCH * BATCH
    return chain(
        limits.new_tasks(third, queue=WAITING, delay_ms=limits.DAY_MS),
        limits.new_tasks(third, queue=WAITING, type="nobodys"),
        limits.new_tasks(size - 2 * third, queue=WAITING, priority=-10),
    )


def _drain(database: Database, servers: int) -> _Drained:
    """From the first start to the last finish, once the servers are there."""
    queue = f"drained-{next(_rounds)}"
    with _servers(database, *["app"] * servers) as running:
        with _cpu_us(database, running, DRAINED) as cpu_us:
            database.fill(limits.new_tasks(DRAINED, queue=queue))
            wait_succeeded(running[0].address, DRAINED, queue)
        return _Drained(DRAINED / float(database.ask(SELECT_TOOK, queue)), cpu_us)


def _latency(database: Database, sizes: Sizes) -> Iterator[Row]:
    """Submit at one server to the handler's start at another, one task every 20 ms; beside one server."""
    with _servers(database, "without_stamp", "app") as [front, works]:
        here_ms, _ = sample(works.address, sizes.samples)
        rounds = [
            sample(front.address, sizes.samples, before=number * sizes.samples)
            for number in range(1, 1 + sizes.rounds)
        ]
    took_ms, answered_ms = min(rounds, key=lambda each: quantile(each[0], 0.5))
    for share, target_ms in ((0.5, 10.0), (0.99, 50.0)):
        ms = quantile(took_ms, share)
        yield Row(
            f"PostgreSQL: submit to start at another server at 50/s, p{share * 100:.0f}",
            f"{ms:.2f} ms",
            f"{quantile(here_ms, share):.2f} ms at the same",
            None,
            f"≤ {target_ms:.0f} ms",
            ms <= target_ms,
            f"submit answered after {quantile(answered_ms, share):.2f} ms",
        )


# Doing little


def _idle(database: Database, sizes: Sizes) -> Iterator[Row]:
    """What servers ask of PostgreSQL, and the CPU they use, while nothing happens."""
    for number in (1, 2):
        with _servers(database, *["app"] * number) as servers:
            time.sleep(SETTLED_S)
            counted, began, cpu_s = database.counts(), time.perf_counter(), _cpus(servers)
            time.sleep(IDLE_S)
            transactions, calls = counted()
            seconds = time.perf_counter() - began
            share = max(late - early for early, late in zip(cpu_s, _cpus(servers), strict=True)) / seconds
        per_s = calls / seconds / number
        what = "PostgreSQL: idle server" if number == 1 else f"PostgreSQL: each of {number} idle servers"
        yield Row(
            f"{what}, statements",
            f"{per_s:.1f}/s",
            target="≤ 3/s",
            met=per_s <= 3,
            note=f"{transactions / seconds / number:.1f} transactions/s",
        )
        yield Row(f"{what}, CPU", f"{share:.1%}", target="≤ 1 %", met=share <= 0.01)


def _cpus(servers: Iterable[Server]) -> list[float]:
    return [server.cpu_s() for server in servers]


def _pruning(database: Database, sizes: Sizes) -> Iterator[Row]:
    """Every second of many finished tasks deleted, while others are submitted; what room that leaves."""
    now = SystemClock().now_ms()
    database.fill_finished(2 * PRUNED, queue="finished", even_until=now, odd_until=now + limits.DAY_MS)
    before_mb = database.size_mb()
    request = request_bytes("POST", "/v1/tasks", DELAYED)
    took_ms: list[float] = []
    with folder() as path, serve_tq(path, store=database.url) as server:
        gone = threading.Event()
        watcher = threading.Thread(target=_wait_pruned, args=(database, now, gone))
        # It prunes since it began, before it listened.
        left, began = database.ask(SELECT_KEPT_TOO_LONG, now), time.perf_counter()
        watcher.start()
        with closing(Connection(server.address)) as connection:
            for _ in steadily(10**6):
                sent = time.perf_counter()
                connection.ask(request)
                took_ms.append((time.perf_counter() - sent) * 1000)
                if gone.is_set():
                    break
        seconds = time.perf_counter() - began
        watcher.join()
    database.vacuum()
    pruned_mb = database.size_mb()
    database.fill_finished(
        PRUNED, queue="more", even_until=now + limits.DAY_MS, odd_until=now + limits.DAY_MS
    )
    yield Row(
        f"PostgreSQL: pruning of {PRUNED:,} finished among {2 * PRUNED:,}",
        f"{left / seconds:,.0f}/s",
        note=f"submit meanwhile at 50/s: p50 {statistics.median(took_ms):.1f} ms,"
        f" p99 {quantile(took_ms, 0.99):.1f} ms",
    )
    yield Row(
        "PostgreSQL: tables and indexes after that",
        f"{pruned_mb:.0f} MB",
        f"{before_mb:.0f} MB before",
        pruned_mb / before_mb,
        note=f"vacuumed; with as many more {database.size_mb():.0f} MB",
    )


def _wait_pruned(database: Database, until: int, gone: threading.Event) -> None:
    while database.ask(SELECT_KEPT_TOO_LONG, until):
        time.sleep(0.2)
    gone.set()
