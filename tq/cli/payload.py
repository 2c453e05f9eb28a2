"""Arguments to JSON: what a submit and a schedule say of a task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec


def task_fields(
    *,
    values: tuple[str, ...],
    payload: str | None,
    timeout: int | None,
    result_ttl: int | None,
    priority: str | None,
    retry: str | None,
    unique_key: str | None,
    unique_while: str | None,
    on_conflict: str | None,
    **fields: Any,
) -> dict[str, Any]:
    """The fields of a task as the API takes them; what was not said is not there.

    Raises:
        click.UsageError: They contradict each other, or something that must be JSON is not.
    """
    body = {name: value for name, value in fields.items() if value not in (None, ())}
    if payload is not None and values:
        raise click.UsageError("give either --payload or KEY=VALUE, not both")
    if payload is not None:
        body["payload"] = _read_payload(payload)
    elif values:
        body["payload"] = _object(values)
    for name, ms in (("timeout", timeout), ("result_ttl", result_ttl)):
        if ms is not None:
            body[name] = ms / 1000
    if priority is not None:
        body["priority"] = json_or_text(priority)
    if retry is not None:
        body["retry"] = _json("--retry", retry)
    unique = {"key": unique_key, "while": unique_while, "on_conflict": on_conflict}
    if unique_key is not None:
        body["unique"] = {name: value for name, value in unique.items() if value is not None}
    elif unique_while or on_conflict:
        raise click.UsageError("--unique-while and --on-conflict are of --unique-key: give that too")
    return body


def _object(values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        key, said = _pair(value)
        if key in found:
            raise click.UsageError(f"{key} is given twice: an array is one value, as in '{key}=[1, 2]'")
        found[key] = said
    return found


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"{text!r} is not KEY=VALUE; for another payload use --payload")
    return key, json_or_text(value)


def json_or_text(text: str) -> Any:
    """What *text* is as JSON, or else *text*."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _read_payload(source: str) -> Any:
    text: str | bytes = source
    try:
        if source == "-":
            text = sys.stdin.buffer.read()
        elif source.startswith("@"):
            text = Path(source[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--payload {source}: {error.strerror}") from None
    return _json(f"--payload {source}", text)


def _json(what: str, text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{what}: not JSON: {error}") from None
