"""What the environment asks to be told to a service manager."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tq.cli.supervisor import Supervisor
from tq.core.events import ServerDraining, ServerStarted, ServerStopped
from tq.core.task import ServerId

ME = ServerId("server-1")


@pytest.mark.parametrize(
    ("environ", "beat_every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_signs_of_life_come_three_times_as_often_as_they_must(
    environ: dict[str, str], beat_every_s: float | None
) -> None:
    assert Supervisor(environ, pid=7).beat_every_s == beat_every_s


def test_an_abstract_socket_hears_what_concerns_it_and_nothing_else(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(f"\0{tmp_path}")
        manager.setblocking(False)
        supervisor = Supervisor({"NOTIFY_SOCKET": f"@{tmp_path}"}, pid=7)
        supervisor.hear(ServerStarted(at=0, server=ME, workers=5))
        supervisor.hear(ServerDraining(at=0, server=ME, running=0, grace_ms=0))
        supervisor.hear(ServerStopped(at=0, server=ME, released=0, stuck=0))
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]
        with pytest.raises(BlockingIOError):
            manager.recv(100)


async def test_signs_of_life_come_at_their_times_until_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        with trio.move_on_after(25):
            await Supervisor(environ, pid=7).run()
        assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            manager.recv(100)


async def test_without_a_watchdog_nothing_is_said_and_nothing_ends(autojump_clock: MockClock) -> None:
    with trio.move_on_after(3600) as life:
        await Supervisor({}, pid=7).run()
    assert life.cancelled_caught
