"""How a process ends: by which signals, and whatever its handlers and clients do."""

from __future__ import annotations

import signal
import time

import pytest
from process import SHUTDOWN_SLACK_S, Site
from tiers import slow, tiered

pytest_plugins = ("site_fixture",)

GRACE_S = 1.0
LONG_GRACE_S = 300.0


@pytest.mark.parametrize("number", tiered([signal.SIGTERM, signal.SIGINT]))
def test_both_signals_stop_it_in_order(site: Site, number: signal.Signals) -> None:
    server = site.start(grace=GRACE_S)
    task_id = server.submit("hang")
    server.output.wait("started", task_id)
    told = server.drain(number)
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    assert time.monotonic() - told >= GRACE_S, "the grace was not given"
    task = site.stored()[task_id]
    assert (task.state, task.attempt, task.crashes) == ("pending", 0, 0)


@slow
@pytest.mark.parametrize("number", tiered([signal.SIGTERM, signal.SIGINT]))
def test_a_second_signal_cuts_the_grace_short(site: Site, number: signal.Signals) -> None:
    server = site.start(grace=LONG_GRACE_S)
    task_id = server.submit("hang")
    server.output.wait("started", task_id)
    server.drain()
    told = time.monotonic()
    server.send(number)
    assert server.wait_exit(since=told, within_s=SHUTDOWN_SLACK_S) == 0
    task = site.stored()[task_id]
    assert (task.state, task.attempt, task.crashes) == ("pending", 0, 0)


@slow
def test_a_third_signal_ends_it_at_once(site: Site) -> None:
    server = site.start(grace=LONG_GRACE_S)
    task_id = server.submit("shielded")
    server.output.wait("started", task_id)
    server.drain()
    server.send(signal.SIGTERM)
    server.output.wait("cancelled", task_id)
    told = time.monotonic()
    server.send(signal.SIGTERM)
    assert server.wait_exit(since=told, within_s=1.0) == 130
    assert site.stored()[task_id].state == "running", "its end was not waited for"


@slow
@pytest.mark.parametrize("type", ["shielded", "blocked"])
def test_a_handler_that_never_stops_does_not_block_the_exit(site: Site, type: str) -> None:
    server = site.start(grace=GRACE_S)
    task_id = server.submit(type)
    waiting = [server.submit("hang") for _ in range(10)]
    server.output.wait("started", task_id)
    told = server.drain()
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    for task in (site.stored()[each] for each in [task_id, *waiting]):
        assert (task.state, task.attempt, task.crashes) == ("pending", 0, 0)


@slow
def test_every_worker_stuck_does_not_block_the_exit(site: Site) -> None:
    server = site.start(grace=GRACE_S, workers=4)
    stuck = [server.submit(type) for type in ("shielded", "blocked") * 2]
    for task_id in stuck:
        server.output.wait("started", task_id)
    told = server.drain()
    assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
    assert '"stuck":4' in server.output.wait("server.stopped")
    for task in site.stored().values():
        assert (task.state, task.attempt, task.crashes) == ("pending", 0, 0)


@slow
def test_clients_that_do_not_read_or_never_finish_do_not_block_the_exit(site: Site) -> None:
    server = site.start(grace=GRACE_S)
    task_id = server.submit("large", {"size": 1_000_000})
    server.final(task_id)
    with (
        server.open_socket(receive_buffer=4096) as deaf,
        server.open_socket() as half_head,
        server.open_socket() as half_body,
        server.open_socket() as silent,
    ):
        asked = b"GET /v1/tasks/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % task_id.encode()
        deaf.sendall(asked * 20)
        assert deaf.recv(1), "it is being answered"
        half_head.sendall(b"POST /v1/tasks HTT")
        half_body.sendall(
            b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n{"type": '
        )
        assert half_body.recv(100).startswith(b"HTTP/1.1 100 ")
        told = server.drain()
        assert server.wait_exit(since=told, within_s=GRACE_S + SHUTDOWN_SLACK_S) == 0
        assert silent.recv(1) == b""
    assert site.stored()[task_id].state == "succeeded"
