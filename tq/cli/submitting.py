"""``tq submit``: one request to a server, and the wait for what becomes of it."""

from __future__ import annotations

import re
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click
import httpx2
import msgspec

from tq.cli.exits import Exit, Fault, say
from tq.core.task import FINAL, State

HOLD_S: Final = 30.0
"""Seconds that one request waits for a task to end, before the next."""


def run(url: str, fields: dict[str, Any], *, wait_ms: int | None, as_json: bool) -> Exit:
    """Submit what *fields* say, print what came of it, and say how it ended.

    Args:
        wait_ms: How long to wait for the end; None does not.
    """
    body = _submission(**fields)
    with closing(_Api(url)) as api:
        task = api.call("POST", "/v1/tasks", body)
        if wait_ms is None:
            click.echo(_json(task) if as_json else task["id"])
            return Exit.OK
        return _report(_wait_final(api, task, wait_ms), as_json=as_json)


def _submission(
    *,
    values: tuple[str, ...],
    payload: str | None,
    delay: int | None,
    timeout: int | None,
    priority: str | None,
    **fields: Any,
) -> dict[str, Any]:
    """The body of the request; what was not said is not in it."""
    body = {name: value for name, value in fields.items() if value is not None}
    if payload is not None and values:
        raise click.UsageError("give either --payload or KEY=VALUE, not both")
    if payload is not None:
        body["payload"] = _read_payload(payload)
    elif values:
        body["payload"] = dict(_pair(value) for value in values)
    if delay is not None:
        body["delay"] = delay / 1000
    if timeout is not None:
        body["timeout"] = timeout / 1000
    if priority is not None:
        body["priority"] = _json_or_text(priority)
    return body


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"{text!r} is not KEY=VALUE; for another payload use --payload")
    return key, _json_or_text(value)


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _read_payload(source: str) -> Any:
    try:
        text: str | bytes = source
        if source == "-":
            text = sys.stdin.buffer.read()
        elif source.startswith("@"):
            text = Path(source[1:]).read_bytes()
        return msgspec.json.decode(text)
    except OSError as error:
        raise click.UsageError(f"--payload {source}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--payload {source}: not JSON: {error}") from None


class _Api:
    """A server by its URL, for one command. Every refusal and every silence is a Fault."""

    def __init__(self, url: str) -> None:
        if not re.match("https?://[^/]", url):
            raise click.UsageError(f"--url {url!r}: it must begin with http:// or https://")
        self._url = url.rstrip("/")
        # A proxy of the environment would not reach this machine's own loopback.
        try:
            local = httpx2.URL(url).host in ("localhost", "127.0.0.1", "::1")
        except httpx2.InvalidURL as error:
            raise click.UsageError(f"--url {url!r}: {error}") from None
        self._client = httpx2.Client(trust_env=not local)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 30) -> dict[str, Any]:
        """The object that the server answers with."""
        try:
            response = self._client.request(
                method,
                self._url + path,
                content=None if body is None else msgspec.json.encode(body),
                headers={"content-type": "application/json"} if body is not None else None,
                timeout=httpx2.Timeout(timeout_s, connect=5),
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Fault(
                Exit.UNREACHABLE,
                f"no server answers at {self._url} ({error}): start one with `tq serve`, or name one with"
                " --url",
            ) from None
        except httpx2.TransportError as error:
            raise Fault(
                Exit.UNREACHABLE,
                f"{self._url} gave no answer ({type(error).__name__}: {error}): what was asked of it"
                " may be done all the same; with --id, submitting again is safe",
            ) from None
        answer = _json_or_text(response.text)
        if not isinstance(answer, dict) or not ("code" in answer if response.is_error else "id" in answer):
            raise Fault(
                Exit.REFUSED,
                f"{self._url} answered {response.status_code}, not as a tq server does: check --url",
            )
        if response.is_error:
            raise Fault(Exit.REFUSED, f"refused: {answer.get('detail')} [{answer['code']}]")
        return answer


def _wait_final(api: _Api, task: dict[str, Any], wait_ms: int) -> dict[str, Any]:
    """*task* once it has ended, or as it is after *wait_ms*."""
    click.echo(f"{task['id']} is {task['state']}", err=True)
    ends = time.monotonic() + wait_ms / 1000
    while task["state"] not in FINAL and (left := ends - time.monotonic()) > 0:
        asked = time.monotonic()
        hold = min(left, HOLD_S)
        try:
            task = api.call("GET", f"/v1/tasks/{task['id']}?wait={hold:.3f}", timeout_s=hold + 10)
        except Fault as fault:
            raise Fault(
                fault.code, f"while waiting for {task['id']}, which is stored: {fault.line}"
            ) from None
        if task["state"] not in FINAL and time.monotonic() - asked < 1:
            # A server that is shutting down holds nobody; do not hammer it.
            time.sleep(0.25)
    return task


def _report(task: dict[str, Any], *, as_json: bool) -> Exit:
    """Print what came of *task* and choose the exit code."""
    state = task["state"]
    if as_json:
        click.echo(_json(task))
    elif state == State.SUCCEEDED:
        click.echo(_json(task["result"]))
    match state:
        case State.SUCCEEDED:
            return Exit.OK
        case State.FAILED:
            errors = task.get("errors") or [{}]
            line = f"{task['id']} failed ({task['reason']}): {errors[-1].get('message', 'no message')}"
            return say(line, Exit.TASK_FAILED)
        case State.CANCELLED:
            return say(f"{task['id']} was cancelled ({task['reason']})", Exit.TASK_CANCELLED)
        case _:
            return say(f"{task['id']} has not ended: it is {state}", Exit.TASK_NOT_FINISHED)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
