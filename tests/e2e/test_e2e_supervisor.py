"""A real server under a service manager: what that is told, and when."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from process import PATIENCE_S, Site
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What a service manager listens on, as the processes that a test starts are told."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        path = tmp_path / "notify"
        sock.bind(str(path))
        sock.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield sock


def test_a_service_manager_hears_when_the_server_is_ready_and_when_it_stops(
    site: Site, manager: socket.socket
) -> None:
    server = site.start()
    assert manager.recv(100) == b"READY=1"
    assert server.get("/readyz").status == 200
    server.send(signal.SIGTERM)
    assert manager.recv(100) == b"STOPPING=1"
    assert server.process.wait(PATIENCE_S) == 0


def test_a_watchdog_hears_that_the_event_loop_turns(
    site: Site, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    server = site.start()
    heard = [manager.recv(100) for _ in range(5)]
    assert heard.count(b"READY=1") == 1
    assert heard.count(b"WATCHDOG=1") == 4
    server.stop()


def test_a_service_manager_that_is_gone_is_no_trouble(
    site: Site, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    manager.close()
    server = site.start()
    assert server.get("/readyz").status == 200
    server.stop()
