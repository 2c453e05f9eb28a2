"""The fixtures of the tests in a real browser. A plugin that modules ask for by name.

Browser, server and page are shared by the tests of a module: the page is loaded once, and each test has it
tidied and checks for itself that nothing was complained of.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Desk, open_profile, sit_down
from playwright.sync_api import BrowserContext
from process import Server, Site


@pytest.fixture(scope="module")
def profile() -> Iterator[BrowserContext]:
    with open_profile() as opened:
        yield opened


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the handlers of a shop."""
    site = Site(tmp_path_factory.mktemp("shop"))
    try:
        yield site.start("shop_app:app", store="memory:", workers=4)
    finally:
        site.close()


@pytest.fixture(scope="module")
def place(shop: Server) -> str:
    """Where the dashboard of the module is; a module may have another."""
    return f"http://127.0.0.1:{shop.port}/"


@pytest.fixture(scope="module")
def shared_desk(profile: BrowserContext, place: str) -> Iterator[Desk]:
    with sit_down(profile, place) as opened:
        yield opened


@pytest.fixture
def desk(shared_desk: Desk) -> Iterator[Desk]:
    shared_desk.tidy()
    yield shared_desk
    shared_desk.check()
