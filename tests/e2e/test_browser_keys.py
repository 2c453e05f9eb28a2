"""The dashboard with a key: what the key must not is not offered, from the first moment and on any page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browser import Desk, sit_down
from playwright.sync_api import BrowserContext, Page, expect
from process import Server
from tiers import slow

pytestmark = slow

pytest_plugins = ("browser_fixture",)

PAGES = {
    "#/overview": "Overview",
    "#/tasks": "Tasks",
    "#/tasks/gone-wrong": "email gone-wrong",
    "#/tasks/napping": "nap napping",
    "#/queues": "Queues",
    "#/dead": "Dead letters",
    "#/schedules": "Schedules",
    "#/workers": "Workers",
    "#/types": "Types",
    "#/types/invoice": "invoice",
}
FOR_LOOKING = {"Search", "Copy"}
"""The buttons of pages that change nothing."""
CHANGES = {
    *("Retry", "Cancel", "Delete", "Retry all", "Delete all", "Retry 1", "Pause", "Resume", "Purge"),
    *("Rules", "Run now", "Set", "Submit", "Submit a task", "Retry with another payload", "As curl"),
    *("Submit one like it", "As JSON"),
}
WATCH_BUTTONS = """() => {
  window.__buttons = new Set();
  const look = () => {
    for (const each of document.querySelectorAll("main button, main .button, main input[type=checkbox]"))
      window.__buttons.add(each.innerText || each.ariaLabel);
    requestAnimationFrame(look);
  };
  look();
}"""
"""Note every button that is ever shown, for however short a time."""
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def keys(shop: Server) -> dict[str, str]:
    """Keys of the shop, which has something on each page, by what they are for."""
    shop.submit("email", {"to": "x@nowhere.net"}, id="gone-wrong", queue="mail")
    shop.submit("nap", {"seconds": 600}, id="napping", queue="mail")
    shop.submit("email", {"to": "a@example.org"}, id="elsewhere", queue="other", delay=600)
    body = b'{"cron": "30 7 * * *", "type": "email", "payload": {"to": "a@b.org"}}'
    shop.ask("PUT", "/v1/schedules/mornings", body, {"Content-Type": "application/json"})
    shop.final("gone-wrong")
    root = shop.post("/v1/keys", {"scopes": ["admin"]}).json["key"]

    def make(*scopes: str, queues: tuple[str, ...] = ()) -> str:
        made = shop.post(
            "/v1/keys", {"scopes": scopes, "queues": queues}, {"Authorization": f"Bearer {root}"}
        )
        return str(made.json["key"])

    return {
        "root": root,
        "read": make("read"),
        "operate": make("read", "operate"),
        "admin": make("read", "operate", "submit", "admin"),
        "submit": make("submit"),
        "mail": make("read", "operate", "submit", queues=("mail",)),
        "two": make("read", queues=("mail", "other")),
    }


@contextmanager
def desk_with(profile: BrowserContext, place: str, key: str) -> Iterator[Desk]:
    """A desk at which *key* was given, whose buttons are watched from the first moment."""
    with sit_down(profile, place) as desk:
        give = f"location.protocol === 'http:' && sessionStorage.setItem('tq.key', '{key}')"
        desk.page.add_init_script(f"{give}; ({WATCH_BUTTONS})()")
        yield desk


def ever_shown(page: Page) -> set[str]:
    return set(page.evaluate("[...window.__buttons]"))


def visit(desk: Desk, address: str, title: str) -> Page:
    page = desk.open(address)
    expect(page.locator("h1")).to_have_text(title)
    expect(page.locator(".loading")).to_have_count(0)
    page.evaluate(TWO_FRAMES)
    return page


def test_a_key_that_only_reads_is_offered_nothing_else(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    for address, title in PAGES.items():
        # Each page is the first one once: nothing is known of the key then.
        with desk_with(profile, place, keys["read"]) as desk:
            page = visit(desk, address, title)
            expect(page.locator(".limits")).to_have_text("read-only")
            assert ever_shown(page) <= FOR_LOOKING, address
    with desk_with(profile, place, keys["read"]) as desk:
        for address, title in PAGES.items():
            page = visit(desk, address, title)
        assert ever_shown(page) <= FOR_LOOKING


def test_a_key_that_operates_is_offered_no_more_than_that(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    with desk_with(profile, place, keys["operate"]) as desk:
        for address, title in PAGES.items():
            page = visit(desk, address, title)
        shown = ever_shown(page) & CHANGES
        assert shown == {
            *("Retry", "Cancel", "Delete", "Retry all", "Delete all", "Retry 1"),
            *("Pause", "Purge", "Run now"),
        }
        expect(page.locator(".limits")).to_have_count(0)
        page = visit(desk, "#/schedules", "Schedules")
        expect(page.get_by_role("button", name="Run now").first).to_be_visible()
        expect(page.get_by_role("button", name="Delete")).to_have_count(0)


def test_a_key_for_everything_is_offered_everything(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    with desk_with(profile, place, keys["admin"]) as desk:
        pages = PAGES | {"#/types/invoice": "Submit invoice"}
        for address, title in pages.items():
            page = visit(desk, address, title)
        assert CHANGES - ever_shown(page) == {"Resume"}


def test_a_key_for_one_queue_sees_that_queue(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    with desk_with(profile, place, keys["mail"]) as desk:
        page = visit(desk, "#/overview", "Overview")
        expect(page.locator(".limits")).to_have_text("mail")
        expect(page.locator(".mark")).to_have_text("Live")
        expect(page.locator(".tiles")).to_contain_text("Dead letters1failed for good")
        expect(page.get_by_role("region", name="Queues")).not_to_contain_text("other")
        expect(page.locator("nav[aria-label=Pages] li")).to_have_text(
            ["Overview", "Tasks", "Queues", "Types", "API"]
        )
        page = visit(desk, "#/tasks", "Tasks")
        expect(page.locator("tbody tr")).to_have_count(2)
        page.get_by_role("combobox", name="Search tasks").press_sequentially("queue:m")
        expect(page.get_by_role("option", name="queue:mail")).to_be_visible()
        for address, title in PAGES.items():
            page = visit(desk, address, title.replace("invoice", "Submit invoice"))
        page.get_by_role("textbox", name="JSON").fill('{"order": 1}')
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".page-note")).to_contain_text("succeeded")
        page = visit(desk, "#/dead", "Dead letters")
        page.get_by_role("link", name="mail").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody")).to_contain_text("gone-wrong")


def test_a_key_for_two_queues_is_asked_which(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    with desk_with(profile, place, keys["two"]) as desk:
        page = visit(desk, "#/tasks", "Tasks")
        expect(page.locator(".limits")).to_have_text("read-only2 queues")
        expect(page.locator(".mark")).to_have_text("Not live")
        page.get_by_role("link", name="other").click()
        expect(page.locator("tbody tr a.id")).to_have_text("elsewhere")
        for address, title in PAGES.items():
            visit(desk, address, title)


def test_a_key_that_may_not_look_is_told_so(
    profile: BrowserContext, place: str, keys: dict[str, str]
) -> None:
    with desk_with(profile, place, keys["submit"]) as desk:
        desk.expect_complaint("status of 403")  # of the stream of events
        page = visit(desk, "#/tasks", "Tasks")
        expect(page.locator("main")).to_contain_text("needs a key with the scope read; this one has submit")


def test_another_key_is_asked_what_it_may(
    profile: BrowserContext, shop: Server, place: str, keys: dict[str, str]
) -> None:
    """The key that was given is revoked; the next one, which is asked for, only reads."""
    as_root = {"Authorization": f"Bearer {keys['root']}"}
    scopes = {"scopes": ["read", "operate"]}
    made = shop.post("/v1/keys", scopes, as_root).json
    with desk_with(profile, place, made["key"]) as desk:
        desk.expect_complaint("status of 401")
        desk.expect_complaint("ERR_INCOMPLETE_CHUNKED_ENCODING")  # the stream of the key ends with it
        page = visit(desk, "#/queues", "Queues")
        expect(page.get_by_role("button", name="Pause").first).to_be_visible()
        shop.ask("DELETE", f"/v1/keys/{made['id']}", headers=as_root)
        page.get_by_role("dialog").get_by_label("Key").fill(keys["read"])
        page.get_by_role("dialog").get_by_role("button", name="Use this key").click()
        expect(page.locator(".limits")).to_have_text("read-only")
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
