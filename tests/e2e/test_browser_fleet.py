"""The dashboard of one server of several: what is its own, what is of all, the way to the others."""

from __future__ import annotations

import signal

import pytest
from browser import Desk, sit_down
from playwright.sync_api import BrowserContext, Page, expect
from process import Server, Site
from tiers import slow

pytestmark = slow

pytest_plugins = ("browser_fixture", "postgres_fixtures", "site_fixture")


@pytest.fixture
def fleet(site: Site, postgres_url: str) -> tuple[Server, Server]:
    """Two servers on one store, of which the first leads."""
    one = site.start("shop_app:app", store=postgres_url, workers=3)
    other = site.start("other_app:app", store=postgres_url, workers=2, grace=60)
    return one, other


def row(page: Page, server_id: str) -> str:
    rows = page.get_by_role("region", name="Servers").get_by_role("row")
    return rows.filter(has_text=server_id).inner_text()


def test_servers_are_told_apart_and_lead_to_each_other(
    profile: BrowserContext, fleet: tuple[Server, Server]
) -> None:
    one, other = fleet
    known = {each["here"]: each for each in one.get("/v1/servers").json["servers"]}
    assert set(known) == {True, False}
    with sit_down(profile, f"http://127.0.0.1:{one.port}/") as desk:
        page = desk.open("#/overview")
        expect(page.locator(".tiles")).to_contain_text("of 5")
        expect(page.locator(".tiles")).to_contain_text("workers of 2 servers")
        page = desk.open("#/workers")
        expect(page.locator(".note")).to_contain_text("1 other server with 2 workers, 0 of them busy")
        mine = row(page, known[True]["id"])
        assert all(word in mine for word in ("this one", "leads", "0 of 3", "invoice"))
        elsewhere = row(page, known[False]["id"])
        assert "elsewhere" in elsewhere
        assert f"process {other.process.pid}" in elsewhere
        assert "this one" not in elsewhere
        page.get_by_role("link", name=known[False]["id"]).click()
        page.wait_for_url(f"http://127.0.0.1:{other.port}/#/workers")
        expect(page.get_by_role("link", name=known[True]["id"])).to_be_visible()
        other.submit("forever")
        expect(page.locator(".page-note")).to_contain_text("1 of 2 workers busy, of this server")
        page = desk.open("#/workers")
        other.drain(signal.SIGTERM)
        drains = page.get_by_role("row").filter(has_text=known[False]["id"]).get_by_text("drains")
        expect(drains).to_be_visible()


def test_a_server_alone_says_nothing_of_others(desk: Desk) -> None:
    page = desk.open("#/workers")
    expect(page.get_by_role("region", name="Servers")).to_contain_text("this one alone has the store")
    expect(page.locator(".note")).to_have_count(0)
