"""A way to PostgreSQL that can be slow, dead, or cut: by the byte, or at a COMMIT."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import Final

CHUNK: Final = 65_536
SSL_REQUEST: Final = 80_877_103
GSS_REQUEST: Final = 80_877_104
LISTEN: Final = b"LISTEN tq_"
PATIENCE_S: Final = 10.0


class Cut(Enum):
    """What becomes of a COMMIT whose connection is cut."""

    BEFORE = auto()
    """It never arrives."""
    AFTER = auto()
    """It is done; the reply is lost."""
    LATE = auto()
    """The client sees the cut at once; the COMMIT arrives `LATE_S` later."""


LATE_S: Final = 0.3


class Requests:
    """What a client says to PostgreSQL, in whole messages; knows which of them commit.

    A statement may be prepared once and be meant by its name from then on.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._commits: set[bytes] = set()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The messages that *data* completes, and whether each is a COMMIT."""
        self._rest += data
        while message := self._take():
            yield message, self._is_commit(message)

    def _take(self) -> bytes:
        head = 1 if self._started else 0
        if len(self._rest) < head + 4:
            return b""
        (size,) = struct.unpack_from("!i", self._rest, head)
        if len(self._rest) < head + size:
            return b""
        message, self._rest = self._rest[: head + size], self._rest[head + size :]
        if not self._started:
            # A wish for encryption is answered with one byte, and what follows is again without a type.
            (code,) = struct.unpack_from("!i", message, 4)
            self._started = code not in (SSL_REQUEST, GSS_REQUEST)
            return message
        return message

    def _is_commit(self, message: bytes) -> bool:
        kind, body = message[:1], message[5:]
        if kind == b"Q":
            return body == b"COMMIT\0"
        if kind == b"P":
            name, statement, _ = body.split(b"\0", 2)
            self._commits.discard(name)
            if statement == b"COMMIT":
                self._commits.add(name)
        if kind == b"B":
            _, statement, _ = body.split(b"\0", 2)
            return statement in self._commits
        return False


class Proxy:
    """Passes connections on to the server at *port*, as its faults let it. Two threads each."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0
        """How long each piece waits, either way."""
        self._cut: Cut | None = None
        self._was_cut = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._pairs: set[Pair] = set()
        self._guard = threading.Lock()
        self._closing = False
        self._listens = threading.Condition()
        self._listeners = 0
        threading.Thread(target=self._accept, daemon=True).start()

    # Faults

    def hold(self) -> None:
        """Let nothing through, and nobody know: connections stay open, and new ones are taken."""
        self._open.clear()

    def release(self) -> None:
        """Let through what was held."""
        self._open.set()

    def forget(self) -> None:
        """Let new connections through; those there are hang for ever, as where a firewall forgot them."""
        with self._guard:
            for pair in self._pairs:
                pair.is_dead = True
        self._open.set()

    def deafen(self) -> float:
        """Hold what the connections that listen get; seconds until one listens anew."""
        began = time.monotonic()
        with self._listens:
            before = self._listeners
            with self._guard:
                for pair in self._pairs:
                    pair.is_deaf = pair.listens
            assert self._listens.wait_for(lambda: self._listeners > before, 3 * PATIENCE_S), "still deaf"
        return time.monotonic() - began

    def reset(self) -> None:
        """Reset all connections."""
        with self._guard:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()

    def cut_at_commit(self, cut: Cut) -> None:
        """Cut the connection that commits next, as *cut* says; return when that is done."""
        self._was_cut.clear()
        self._cut = cut
        assert self._was_cut.wait(PATIENCE_S), "nobody commits"

    def close(self) -> None:
        self._closing = True
        self._listener.close()
        self.release()
        self.reset()

    # Passing on

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream), PATIENCE_S)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(client, server)
        with self._guard:
            self._pairs.add(pair)
        threading.Thread(target=self._pass_replies, args=(pair,), daemon=True).start()
        self._pass_requests(pair)
        if not pair.is_dead:
            with self._guard:
                self._pairs.discard(pair)

    def _pass_requests(self, pair: Pair) -> None:
        requests = Requests()

        def send(data: bytes) -> None:
            passed: list[bytes] = []
            for message, is_commit in requests.feed(data):
                cut, self._cut = (self._cut, None) if is_commit else (None, self._cut)
                if cut is not None:
                    pair.server.sendall(b"".join(passed))
                    pair.cut(cut, message)
                    self._was_cut.set()
                    raise ConnectionError
                passed.append(message)
                if LISTEN in message:
                    pair.listens = True
                    with self._listens:
                        self._listeners += 1
                        self._listens.notify_all()
            pair.server.sendall(b"".join(passed))

        self._pump(pair, pair.client, send)

    def _pass_replies(self, pair: Pair) -> None:
        self._pump(pair, pair.server, pair.reply)

    def _pump(self, pair: Pair, source: socket.socket, send: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._open.wait()
                if pair.is_dead and not self._closing:
                    return
                send(data)
        except OSError:
            pass
        if not pair.is_dead:
            pair.end()


class Pair:
    """The two ends of a connection. A cut one still passes on to the server, and no more to the client."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.is_dead = False
        self.listens = self.is_deaf = False
        self._is_cut = False
        self._replied = threading.Event()

    def reply(self, data: bytes) -> None:
        if self._is_cut:
            self._replied.set()
        elif self.is_deaf:
            pass
        else:
            self.client.sendall(data)

    def cut(self, cut: Cut, message: bytes) -> None:
        """Cut it at *message*, the COMMIT; what is asked behind it is lost with it, but for its Sync."""
        self._is_cut = True
        if cut is Cut.LATE:
            _reset(self.client)
            time.sleep(LATE_S)
        if cut is not Cut.BEFORE:
            with suppress(OSError):
                self.server.sendall(message + (_EXECUTE_AND_SYNC if message[:1] == b"B" else b""))
                self._replied.wait(PATIENCE_S)
        self.end()

    def reset(self) -> None:
        for each in (self.client, self.server):
            _reset(each)

    def end(self) -> None:
        for each in (self.client, self.server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


_EXECUTE_AND_SYNC: Final = b"E\0\0\0\x09\0\0\0\0\0" + b"S\0\0\0\x04"


def _reset(end: socket.socket) -> None:
    """Close it so that the other side gets a reset."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A close alone waits for whoever reads from it in another thread.
        end.shutdown(socket.SHUT_RD)
    end.close()
