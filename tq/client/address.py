"""Where a server is and how it is spoken to with httpx2: what the blocking and the async client share."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import httpx2

from tq.client.retrying import Answer, Call, Seams, Silence
from tq.clock import CHANCE, IdMaker, SystemClock, monotonic_s
from tq.core.errors import InvalidInput
from tq.core.sendable import PORT_MAX, header_text

DEFAULT_URL: Final = "http://127.0.0.1:8080"
CONNECT_S: Final = 5.0
"""Seconds to reach a server."""
ANSWER_S: Final = 30.0
"""Seconds that an answer may take, beside those that it was asked to wait."""
SEAMS: Final = Seams(now=monotonic_s, chance=CHANCE.random, new_id=IdMaker(SystemClock(), CHANCE))


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL without its last slash, and what every request to it carries."""

    url: str
    headers: Mapping[str, str]
    trust_env: bool

    def tls(self) -> ssl.SSLContext:
        """How to know the server. Loading whom to trust takes long: it is done once, and only for https."""
        is_needed = httpx2.URL(self.url).scheme == "https"
        return _trusting() if is_needed else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def headers_of(self, call: Call) -> dict[str, str]:
        """The headers that *call* is sent with."""
        return {**self.headers, **(call.headers or {})}

    def timeout_of(self, call: Call) -> httpx2.Timeout:
        """How long to wait for the answer to *call*."""
        return httpx2.Timeout(ANSWER_S + call.hold_s, connect=CONNECT_S)


@cache
def _trusting() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def find_address(url: str | None, key: str | None, environ: Mapping[str, str]) -> Address:
    """The server at *url* with *key*; without them, those of TQ_URL and TQ_KEY.

    Raises:
        ValueError: It is no URL of a server.
        InvalidInput: The key cannot be sent; it is not shown.
    """
    url = url or environ.get("TQ_URL") or DEFAULT_URL
    key = header_text(key or "", "key") or header_text(environ.get("TQ_KEY", ""), "TQ_KEY")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as fault:
        raise ValueError(f"url {url!r}: {fault}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url {url!r}: it must begin with http:// or https:// and name a host")
    if parsed.port is not None and not 0 < parsed.port <= PORT_MAX:
        raise ValueError(f"url {url!r}: a port is 1 to {PORT_MAX}")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # A proxy of the environment would not reach this machine's own loopback.
    return Address(url.rstrip("/"), headers, parsed.host not in ("localhost", "127.0.0.1", "::1"))


def answer_of(response: httpx2.Response, body: bytes) -> Answer:
    """*response* as the talks know it. Names of headers are in lower case."""
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, body
    )


def silence_of(error: httpx2.TransportError) -> Silence:
    """*error* as the talks know it: nothing is done if there was no connection to ask on.

    Raises:
        InvalidInput: The request itself cannot be sent, now or later.
    """
    if isinstance(error, httpx2.LocalProtocolError):
        # What it says may have a header in it, and so the key.
        raise InvalidInput("the request cannot be sent: HTTP does not allow what is in it") from None
    never_sent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    return Silence(f"{type(error).__name__}: {error}".rstrip(": "), may_be_done=not never_sent)
