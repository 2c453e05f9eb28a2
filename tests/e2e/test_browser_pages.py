"""The dashboard in a real browser: each page is shown, to everybody, everywhere, is quick, reckons right."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from browser import Desk, NoBrowser, find_browser, sit_down
from playwright.sync_api import BrowserContext, Page, Route, expect
from prefix_proxy import open_proxy
from process import NDJSON_TYPE, Server, Site
from tiers import slow

from tq.dashboard.files import dashboard

pytestmark = slow

pytest_plugins = ("browser_fixture",)

PAGES = {
    "": "Overview",
    "#/tasks": "Tasks",
    "#/tasks/gone-wrong": "email gone-wrong",
    "#/queues": "Queues",
    "#/dead": "Dead letters",
    "#/schedules": "Schedules",
    "#/workers": "Workers",
    "#/types": "Types",
    "#/types/invoice": "Submit invoice",
    "#/nowhere": "Nothing here",
}

NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea")]
  .filter(each => each.checkVisibility() && !each.innerText.trim() && !each.ariaLabel && !each.labels?.length)
  .map(each => each.outerHTML)"""

FAINT = """() => {
  const parts = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {rgb: [r, g, b], a};
  };
  const light = ({rgb}) => rgb.map(each => each / 255)
    .map(each => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const found = parts(getComputedStyle(each).backgroundColor);
      if (found.a === 1) return found;
    }
    return {rgb: [255, 255, 255], a: 1};
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const isOff = element.closest("button:disabled, noscript, script, .sr, .plot");
    if (!texts.currentNode.data.trim() || isOff || !element.checkVisibility()) continue;
    const [one, other] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${texts.currentNode.data.slice(0, 40)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def stocked(shop: Server) -> Server:
    """The shop, with something on each page."""
    shop.submit("email", {"to": "x@nowhere.net"}, id="gone-wrong", tags=["news"], key="ada")
    shop.submit("nap", {"seconds": 600}, id="napping")
    shop.submit("email", {"to": "a@example.org"}, delay=600)
    shop.post("/v1/queues/mail/pause", {})
    shop.submit("email", {"to": "a@example.org"})
    shop.final("gone-wrong")
    return shop


# Each page


@pytest.mark.parametrize("address", PAGES)
def test_a_page_is_shown_to_everybody(address: str, desk: Desk, stocked: Server) -> None:
    page = desk.open(address)
    expect(page.locator("h1")).to_have_text(PAGES[address])
    expect(page.locator(".loading")).to_have_count(0)
    assert page.locator("main").count() == page.locator("nav[aria-label=Pages]").count() == 1
    assert page.evaluate(NAMELESS) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(FAINT) == [], f"not readable when it is {scheme}"
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_overview_counts_what_happens(desk: Desk, stocked: Server) -> None:
    page = desk.open()
    tiles = page.locator(".tiles")
    expect(page.locator(".mark")).to_have_text("Live")
    before = stocked.get("/v1/stats").json["totals"]["succeeded"]
    for _ in range(5):
        stocked.submit("page", {"number": 1})
    expect(tiles).to_contain_text(f"{before + 5} done in all")
    expect(tiles).to_contain_text("1 of 4")
    expect(tiles).to_contain_text("oldest for")
    expect(page.get_by_role("region", name="Latest failures")).to_contain_text("email")
    assert page.locator("canvas").count() == 2


def test_the_theme_is_the_readers_and_is_kept(desk: Desk, stocked: Server) -> None:
    page = desk.open()
    page.emulate_media(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    page.locator("main h1").wait_for()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Theme: dark").click()
    assert page.evaluate(ground) == light


def test_a_task_that_is_not_there_is_told_so(desk: Desk, stocked: Server) -> None:
    desk.expect_complaint("status of 404")
    page = desk.open("#/tasks/never-was")
    expect(page.get_by_role("alert")).to_contain_text("Not there")


# The keyboard


def test_everything_is_reached_by_keyboard(desk: Desk, stocked: Server) -> None:
    page = desk.open()
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Search tasks")).to_be_focused()
    page.keyboard.type("type:email")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("combobox").press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator("tbody tr").first.locator("a.id")).to_be_focused()
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Selected tasks")).to_contain_text("1 task")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("email gone-wrong")
    expect(page.locator("h1")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page.locator("h1")).to_have_text("Queues")


# Where it is, and who may what


def test_it_works_below_a_path(profile: BrowserContext, stocked: Server) -> None:
    with open_proxy(stocked.port, "/a/tq") as proxy, sit_down(profile, proxy.base) as desk:
        page = desk.open()
        expect(page.locator(".mark")).to_have_text("Live")
        expect(page.locator(".tiles")).to_be_visible()
        page.get_by_role("link", name="Tasks", exact=True).click()
        page.get_by_role("link", name="gone-wrong").click()
        page.get_by_role("button", name="As curl").click()
        expect(page.get_by_label("Command")).to_contain_text(f"'{proxy.base}v1/tasks'")
        page.keyboard.press("Escape")
        page.get_by_role("link", name="API", exact=True).click()
        page.get_by_text("submit a task").first.wait_for()
        assert all(path.startswith("/a/tq/") for _, path, _ in proxy.asked if path != "/favicon.ico")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(profile: BrowserContext, stocked: Server) -> None:
    key = "tq_0123456789"
    with open_proxy(stocked.port, key=key) as proxy, sit_down(profile, proxy.base) as desk:
        desk.expect_complaint("status of 401")
        page = desk.open("#/tasks/gone-wrong")
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog).to_contain_text("not known, or no longer good")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use this key").click()
        expect(page.locator("h1")).to_have_text("email gone-wrong")
        expect(page.locator(".mark")).to_have_text("Live")
        page.get_by_role("button", name="As curl").click()
        expect(page.get_by_label("Command")).to_contain_text("authorization: Bearer $TQ_KEY")
        assert key not in page.content()
        page.reload()
        expect(page.locator("h1")).to_have_text("email gone-wrong")
        assert page.evaluate("[sessionStorage.length, JSON.stringify(localStorage)]") == [1, "{}"]
        assert all(key not in path for _, path, _ in proxy.asked)


def test_what_a_key_must_not_is_not_offered_twice(profile: BrowserContext, stocked: Server) -> None:
    with open_proxy(stocked.port, may_change=False) as proxy, sit_down(profile, proxy.base) as desk:
        desk.expect_complaint("status of 403")
        page = desk.open("#/tasks/gone-wrong")
        retry = page.get_by_role("button", name="Retry", exact=True)
        retry.click()
        page.get_by_text("refused: not_allowed").wait_for()
        expect(retry).to_have_count(0)
        page.keyboard.press("g")
        page.keyboard.press("q")
        expect(page.locator("tbody tr").first).to_be_visible()
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        expect(page.get_by_role("button", name="Rules").first).to_be_visible()


# Many tasks


CROWD = 100_000


def one_of_many(n: int) -> dict[str, object]:
    """A task of a crowd, the *n*th."""
    return {
        "type": "email" if n % 100 == 0 else "nap",
        "payload": {"to": f"{n}@example.org"} if n % 100 == 0 else {"seconds": n},
        "queue": f"crowd-{n % 7}",
        "tags": [f"day-{n % 30}", *(["rare"] if n % 20_000 == 0 else [])],
        "key": f"customer-{n % 200}",
        "delay": 3600,
    }


SEARCHES = {
    "state:scheduled": 50,
    "state:failed": 0,
    "queue:crowd-3": 50,
    "type:email": 50,
    "tag:day-7": 50,
    "tag:rare": 5,
    "key:customer-17": 50,
    "error:nothing": 0,
    "created:1h": 50,
    "payload.seconds:99999": 1,
    "parent:nobody": 0,
    "queue:crowd-3 type:email tag:day-10": 47,
}
"""By what is searched for in the crowd: the tasks on the first page."""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with CROWD tasks that wait, of several queues, keys and tags."""
    site = Site(tmp_path_factory.mktemp("crowd"))
    try:
        server = site.start("shop_app:app", workers=2)
        for start in range(0, CROWD, CROWD // 5):
            lines = "\n".join(json.dumps(one_of_many(n)) for n in range(start, start + CROWD // 5))
            answer = server.ask("POST", "/v1/tasks/batch", lines.encode(), NDJSON_TYPE)
            assert answer.status == 200
            assert b'"error"' not in answer.body
        yield server
    finally:
        site.close()


def frames(page: Page) -> list[float]:
    """How long each frame took since `watch_frames`, the longest first."""
    found: list[float] = page.evaluate("window.__frames.sort((a, b) => b - a)")
    return found


WATCH_FRAMES = """() => {
  window.__frames = [];
  let last = performance.now();
  const next = now => { window.__frames.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


def test_each_search_among_a_hundred_thousand_is_quick(profile: BrowserContext, crowd: Server) -> None:
    with sit_down(profile, f"http://127.0.0.1:{crowd.port}/") as desk:
        page = desk.open("#/tasks")
        box = page.get_by_role("combobox", name="Search tasks")
        for text, found in SEARCHES.items():
            started = time.monotonic()
            box.fill(text)
            box.press("Enter")
            expect(page.locator(".loading")).to_have_count(0)
            expect(page.locator("tbody tr")).to_have_count(found)
            assert time.monotonic() - started < 2, text
        page = desk.open("#/tasks")
        before = ""
        for _ in range(10):
            expect(page.locator("tbody tr a.id").first).not_to_have_text(before)
            before = page.locator("tbody tr a.id").first.inner_text()
            started = time.monotonic()
            page.get_by_role("link", name="Older").click()
            expect(page.locator("tbody tr a.id").first).not_to_have_text(before)
            assert time.monotonic() - started < 2


def test_a_hundred_thousand_tasks_do_not_slow_it(profile: BrowserContext, crowd: Server) -> None:
    with sit_down(profile, f"http://127.0.0.1:{crowd.port}/") as desk:
        page = desk.open()
        started = time.monotonic()
        page.get_by_role("link", name="Tasks", exact=True).click()
        expect(page.locator("tbody tr")).to_have_count(50)
        assert time.monotonic() - started < 3
        page.get_by_role("checkbox", name="Select all on this page").click()
        page.get_by_role("button", name="Select all that match").click()
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.get_by_role("heading", name="Cancel 100,000 tasks?")).to_be_visible()
        page.get_by_role("button", name="Not now").click()
        # Two thousand more, told of one by one, are no more than a page each time it is looked at.
        page.get_by_role("checkbox", name="Select all on this page").click()
        page.evaluate(WATCH_FRAMES)
        line = b'{"type": "page", "payload": {"number": 1}, "queue": "flood"}\n'
        crowd.ask("POST", "/v1/tasks/batch", line * 2_000, NDJSON_TYPE)
        expect(page.locator("tbody tr").first).to_contain_text("flood")
        expect(page.locator("tbody tr")).to_have_count(50)
        assert frames(page)[0] < 1000, "it stood still"


def test_nothing_moves_while_it_is_read(profile: BrowserContext, crowd: Server) -> None:
    with sit_down(profile, f"http://127.0.0.1:{crowd.port}/") as desk:
        page = desk.open("#/tasks?q=queue:crowd-0")
        expect(page.locator(".mark")).to_have_text("Live")
        first = page.locator("tbody tr a.id").first
        before = first.inner_text()
        page.mouse.wheel(0, 600)
        page.wait_for_function("window.scrollY > 200")
        task_id = crowd.submit("nap", {"seconds": 0}, queue="crowd-0", delay=60)
        show = page.get_by_role("button", name="while you read")
        show.wait_for()
        assert first.inner_text() == before
        show.click()
        expect(first).to_have_text(task_id)


def test_what_was_asked_for_before_it_is_read_moves_nothing(profile: BrowserContext, crowd: Server) -> None:
    with sit_down(profile, f"http://127.0.0.1:{crowd.port}/") as desk:
        page = desk.open("#/tasks?q=queue:crowd-0")
        expect(page.locator(".mark")).to_have_text("Live")
        first = page.locator("tbody tr a.id").first
        before = first.inner_text()
        held: list[Route] = []
        page.route("**/v1/tasks?*", lambda route: held.append(route))
        with page.expect_request("**/v1/tasks?*"):
            task_id = crowd.submit("nap", {"seconds": 0}, queue="crowd-0", delay=60)
        page.mouse.wheel(0, 600)
        page.wait_for_function("window.scrollY > 200")
        with page.expect_response("**/v1/tasks?*"):
            held[0].continue_()
        show = page.get_by_role("button", name="while you read")
        show.wait_for()
        assert first.inner_text() == before
        page.unroute("**/v1/tasks?*")
        show.click()
        expect(first).to_have_text(task_id)


# The modules that only reckon


class Modules:
    """Functions of the modules, called by name."""

    def __init__(self, desk: Desk) -> None:
        self.page = desk.page
        self._base = desk.base

    def address(self, module: str) -> str:
        """Where *module* is."""
        return f"{self._base}dashboard/{dashboard().version}/{module}.js"

    def call(self, module: str, function: str, *given: Any) -> Any:
        return self.page.evaluate(
            """async ([address, name, given]) => {
              const found = (await import(address))[name](...given);
              return found instanceof Map ? Object.fromEntries(found) : found;
            }""",
            [self.address(module), function, list(given)],
        )


@pytest.fixture
def modules(desk: Desk) -> Modules:
    """They are loaded from where the page is, whichever that is."""
    if not desk.page.url.startswith(desk.base):
        desk.open()
    return Modules(desk)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"every": 90}, "every 1 min 30 s"),
        ({"every": 86400}, "every 1 d"),
        ({"cron": "* * * * *", "tz": "UTC"}, "every minute UTC"),
        ({"cron": "*/15 * * * *", "tz": "UTC"}, "every 15 minutes UTC"),
        ({"cron": "0 * * * *", "tz": "UTC"}, "every hour UTC"),
        ({"cron": "5,35 * * * *", "tz": "UTC"}, "every hour at :05 and :35 UTC"),
        ({"cron": "0 3 * * *", "tz": "Europe/Madrid"}, "at 03:00, Europe/Madrid time"),
        (
            {"cron": "0 3 * * *", "tz": "America/New_York"},
            "at 03:00, America/New York time",
        ),
        ({"cron": "30 7,19 * * MON-FRI", "tz": "UTC"}, "at 07:30 and 19:30 Monday to Friday UTC"),
        ({"cron": "0 0 * * 7", "tz": "UTC"}, "at 00:00 on Sunday UTC"),
        ({"cron": "0 0 * * SUN,WED", "tz": "UTC"}, "at 00:00 on Sunday and Wednesday UTC"),
        ({"cron": "0 6 1,15 * *", "tz": "UTC"}, "at 06:00 on the 1st and 15th of the month UTC"),
        ({"cron": "0 6 22 * 1", "tz": "UTC"}, "at 06:00 on the 22nd of the month and on Monday UTC"),
        ({"cron": "0 6 L * *", "tz": "UTC"}, "at 06:00 on the last day of the month UTC"),
        ({"cron": "0 0 11 3 *", "tz": "UTC"}, "at 00:00 on the 11th of the month in March UTC"),
        (
            {"cron": "0 0 1 JAN,JUL *", "tz": "UTC"},
            "at 00:00 on the 1st of the month in January and July UTC",
        ),
        ({"cron": "*/10 9-17 * * *", "tz": "UTC"}, "every 10 minutes from 09:00 to 17:59 UTC"),
        ({"cron": "0 9-17 * * *", "tz": "UTC"}, "every hour from 09:00 to 17:00 UTC"),
        ({"cron": "@daily", "tz": "UTC"}, "at 00:00 UTC"),
        ({"cron": "1-59/7 2 * * 5#2", "tz": "UTC"}, "at 1-59/7 2 * * 5#2 UTC"),
        ({"cron": "0 0 * * 1-3", "tz": "UTC"}, "at 0 0 * * 1-3 UTC"),
    ],
)
def test_a_schedule_is_told_in_words(modules: Modules, schedule: dict[str, object], words: str) -> None:
    assert modules.call("words", "inWords", schedule) == words


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (0.4, "0.4 ms"),
        (999, "999 ms"),
        (1500, "1.5 s"),
        (59_900, "59.9 s"),
        (60_000, "1 min"),
        (3_600_000 - 1, "59 min 59 s"),
        (90 * 60_000, "1 h 30 min"),
        (36 * 3_600_000, "1 d 12 h"),
    ],
)
def test_a_duration_is_short(modules: Modules, ms: float, text: str) -> None:
    assert modules.call("text", "duration", ms) == text


def test_json_keeps_every_digit_and_every_letter(modules: Modules) -> None:
    text = (
        '{"a": [1e400, 0.10, {"b\\u0041": "x,}]\\"{"}], "payload":{"n":12345678901234567890},"e":{}, "f":[] }'
    )
    assert modules.call("text", "members", text) == {
        "a": '[1e400, 0.10, {"b\\u0041": "x,}]\\"{"}]',
        "payload": '{"n":12345678901234567890}',
        "e": "{}",
        "f": "[]",
    }
    assert modules.call("text", "pretty", '{"a":[1e400,{"b\\u0041":"x,}]"}],"e":{},"f":[]}') == (
        '{\n  "a": [\n    1e400,\n    {\n      "b\\u0041": "x,}]"\n    }\n  ],\n  "e": {},\n  "f": []\n}'
    )
    assert modules.call("text", "pretty", "null") == "null"


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "filter", "id"),
    [
        ("", {}, None),
        ("state:failed state:retrying", {"state": "failed,retrying"}, None),
        ('queue:mail error:"timed \\"out\\""', {"queue": "mail", "error": 'timed "out"'}, None),
        ("payload.user.id:42", {"where": "payload.user.id:42"}, None),
        ('payload.name:"a b"', {"where": "payload.name:a b"}, None),
        ("created:2h", {"created_after": "2023-11-14T20:13:20.000Z"}, None),
        ("created:>2026-01-31T00:00Z", {"created_after": "2026-01-31T00:00:00.000Z"}, None),
        ("parent:import-7 tag:a", {"parent_id": "import-7", "tag": "a"}, None),
        ("task-1", {}, "task-1"),
        ("id:a:b", {}, "a:b"),
    ],
)
def test_a_search_is_read(modules: Modules, text: str, filter: dict[str, str], id: str | None) -> None:
    assert modules.call("search", "parse", text, NOW) == {"filter": filter, "id": id, "faults": []}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("colour:red", "There is no qualifier colour"),
        ("queue:a queue:b", "queue is given twice"),
        ("created:soon", "created: say"),
        ("a b", "Only one id"),
        ("a queue:b", "An id says all"),
    ],
)
def test_a_fault_in_a_search_is_told(modules: Modules, text: str, fault: str) -> None:
    (told,) = modules.call("search", "parse", text, NOW)["faults"]
    assert told.startswith(fault)


def test_a_word_of_a_shell_is_one_whatever_is_in_it(modules: Modules) -> None:
    assert modules.call("text", "shellWord", 'a\'b $x\n"c"') == "'a'\\''b $x\n\"c\"'"


def test_a_percentile_is_by_the_nearest_rank(modules: Modules) -> None:
    values = list(range(1, 101))
    assert [modules.call("history", "percentile", values, n) for n in (50, 95, 99)] == [50, 95, 99]
    assert modules.call("history", "percentile", [7], 99) == 7
    assert modules.call("history", "percentile", [], 99) is None


RATES = """async ([address, begun, seed, isWhole, told, now]) => {
  const {History} = await import(address);
  const history = new History();
  history.begin(begun);
  history.add(told.map(each => ({event: "attempt.finished", wait_ms: 1, duration_ms: 1, ...each})));
  if (seed) history.seed(seed, {isWhole});
  const [seconds, ...rates] = history.rates(20, 5, now);
  return [seconds.map(each => each - Math.floor(begun / 1000)), ...rates];
}"""


def at(second: float) -> str:
    """So long after NOW, as the API tells it."""
    return datetime.fromtimestamp(NOW / 1000 + second, UTC).isoformat().replace("+00:00", "Z")


def ended(second: float, state: str = "succeeded") -> dict[str, object]:
    """A task that ended *second* after NOW."""
    ends = {"run_at": at(second - 1), "started_at": at(second - 1), "finished_at": at(second)}
    return {"id": f"t{second}", "type": "email", "queue": "q", "state": state, "attempt": 1, **ends}


@pytest.mark.parametrize(
    ("seed", "is_whole", "all_", "bad"),
    [
        (None, False, [None, None, 0.4, 0], [None, None, 0.2, 0]),
        ([], True, [0, 0, 0.4, 0], [0, 0, 0.2, 0]),
        ([ended(-7), ended(-6, "failed")], True, [0.4, 0, 0.4, 0], [0.2, 0, 0.2, 0]),
        # The last hundred reach back so far: from the step after that on, all is known.
        ([ended(-7), ended(-4)], False, [None, 0.2, 0.4, 0], [None, 0, 0.2, 0]),
        # What the stream has told already is not counted twice.
        ([ended(1)], True, [0, 0, 0.4, 0], [0, 0, 0.2, 0]),
    ],
)
def test_what_is_not_known_is_a_gap_in_the_chart(
    modules: Modules, seed: object, is_whole: bool, all_: list[float | None], bad: list[float | None]
) -> None:
    told = [
        {"task_id": "t1", "at": at(1), "state": "succeeded"},
        {"task_id": "t2", "at": at(2), "state": "failed"},
    ]
    given = [modules.address("history"), NOW, seed, is_whole, told, NOW + 10_000]
    seconds, *rates = modules.page.evaluate(RATES, given)
    assert seconds == [-10, -5, 0, 5]
    assert rates == [all_, bad]


# The browser itself


def test_a_missing_browser_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoBrowser, match="no Chromium on this machine: install it"):
        find_browser()
