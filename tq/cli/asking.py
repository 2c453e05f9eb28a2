"""Asking a server: one request and its answer, or a stream of events. Knows no command.

Every refusal and every silence is a Fault, whose exit code says which kind it was.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import click
import httpx2
import msgspec

from tq.cli.exits import Exit, Fault
from tq.core.sendable import PORT_MAX, header_text

KEY_VARIABLE: Final = "TQ_KEY"
READ_TRIES: Final = 3
"""How often something is asked that changes nothing, while the server fails to answer."""
READ_S: Final = 10.0
"""Seconds that the answer to such a question may take. A server that lets them pass is not asked again."""
PAUSE_MAX_S: Final = 5.0
"""Seconds between two tries at most, whatever the server asks for."""
CONNECT_S: Final = 5.0
QUIET_MAX_S: Final = 40.0
"""Seconds without a byte after which a stream is dead: a server shows every 15 that it lives."""
_LINE_MAX: Final = 8 * 1024 * 1024


class Lost(Exception):
    """The server did not answer, or not now. What was asked for may be done all the same."""

    def __init__(self, fault: Fault, retry_after_s: float, *, is_silence: bool = False) -> None:
        super().__init__(fault.line)
        self.fault = fault
        self.retry_after_s = retry_after_s
        self.is_silence = is_silence
        """It was reached, and said nothing within the time that it had."""


class Event(msgspec.Struct, frozen=True):
    """One message of a stream. ``id`` None: its id is that of the one before."""

    id: str | None
    event: str
    data: Any


def part(text: str, what: str = "ID") -> str:
    """*text* as one part of a path: also ``..`` is a name here, and no way up."""
    if not text:
        raise click.UsageError(f"{what} is empty")
    if set(text) == {"."}:
        return text.replace(".", "%2E")
    return quote(text, safe="")


class Api:
    """A server by its URL, for one command."""

    def __init__(self, url: str) -> None:
        if not re.match("https?://[^/]", url):
            raise click.UsageError(f"--url {url!r}: it must begin with http:// or https://")
        self.url = url.rstrip("/")
        # A proxy of the environment would not reach this machine's own loopback.
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise click.UsageError(f"--url {url!r}: {error}") from None
        if parsed.port is not None and not 0 < parsed.port <= PORT_MAX:
            raise click.UsageError(f"--url {url!r}: a port is 1 to {PORT_MAX}")
        local = parsed.host in ("localhost", "127.0.0.1", "::1")
        # To load whom to trust takes longer than to ask, and only https needs it.
        tls = True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx2.Client(trust_env=not local, verify=tls, headers=_authorization())

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def get(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        has: str = "id",
        timeout_s: float = READ_S,
        tries: int = READ_TRIES,
    ) -> dict[str, Any]:
        """The object at *path*, which has a member *has*. Asked again if the server fails to answer."""
        for tries_left in reversed(range(tries)):
            try:
                return self._ask("GET", path, query=query, has=has, timeout_s=timeout_s)
            except Lost as lost:
                if lost.is_silence or not tries_left:
                    raise lost.fault from None
                time.sleep(min(max(lost.retry_after_s, 0.2), PAUSE_MAX_S))
        raise AssertionError("the last try returns or raises")

    def change(
        self, method: str, path: str, body: object = None, *, has: str = "id", timeout_s: float = 60
    ) -> dict[str, Any]:
        """What the server answers to a change, an object with a member *has*. Asked once."""
        try:
            return self._ask(method, path, body, has=has, timeout_s=timeout_s)
        except Lost as lost:
            raise lost.fault from None

    def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        has: str,
        timeout_s: float,
    ) -> dict[str, Any]:
        with self._told_of():
            response = self._client.request(
                method,
                self.url + path,
                params=_present(query),
                content=None if body is None else msgspec.json.encode(body),
                headers={"content-type": "application/json"} if body is not None else None,
                timeout=httpx2.Timeout(timeout_s, connect=CONNECT_S),
            )
        if response.status_code == 204:
            return {}
        answer = _decoded(response.content)
        if response.is_success and isinstance(answer, dict) and has in answer:
            return answer
        raise self._refusal(response, answer)

    @contextmanager
    def events(
        self, path: str, query: Mapping[str, object] | None, *, last_id: str | None
    ) -> Iterator[Iterator[Event] | None]:
        """The stream at *path*, from after *last_id* on; None if all of it was seen.

        Raises:
            Lost: The stream broke off, or the server cannot give it now. Coming back goes on after it.
        """
        headers = {"accept": "text/event-stream"} | ({} if last_id is None else {"last-event-id": last_id})
        timeout = httpx2.Timeout(QUIET_MAX_S, connect=CONNECT_S)
        url = self.url + path
        with (
            self._told_of(),
            self._client.stream(
                "GET", url, params=_present(query), headers=headers, timeout=timeout
            ) as response,
        ):
            is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
            if response.status_code != 204 and not (response.is_success and is_stream):
                raise self._refusal(response, _decoded(response.read()))
            yield None if response.status_code == 204 else read_events(response.iter_bytes())

    @contextmanager
    def _told_of(self) -> Iterator[None]:
        """Turns the silence of a server into what the user is told."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            line = (
                f"no server answers at {self.url} ({error}): start one with `tq serve`, or name one with"
                " --url"
            )
            raise Fault(Exit.UNREACHABLE, line) from None
        except httpx2.LocalProtocolError:
            # What it says may have a header in it, and so the key.
            raise Fault(Exit.USAGE, "the request cannot be sent: HTTP does not allow what is in it") from None
        except httpx2.TransportError as error:
            line = (
                f"{self.url} gave no answer ({type(error).__name__}: {error}): what was asked of it"
                " may be done all the same; with --id, submitting again is safe"
            )
            is_silence = isinstance(error, httpx2.ReadTimeout)
            raise Lost(Fault(Exit.UNREACHABLE, line), 0, is_silence=is_silence) from None

    def _refusal(self, response: httpx2.Response, answer: object) -> Fault | Lost:
        status = response.status_code
        if not (response.is_error and isinstance(answer, dict) and "code" in answer):
            if status in (502, 503, 504):
                line = f"{self.url} answered {status}, as a proxy does whose server is away"
                return Lost(Fault(Exit.UNREACHABLE, line), _seconds(response.headers.get("retry-after")))
            line = f"{self.url} answered {status}, not as a tq server does: check --url"
            return Fault(Exit.REFUSED, line)
        fault = Fault(_kind(status), f"refused: {answer.get('detail')} [{answer['code']}]")
        if fault.code is Exit.NOT_NOW:
            return Lost(fault, _seconds(response.headers.get("retry-after")))
        return fault


def _authorization() -> dict[str, str]:
    key = header_text(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
    return {"authorization": f"Bearer {key}"} if key else {}


def _present(query: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (query or {}).items() if value is not None}


def _decoded(content: bytes) -> object:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _kind(status: int) -> Exit:
    match status:
        case 401 | 403:
            return Exit.NOT_ALLOWED
        case 404:
            return Exit.NOT_FOUND
        case 429 | 503 | 507:
            return Exit.NOT_NOW
        case _:
            return Exit.REFUSED


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and re.fullmatch(r"\d{1,6}", text) else 0


# Server-sent events


def read_events(chunks: Iterator[bytes]) -> Iterator[Event]:
    """The events in *chunks* of an event stream; a block without data only moves the id on."""
    fields: dict[str, str] = {}
    for line in _lines(chunks):
        if line:
            name, _, value = line.partition(":")
            if name in ("id", "event", "data"):
                fields[name] = value.removeprefix(" ")
        elif fields:
            yield Event(fields.get("id"), fields.get("event", ""), _decoded(fields.get("data", "").encode()))
            fields = {}


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    left = b""
    for chunk in chunks:
        *whole, left = (left + chunk).split(b"\n")
        if len(left) > _LINE_MAX:
            raise Fault(Exit.REFUSED, "the stream is none of a tq server: check --url")
        yield from (line.removesuffix(b"\r").decode(errors="replace") for line in whole)
