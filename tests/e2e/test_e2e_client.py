"""The blocking client against real servers that die, restart, refuse and fall silent under it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
import trio
from process import Server, Site
from tiers import slow

from tq import AsyncClient, Client
from tq.client.errors import NotTq, Unreachable
from tq.client.retrying import RetryRules
from tq.core.errors import Overloaded
from tq.core.task import State

pytest_plugins = ("site_fixture",)

QUICK = RetryRules(attempts=200, total=30, base=0.05, cap=0.2)


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def again(site: Site, server: Server) -> Server:
    """A server at the port of *server*, which is gone, on the same store."""
    return site.start(bind=f"127.0.0.1:{server.port}")


class Doing:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._values: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._values.append(function()), daemon=True)
        self._thread.start()

    def value(self) -> Any:
        self._thread.join(30)
        assert self._values, "it raised, or goes on"
        return self._values[0]


class Proxy:
    """Passes bytes on to a server, and on demand loses the answer to the next request, or all of them."""

    def __init__(self, port: int) -> None:
        self.lose = 0
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self.connections += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        answers = source.getpeername()[1] == self._to
        try:
            while data := source.recv(65536):
                if answers and self.lose:
                    self.lose -= 1
                    break
                target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            cut(sock)

    def cut(self) -> None:
        """Break every connection that there is."""
        for sock in self.connections:
            cut(sock)

    def close(self) -> None:
        self._listening.close()
        for sock in self.connections:
            cut(sock)
            sock.close()


def cut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives *answers*, each on a connection of its own; its URL, and what it was sent."""
    heard: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", heard
        thread.join(10)


def http(status: int, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


# Submitting


def test_a_submit_whose_answer_was_lost_makes_one_task(site: Site) -> None:
    server = site.start()
    with closing(Proxy(server.port)) as proxy, Client(proxy.url, retry=QUICK) as client:
        proxy.lose = 2
        task = client.submit("echo", "once")
        assert proxy.lose == 0
        proxy.lose = 1
        client.submit_many({"type": "echo", "payload": n} for n in range(3))
        assert proxy.lose == 0
    assert server.final(task.id)["result"] == "once"
    assert server.get("/v1/stats").json["totals"]["submitted"] == 4
    server.stop()


@slow
def test_a_submit_waits_for_a_server_that_restarts(site: Site) -> None:
    server = site.start()
    with Client(url_of(server), retry=QUICK) as client:
        first = client.submit("echo", 1)
        assert first.result(20) == 1
        server.kill()
        submitted = Doing(lambda: client.submit("echo", 2))
        time.sleep(0.3)
        server = again(site, server)
        assert submitted.value().result(20) == 2
        assert client.stats().totals["submitted"] == 2
    server.stop()


@slow
def test_a_wait_goes_on_when_its_server_is_killed_and_started_again(site: Site) -> None:
    server = site.start()
    with Client(url_of(server), retry=QUICK) as client:
        task = client.submit("hang_once")
        server.output.wait("started", task.id)
        waited = Doing(lambda: task.wait(25))
        time.sleep(0.2)
        server.kill()
        server = again(site, server)
        assert (waited.value().state, waited.value().record.crashes) == (State.SUCCEEDED, 1)
    server.stop()


@slow
def test_events_go_on_without_a_gap_when_the_connection_breaks(site: Site) -> None:
    server = site.start()
    with closing(Proxy(server.port)) as proxy, Client(proxy.url, retry=QUICK) as client:
        task = client.submit("nap", {"seconds": 1.5}, delay=0.5)
        names = []
        for event in task.events():
            names.append(event.name)
            if event.name in ("snapshot", "task.started"):
                proxy.cut()
        assert names == ["snapshot", "task.started", "attempt.finished", "end"]
        assert event.record is not None
        assert event.record.result == "rested"
    server.stop()


@slow
def test_events_go_on_with_another_snapshot_when_the_server_restarts(site: Site) -> None:
    server = site.start(grace=0.1)
    with Client(url_of(server), retry=QUICK) as client:
        task = client.submit("hang_once")
        server.output.wait("started", task.id)
        followed = Doing(lambda: [event.name for event in task.events()])
        server.output.wait("started", task.id)
        time.sleep(0.3)
        server.stop()
        server = again(site, server)
        names = followed.value()
        assert names[0] == "snapshot"
        assert names.count("snapshot") == 2
        assert "server.draining" not in names
        assert client.get(task.id).state is State.SUCCEEDED
    server.stop()


# Refusals and silence


@slow
def test_a_503_is_asked_again_after_what_it_says() -> None:
    body = b'{"id": "a", "state": "pending"}'
    busy = http(503, b"{}", "retry-after: 1")
    with answering(busy, http(201, body, "content-type: application/json")) as (url, heard):
        asked = time.monotonic()
        with Client(url, retry=QUICK) as client:
            assert client.submit("echo").id == "a"
        assert 1.0 <= time.monotonic() - asked < 5
    keys = [line for each in heard for line in each.split(b"\r\n") if line.startswith(b"idempotency-key")]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_server_that_stays_busy_is_told_of_in_its_own_words() -> None:
    said = b'{"code": "overloaded", "detail": "later", "status": 503}'
    busy = http(503, said, "content-type: application/problem+json", "retry-after: 0")
    rules = RetryRules(attempts=2, base=0.01)
    with (
        answering(busy, busy) as (url, _),
        Client(url, retry=rules) as client,
        pytest.raises(Overloaded, match="later"),
    ):
        client.stats()


def test_no_server_is_unreachable_and_nothing_is_done() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", retry=RetryRules(attempts=2, base=0.01)) as client:
        with pytest.raises(Unreachable, match="ConnectError") as caught:
            client.submit("echo")
        assert not caught.value.may_be_done


def test_a_connection_that_ends_without_an_answer_may_have_done_it() -> None:
    with (
        answering(b"") as (url, _),
        Client(url, retry=RetryRules(attempts=1)) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.submit("echo")
    assert caught.value.may_be_done


@pytest.mark.parametrize("run", [trio.run, lambda main: asyncio.run(main())], ids=["trio", "asyncio"])
def test_an_async_client_pauses_in_the_loop_that_it_is_used_in(run: Callable[[Any], object]) -> None:
    body = b'{"id": "a", "state": "pending"}'
    with answering(http(503, b"{}"), http(200, body, "content-type: application/json")) as (url, heard):

        async def main() -> None:
            async with AsyncClient(url, retry=QUICK) as client:
                assert (await client.get("a")).id == "a"

        run(main)
    assert len(heard) == 2


def test_the_key_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"id": "a", "state": "pending"}'
    answer = http(200, body, "content-type: application/json")
    with answering(answer, answer) as (url, heard):
        with Client(url, key="tq_given") as client:
            client.get("a")
        monkeypatch.setenv("TQ_URL", url + "/")
        monkeypatch.setenv("TQ_KEY", "tq_environment")
        with Client() as client:
            client.get("a")
    assert b"authorization: Bearer tq_given" in heard[0]
    assert b"authorization: Bearer tq_environment" in heard[1]
    assert heard[1].startswith(b"GET /v1/tasks/a HTTP/1.1\r\n")


def test_a_key_is_not_sent_on_to_where_a_redirect_leads() -> None:
    with (
        answering(http(302, b"", "location: http://127.0.0.1:1/x")) as (url, _),
        Client(url) as client,
        pytest.raises(NotTq, match="answered 302"),
    ):
        client.get("a")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "https:///x", "http://h:99999"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        Client(url)


def test_forked_processes_make_different_keys() -> None:
    program = (
        "import os; from tq.client.address import SEAMS; SEAMS.new_id()\n"
        "if os.fork() == 0: print(SEAMS.new_id(), flush=True); os._exit(0)\n"
        "os.wait(); print(SEAMS.new_id())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    child, parent = done.stdout.split()
    assert child[-16:] != parent[-16:]
