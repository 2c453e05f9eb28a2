"""GET /docs: a page that shows the contract, and loads nothing from elsewhere."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import trio.testing
from raw_http import open_api

from tq.handlers import TaskQueue

Clock = trio.testing.MockClock


def source(html: str, tag: str) -> list[str]:
    return [
        f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'"
        for each in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
    ]


async def test_the_page_runs_only_what_is_in_it_and_asks_only_its_own_server(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        page = await api.get("/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    html = page.body.decode()
    (style,), (script,) = source(html, "style"), source(html, "script")
    assert page.headers["content-security-policy"].split("; ") == [
        "default-src 'none'",
        f"style-src {style}",
        f"script-src {script}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_the_page_names_no_other_address_and_makes_no_html_of_text(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        html = (await api.get("/docs")).body.decode()
    assert re.findall(r"https?:|//[a-z]|src=|\burl\(|@import", html) == []
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(| on[a-z]+=|style=", html)
        == []
    )
    # Relative, so that the page is right behind a proxy with a path of its own.
    assert re.findall(r'fetch\("([^"]*)"\)|href="([^"]*)"', html) == [
        ("", "openapi.json"),
        ("openapi.json", ""),
    ]


async def test_the_page_is_known_by_its_tag(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        tag = (await api.get("/docs")).headers["etag"]
        again = await api.ask("GET", "/docs", headers={"If-None-Match": f'W/"other", {tag}'})
        assert (again.status, again.body) == (304, b"")
        assert "content-type" not in again.headers
