"""A real server among hostile clients: it stays up, well and small, and says nothing of them.

``TQ_TEST_HOSTILE=full`` sends everything in both ways there are, and many more mutations, those of
``TQ_TEST_SEED``; and as many clients as a server must bear then hang on to it at its end.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from hostile import GET, corpus, mutations, splits
from process import SHUTDOWN_SLACK_S, Server, Site
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)

FULL = os.environ.get("TQ_TEST_HOSTILE") == "full"
SEED = int(os.environ.get("TQ_TEST_SEED", "4"))
MUTATIONS = 5_000 if FULL else 300
SOON_CUT = ("request_lines", "h2")
CUT = (*SOON_CUT, "header_lines", "lengths", "chunks", "bodies", "pipelines", "upgrades", "ws_early")
AT_ONCE = 20
SILENT_AT_ONCE = 200
CUT_S = 20.0
"""Seconds in which every client that is slow or silent is cut."""
GROWTH_MAX_MB = 50
HANGERS_ON = 1_000 if FULL else 250
GRACE_S = 1.0


def memory_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


# Hostile bytes


@contextmanager
def pulse_taken(server: Server) -> Iterator[list[float]]:
    """How long each answer of ``/livez`` took while the block ran, in ms in order; filled at its end."""
    took_ms: list[float] = []
    command = [sys.executable, str(Path(__file__).with_name("pulse.py")), str(server.port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield took_ms
    finally:
        said, _ = process.communicate()
    took_ms += sorted(json.loads(said))


async def send(port: int, parts: tuple[bytes, ...], *, half_close: bool) -> float:
    """Send *parts*, one after the other, and read to the end: the seconds to that."""
    begun = trio.current_time()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        with suppress(trio.BrokenResourceError):
            for part in parts:
                await stream.send_all(part)
                await trio.sleep(0.002 if len(parts) > 1 else 0)
            if half_close:
                await stream.send_eof()
            while await stream.receive_some(65536):
                pass
    return trio.current_time() - begun


async def send_everything(port: int, cases: list[tuple[tuple[bytes, ...], bool]]) -> float:
    """Send every case, AT_ONCE of them at a time: the longest that one took, in seconds."""
    active, silent = trio.CapacityLimiter(AT_ONCE), trio.CapacityLimiter(SILENT_AT_ONCE)
    took_s: list[float] = []

    async def one(parts: tuple[bytes, ...], half_close: bool) -> None:
        async with active if half_close else silent:
            with trio.fail_after(CUT_S + 40):
                took_s.append(await send(port, parts, half_close=half_close))

    async with trio.open_nursery() as nursery:
        for parts, half_close in cases:
            nursery.start_soon(one, parts, half_close)
    return max(took_s)


@pytest.mark.timeout(600)
def test_no_bytes_end_a_server_nor_make_it_ill_or_large_or_talkative(site: Site) -> None:
    whole, parted = corpus(), [(first, then) for _, first, then in splits()]
    mutated = [(sent,) for _, sent in mutations(SEED, MUTATIONS)]
    everything = [*((sent,) for _, sent in whole), *parted, *mutated]
    cases: list[tuple[tuple[bytes, ...], bool]] = [(parts, True) for parts in everything]
    # Who does not say that it has no more to say is cut for its silence: after 5 s, or 15 in a body.
    silent = [(sent,) for name, sent in whole if name.startswith(CUT if FULL else SOON_CUT)]
    cases += [(parts, False) for parts in [*silent, *(parted if FULL else [])]]
    server = site.start(store="memory:", log_level="info")
    trio.run(send_everything, server.port, cases[:100])
    before_mb = memory_mb(server)
    with pulse_taken(server) as pulse_ms:
        longest_s = trio.run(send_everything, server.port, cases)
    grown_mb = memory_mb(server) - before_mb
    p99_ms = pulse_ms[int(len(pulse_ms) * 0.99)]
    print(
        f"\n{len(cases)} cases, seed {SEED}; the longest took {longest_s:.1f} s;"
        f" /livez p99 {p99_ms:.0f} ms of {len(pulse_ms)}; memory {grown_mb:+.0f} MB"
    )
    assert server.process.poll() is None
    assert longest_s <= CUT_S
    assert grown_mb <= GROWTH_MAX_MB
    # The figure to keep is 100 ms; a machine that does much else at the same time cannot.
    assert p99_ms <= 1_000
    assert server.get("/livez").status == 200
    server.stop()
    said = server.output.text()
    assert "Traceback" not in said
    assert '"level":"error"' not in said.replace(" ", "")
    assert "evil" not in said


# When connections end


def test_a_connection_that_is_not_to_be_kept_closes_within_fifty_ms(site: Site) -> None:
    server = site.start(store="memory:")
    took_s = []
    for _ in range(20):
        with server.open_socket() as sock:
            sock.sendall(GET + b"Connection: close\r\n\r\n")
            answer = sock.recv(65536)
            answered = time.perf_counter()
            while sock.recv(65536):
                pass
            took_s.append(time.perf_counter() - answered)
            assert answer.startswith(b"HTTP/1.1 200 ")
    assert sorted(took_s)[10] <= 0.05
    server.stop()


def test_an_idle_connection_closes_after_five_seconds(site: Site) -> None:
    server = site.start(store="memory:")
    with server.open_socket() as silent, server.open_socket() as idle:
        idle.sendall(GET + b"\r\n")
        assert idle.recv(65536)
        begun = time.monotonic()
        for sock in (silent, idle):
            assert sock.recv(65536) == b""
            assert 4.5 < time.monotonic() - begun < 8
    server.stop()


@pytest.mark.timeout(120)
def test_clients_that_do_not_read_do_not_hold_the_exit(site: Site) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # The server inherits it.
    server = site.start(store="memory:", grace=GRACE_S)
    task_id = server.submit("echo", "x" * 100_000, delay=3600)
    asked = f"GET /v1/tasks/{task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 30
    with ExitStack() as opened:
        for _ in range(HANGERS_ON):
            sock = opened.enter_context(server.open_socket(receive_buffer=4096))
            sock.sendall(asked)
        time.sleep(0.5)
        begun = time.monotonic()
        told = server.drain()
        assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
        print(f"\n{HANGERS_ON} clients that do not read: it ended after {time.monotonic() - begun:.1f} s")
