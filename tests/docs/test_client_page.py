"""What docs/how-to/client.md shows of web frameworks is run in them; the server is an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.conf import settings  # type: ignore[import-untyped]  # has no types
from django.test import RequestFactory  # type: ignore[import-untyped]
from pages import blocks

from tq import Client

PAGE = blocks((Path(__file__).parents[2] / "docs/how-to/client.md").read_text())


@pytest.fixture
def asked() -> list[tuple[str, object]]:
    """What came to the server: the path and the body of each request."""
    return []


@pytest.fixture
def client(asked: list[tuple[str, object]]) -> Client:
    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.url.path, json.loads(request.content)))
        return httpx2.Response(201, json={"id": "task-1", "state": "pending"})

    return Client(transport=httpx2.MockTransport(answer))


def shown(of: str, client: Client) -> dict[str, Any]:
    """The names of the block that imports *of*, which submits by *client*."""
    (block,) = (block for block in PAGE if block.language == "python" and f"from {of}" in block.text)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block.text, f"client.md:{block.line}", "exec", dont_inherit=True), names)
    names["tq"].close()
    names["tq"] = client
    return names


def test_the_view_of_django_submits(client: Client, asked: list[tuple[str, object]]) -> None:
    if not settings.configured:
        settings.configure(DEFAULT_CHARSET="utf-8", ALLOWED_HOSTS=["testserver"])
    answer = shown("django.http", client)["order"](RequestFactory().post("/orders", {"order": "7"}))
    assert (answer.status_code, answer.content) == (202, b"task-1")
    assert asked == [("/v1/tasks", {"type": "invoice", "payload": {"order": "7"}})]


def test_the_route_of_flask_submits(client: Client, asked: list[tuple[str, object]]) -> None:
    answer = shown("flask", client)["app"].test_client().post("/orders/7")
    assert (answer.status_code, answer.data) == (202, b"task-1")
    assert asked == [("/v1/tasks", {"type": "invoice", "payload": {"order": 7}})]
