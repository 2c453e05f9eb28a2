"""250 hostile strings in every field that a user fills: the dashboard shows each as the text that it is.

That none of them runs, that the console stays empty and the policy is never hit, each desk checks for itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser import Desk
from playwright.sync_api import Page, expect
from process import Server, Site, wait_until
from tiers import slow

pytestmark = slow

pytest_plugins = ("browser_fixture",)

RUN = "window.__ran.push(1)"
TAGS = ("script", "img", "svg", "iframe", "object", "math", "video", "body", "details", "style", "a", "base")
FORMS = (
    "<{tag}>{run}</{tag}>",
    "<{tag} src=x onerror={run}>",
    "<{tag} onload={run} onfocus={run} autofocus tabindex=0>",
    "\"><{tag} src=x onerror='{run}'>",
    "'><{tag} onmouseover={run}>",
    "</{tag}><script>{run}</script>",
    "<{tag}/src=//x onerror={run}//",
    "<{tag} href=javascript:{run} src=javascript:{run}>x</{tag}>",
    "<scr<{tag}>ipt>{run}</scr<{tag}>ipt>",
    "&lt;{tag} onerror={run}&gt;",
    "%3C{tag}%20onerror%3D{run}%3E",
    "\\x3c{tag} onerror={run}\\x3e\\u003c{tag}\\u003e",
    "<{tag} style=background:url(javascript:{run})>",
    "]]><{tag} xmlns='http://www.w3.org/1999/xhtml' onload={run}/>",
    '<!--<{tag} title="--><img src=x onerror={run}>">',
)
OTHERS = (
    "__proto__", "constructor", "toString", "hasOwnProperty", "prototype", "null", "undefined", "NaN",
    "true", "{{constructor.constructor('" + RUN + "')()}}", "${" + RUN + "}", "<%= " + RUN + " %>",
    "#{" + RUN + "}", "{% raw %}", "[[" + RUN + "]]", "{{{x}}}", "`${" + RUN + "}`", "');" + RUN + ";('",
    '");' + RUN + ';("', "javascript:" + RUN, "data:text/html,<script>" + RUN + "</script>", "vbscript:x",
    "//evil.example/x", "\u202egnp.exe", "\u2066left\u2069", "שלום עולם", "مرحبا بالعالم", "\u200f\u200e",
    "\ufeffbom", "a\u0300" * 30, "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L͠", "👩‍👩‍👧‍👦🏳️‍🌈", "😀" * 60, "𝕋𝕙𝕖",
    "ﷺ" * 20, "\u2028line\u2029", "\u00a0", "\u200b\u200b", "x" * 9000, "w" * 128, "a b " * 400,
    "\n" * 20, "\t\ttabs", "\r\nSet-Cookie: a=b", "\x1b[31mred", "\x07\x08", "../../../etc/passwd", "..",
    ".", "#/tasks", "?q=state:failed", "%00%0a", "%", "%zz", "a%2Fb", "\\", "\\\\host", '"', "'", "`",
    "<", ">", "&", "&amp;amp;", "&#x3c;script&#x3e;", "<>", "</", "-->", "*/", "//", "/*", "';--",
    "1' OR '1'='1", "-1", "1e400", "9007199254740993", "0x10", "[]", "{}", '{"__proto__":{"polluted":1}}',
    "[object Object]",
)  # fmt: skip
STRINGS = [form.format(tag=tag, run=RUN) for form in FORMS for tag in TAGS] + list(OTHERS)
NAMES = [
    "__proto__",
    "constructor",
    "toString",
    "javascript:x",
    "..",
    ".",
    "~",
    "-",
    "--",
    ":",
    "a:b",
    "hasOwnProperty",
]
"""Those that may be a type, a queue, a tag, an id or the name of a schedule."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server where every field is filled with them."""
    site = Site(tmp_path_factory.mktemp("hostile"))
    try:
        server = site.start("hostile_app:app", store="memory:", workers=8)
        fill(server)
        yield server
    finally:
        site.close()


def fill(server: Server) -> None:
    tasks = []
    for at, text in enumerate(STRINGS):
        key = {"key": text} if text.isprintable() and 1 <= len(text) <= 128 else {}
        name = NAMES[at % len(NAMES)]
        tasks.append(
            {"id": f"h{at:03}", "type": name, "queue": name, "tags": [name], "payload": {"text": text}, **key}
        )
    answer = server.post("/v1/tasks/batch", tasks)
    assert answer.status == 201, answer
    for name in NAMES[:3]:
        schedule = {"every": 3600, "type": name, "queue": name, "payload": {name: STRINGS}}
        body = json.dumps(schedule).encode()
        path = f"/v1/schedules/{name}"
        assert server.ask("PUT", path, body, {"Content-Type": "application/json"}).status == 201
    for name in ("__proto__", "constructor"):
        server.submit("say", {"texts": STRINGS[:30]}, id=name)
    wait_until(lambda: server.states() == {"failed": len(STRINGS), "succeeded": 2}, lambda: "they go on")


@pytest.fixture(scope="module")
def place(hostile: Server) -> str:
    return f"http://127.0.0.1:{hostile.port}/"


GO_ANYWHERE = """async texts => {
  const frame = () => new Promise(requestAnimationFrame);
  const there = async (hash, selector) => {
    location.hash = hash;
    await frame();
    for (let left = 300; left > 0 && !document.querySelector(selector); left--) await frame();
    return document.querySelector(selector);
  };
  const lost = [];
  for (const text of texts) {
    const box = await there("#/tasks", "#search");
    box.value = "error:" + JSON.stringify(text.slice(0, 150));
    box.dispatchEvent(new Event("input", {bubbles: true}));
    await frame();
    box.form.requestSubmit();
    await frame();
    if (!(await there("#/" + text, "main h1"))) lost.push(text);
    if (!(await there("#/tasks?q=" + text, "#search"))) lost.push(text);
  }
  return lost;
}"""
"""Search for each text, and have it as the address of a page and of a search; those that no page came for."""


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.locator(selector).evaluate_all("all => all.map(each => each.textContent)")
    return found


def test_there_are_250_of_them() -> None:
    assert len(set(STRINGS)) >= 250


def test_lists_of_tasks_show_errors_keys_types_and_tags_as_text(desk: Desk, hostile: Server) -> None:
    page = desk.open("#/tasks?q=state:failed")
    faults: set[str] = set()
    keys: set[str] = set()
    types: set[str] = set()
    while True:
        page.locator("tbody tr").first.wait_for()
        faults |= set(texts(page, "td .fault"))
        keys |= set(texts(page, ".chip[title=key]"))
        types |= set(texts(page, "td.type"))
        older = page.get_by_role("link", name="Older")
        if not older.count():
            break
        first = page.locator("tbody tr a.id").first.inner_text()
        older.click()
        expect(page.locator("tbody tr a.id").first).not_to_have_text(first)
    assert {f"{text}: {text[:160]}" for text in STRINGS} <= faults
    assert {text for text in STRINGS if text.isprintable() and len(text) <= 128} <= keys
    assert set(NAMES) <= types


def test_dead_letters_show_types_messages_and_tracebacks_as_text(desk: Desk, hostile: Server) -> None:
    page = desk.open("#/dead")
    page.locator(".group").first.wait_for()
    groups = hostile.get("/v1/failures?limit=100").json["groups"]
    assert len(groups) == 100
    assert texts(page, ".group .message") == [each["error"]["message"][:500] for each in groups]
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    assert texts(page, ".group pre") == [each["error"]["traceback"] for each in groups]


@pytest.mark.parametrize("at", [0, 30, 181, 190, 200, 220, 230])
def test_a_task_shows_its_payload_and_its_error_as_text(at: int, desk: Desk, hostile: Server) -> None:
    page = desk.open(f"#/tasks/h{at:03}")
    page.locator("pre[aria-label=Payload]").wait_for()
    assert json.loads(texts(page, "pre[aria-label=Payload]")[0]) == {"text": STRINGS[at]}
    assert texts(page, ".attempt summary strong") == [STRINGS[at]]
    page.get_by_role("button", name="As curl").click()
    page.keyboard.press("Escape")


def test_progress_log_and_result_are_text_while_they_come(desk: Desk, hostile: Server) -> None:
    task_id = hostile.submit("say", {"texts": STRINGS}, delay=0.5)
    page = desk.open(f"#/tasks/{task_id}")
    expect(page.locator(".page-note")).to_contain_text("succeeded")
    page.locator("pre[aria-label=Result]").wait_for()
    page.get_by_role("button", name="Show all").last.click()
    assert json.loads(texts(page, "pre[aria-label=Result]")[0]) == STRINGS
    told = [line["text"] for line in hostile.task(task_id)["logs"]]
    assert texts(page, ".log .user") == told
    assert len(told) == 200


def test_names_that_mean_something_to_javascript_are_names(desk: Desk, hostile: Server) -> None:
    for address in (
        "#/queues",
        "#/schedules",
        "#/types",
        "#/overview",
        "#/tasks/__proto__",
        "#/tasks/constructor",
    ):
        page = desk.open(address)
        expect(page.locator(".loading")).to_have_count(0)
    page = desk.open("#/queues")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="__proto__", exact=True))
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    assert hostile.get("/v1/queues/__proto__").json["paused"] is True
    page = desk.open("#/schedules")
    page.get_by_role("region", name="constructor").get_by_role("button", name="Run now").click()
    page.get_by_text("is made.").wait_for()
    assert page.evaluate("({}).polluted") is None


def test_an_address_and_a_search_can_be_anything(desk: Desk, hostile: Server) -> None:
    page = desk.open("#/tasks")
    assert page.evaluate(GO_ANYWHERE, STRINGS[::12]) == []
    # What is no search is told so by the page, or by the server, which the browser writes down.
    desk.complaints = [each for each in desk.complaints if "status of 4" not in each]
