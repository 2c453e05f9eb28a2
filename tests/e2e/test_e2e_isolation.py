"""Handlers in child processes of a real ``tq serve``: none outlives the server, however that ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from process import Server, Site, wait_until
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)


def is_alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def start_spinning(site: Site, server: Server, count: int) -> list[int]:
    """The processes of *count* tasks that run: each a child and what it started."""
    pids = []
    for task_id in [server.submit("spins") for _ in range(count)]:
        file = site.folder / f"{task_id}.pids"
        wait_until(file.exists, lambda: "no child has begun")
        pids += [int(pid) for pid in file.read_text().split()]
    assert all(is_alive(pid) for pid in pids)
    return pids


def assert_gone_soon(pids: Sequence[int]) -> None:
    wait_until(
        lambda: not any(is_alive(pid) for pid in pids),
        lambda: f"these go on: {[pid for pid in pids if is_alive(pid)]}",
        timeout_s=1.0,
    )


@pytest.mark.parametrize("app", ["isolation_app:app", "isolation_app"])
def test_process_and_asyncio_handlers_do_their_tasks(site: Site, app: str) -> None:
    server = site.start(app)
    first, second = (server.final(server.submit("pid"))["result"] for _ in range(2))
    assert first == second != server.process.pid
    assert server.final(server.submit("aio", {"n": 1}))["result"] == 2
    assert server.final(server.submit("reads"))["result"] == "", "it has no standard input"
    server.output.wait("from a child")
    server.stop()
    assert not is_alive(first)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_children_are_gone_within_a_second_of_the_death_of_the_server(
    site: Site, number: signal.Signals
) -> None:
    server = site.start("isolation_app:app", workers=5)
    pids = start_spinning(site, server, 3)
    pids.append(server.final(server.submit("pid"))["result"])
    os.kill(server.process.pid, number)
    server.process.wait()
    assert_gone_soon(pids)


def test_second_signal_kills_children_at_once(site: Site) -> None:
    server = site.start("isolation_app:app", workers=5)
    pids = start_spinning(site, server, 2)
    server.drain()
    assert all(is_alive(pid) for pid in pids)
    server.send(signal.SIGTERM)
    assert_gone_soon(pids)
    server.process.wait()


def test_shutdown_kills_children_and_their_tasks_wait_again(site: Site) -> None:
    server = site.start("isolation_app:app", grace="100ms")
    pids = start_spinning(site, server, 2)
    server.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert [task.state for task in site.snapshot().tasks] == ["pending", "pending"]
