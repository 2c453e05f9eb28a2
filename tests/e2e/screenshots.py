"""Pictures of the dashboard: those of the documentation, or with ``--all`` every page in every way."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from browser import open_browser
from playwright.sync_api import Page
from process import HERE, JSON_TYPE, Server, Site

PEOPLE = ("ada@example.org", "grace@example.org", "linus@example.net")
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 360, "height": 740}
SHOTS = {
    "overview": "#/overview",
    "tasks": "#/tasks?q=state:failed",
    "task-failed": "#/tasks/invoice-17",
    "task-running": "#/tasks/sales-2026",
    "queues": "#/queues",
    "dead": "#/dead",
    "schedules": "#/schedules",
    "workers": "#/workers",
    "types": "#/types",
    "submit": "#/types/invoice",
}

WAYS = {
    "light": ("light", WIDE),
    "dark": ("dark", WIDE),
    "narrow": ("light", NARROW),
    "night": ("dark", NARROW),
}
KEPT = {
    "overview": ("light", "dark", "narrow"),
    "tasks": ("light", "narrow"),
    "task-failed": ("dark",),
    "dead": ("light",),
    "submit": ("light",),
}
"""What the documentation shows."""
HISTORY_S = 100
"""Seconds of work before the first picture, so that the charts have something to show."""


def fill(server: Server) -> None:
    """Have there be work of every kind."""
    server.ask("PUT", "/v1/queues/mail", b'{"concurrency": 3, "rate": {"limit": 40, "period": 1}}', JSON_TYPE)
    server.post("/v1/tasks", {"type": "report", "id": "sales-2026", "payload": {"months": 500}})
    server.post(
        "/v1/tasks", {"type": "report", "id": "sales-2025", "payload": {"months": 400}, "key": "finance"}
    )
    server.post(
        "/v1/tasks", {"type": "catalogue", "id": "spring-catalogue", "payload": {"file": "spring.csv"}}
    )
    server.post("/v1/tasks", {"type": "email", "payload": {"to": "a@example.org"}, "delay": 7200})
    server.post("/v1/queues/archive/pause", {})
    server.post("/v1/tasks", {"type": "nap", "queue": "archive", "payload": {"seconds": 1}})
    for number in range(60):
        order = {"order": number, "lines": ["2 tea", "1 mug"]}
        attempts = {"max_attempts": 1} if number % 2 else {}
        server.submit("invoice", order, id=f"invoice-{number}", tags=["shop"], **attempts)


def keep_busy(server: Server, until: float) -> None:
    """Give it something to do at a varying pace, until then."""
    number = 200
    while (left := until - time.monotonic()) > 0:
        number += 1
        to = PEOPLE[2 if number % 13 == 0 else number % 2]
        server.submit("email", {"to": to}, id=f"news-{number}", tags=["news"])
        if number % 4 == 0:
            server.submit("invoice", {"order": number}, id=f"invoice-{number}", max_attempts=1)
        time.sleep(0.06 + 0.05 * abs(math.sin(left / 9)))


def take(page: Page, path: Path, way: str) -> None:
    scheme, size = WAYS[way]
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.wait_for_timeout(900)
    page.screenshot(path=path)


def main(folder: Path, wanted: Mapping[str, Iterable[str]], history_s: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shop-") as work, open_browser() as browser:
        site = Site(Path(work))
        # Tracebacks name the file, and where that is on this machine is nobody's business.
        shutil.copy(HERE / "shop_app.py", work)
        server = site.start("shop_app:app", workers=8)
        page = browser.new_page(locale="en-US")
        page.on("console", lambda message: print(message.type, message.text))
        page.on("pageerror", lambda error: print(error))
        page.goto(f"http://127.0.0.1:{server.port}/")
        fill(server)
        keep_busy(server, time.monotonic() + history_s)
        for name, ways in wanted.items():
            for _ in range(20):
                server.submit("email", {"to": PEOPLE[0]}, tags=["news"])
            page.goto(f"http://127.0.0.1:{server.port}/{SHOTS[name]}")
            page.wait_for_timeout(700)
            for way in ways:
                take(page, folder / f"{name}-{way}.png", way)
        page.goto("about:blank")
        site.close()


if __name__ == "__main__":
    to, *rest = sys.argv[1:]
    main(Path(to), dict.fromkeys(SHOTS, WAYS) if "--all" in rest else KEPT, HISTORY_S)
