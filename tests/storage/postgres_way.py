"""A way to PostgreSQL on which things go wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from urllib.parse import urlsplit


class Way:
    """A way to the server at *url* on which the next COMMIT meets what `at_commit` says, once.

    While it ``swallows``, what is sent either way is taken and goes nowhere, new connections included; nor
    does the server hear that a client is gone.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        self.at_commit: str | None = None
        self.let_go = Event()
        """When a COMMIT that is held up goes on, its client long gone."""
        self.met = 0
        self.swallows = False
        self._dead: set[socket.socket] = set()
        self._sockets = [self._listener]
        self._threads: list[Thread] = []
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += client, server
                self._begin(self._pass, client, server, True)
                self._begin(self._pass, server, client, False)

    def _pass(self, source: socket.socket, target: socket.socket, is_asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self.swallows or source in self._dead:
                    continue
                if is_asking and self.at_commit is not None and b"COMMIT" in data:
                    if self._goes_on(source, target, data):
                        continue
                    return
                target.sendall(data)
        if not self.swallows:
            _shut(source, target)

    def _goes_on(self, client: socket.socket, server: socket.socket, data: bytes) -> bool:
        """Meet a COMMIT. Whether the connection stays open, to swallow whatever else comes."""
        how, self.at_commit = self.at_commit, None
        self.met += 1
        if how in ("swallowed", "reply swallowed"):
            self._dead |= {client, server}
            if how == "reply swallowed":
                server.sendall(data)
            return True
        _shut(client)
        if how == "held up":
            self.let_go.wait(10)
        if how != "never arrives":
            server.sendall(data)
        # What is on its way still gets there.
        server.shutdown(socket.SHUT_WR)
        return False

    def close(self) -> None:
        _shut(*self._sockets)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
