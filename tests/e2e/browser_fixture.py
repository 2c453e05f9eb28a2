"""The fixtures of the tests in a real browser. A plugin that modules ask for by name.

Browser and server are shared by the tests of a module; each test has a desk of its own.
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


@pytest.fixture
def desk(profile: BrowserContext, shop: Server) -> Iterator[Desk]:
    with sit_down(profile, f"http://127.0.0.1:{shop.port}/") as opened:
        yield opened
