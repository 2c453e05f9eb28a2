"""The dashboard in a real browser: what each of its buttons does, as the API tells it afterwards."""

from __future__ import annotations

import json
import shlex

import pytest
from browser import Desk
from playwright.sync_api import Page, expect
from process import Server, wait_until
from tiers import slow

pytestmark = slow

pytest_plugins = ("browser_fixture",)


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def confirm(page: Page, name: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def failed(server: Server, **more: object) -> str:
    """A task that has failed."""
    task_id = server.submit("email", {"to": "x@nowhere.net"}, **more)
    assert server.final(task_id)["state"] == "failed"
    return task_id


# One task


def test_a_task_is_followed_to_its_end(desk: Desk, shop: Server) -> None:
    desk.open()
    task_id = shop.submit("report", {"months": 2})
    page = desk.open(f"#/tasks/{task_id}")
    expect(page.locator(".page-note")).to_contain_text("running")
    expect(page.locator(".progress")).to_contain_text("month 2 of 2")
    expect(page.get_by_role("list", name="Log")).to_contain_text("read 1237 orders of month 2")
    expect(page.locator(".page-note")).to_contain_text("succeeded")
    expect(page.locator("pre[aria-label=Result]")).to_contain_text('"total": "1894223.10"')
    expect(page.locator(".timeline")).to_contain_text("Succeeded")


def test_numbers_are_shown_digit_for_digit(desk: Desk, shop: Server) -> None:
    task_id = shop.submit("invoice", {"order": 345678901234567891})
    shop.final(task_id)
    page = desk.open(f"#/tasks/{task_id}")
    expect(page.locator("pre[aria-label=Payload]")).to_have_text('{\n  "order": 345678901234567891\n}')
    assert shop.task(task_id)["result"] == 354686100489308884
    expect(page.locator("pre[aria-label=Result]")).to_have_text("354686100489308884")


def test_a_failed_task_is_explained_and_retried(desk: Desk, shop: Server) -> None:
    task_id = failed(shop)
    page = desk.open(f"#/tasks/{task_id}")
    expect(page.locator(".attempt")).to_contain_text("no mailbox takes messages for x@nowhere.net")
    expect(page.get_by_label("Traceback")).to_contain_text("raise AddressError")
    button(page, "Retry")
    expect(page.get_by_role("status").filter(has_text="waits again")).to_be_visible()
    wait_until(lambda: len(shop.task(task_id)["errors"]) == 2, lambda: "not retried")
    expect(page.locator(".attempt")).to_have_count(2)


def test_a_task_is_retried_with_another_payload(desk: Desk, shop: Server) -> None:
    task_id = failed(shop, tags=["news"], key="ada")
    page = desk.open(f"#/tasks/{task_id}")
    page.get_by_role("link", name="Retry with another payload").click()
    to = page.get_by_role("textbox", name="to", exact=True)
    expect(to).to_have_value("x@nowhere.net")
    to.fill("x@somewhere.org")
    button(page, "Submit")
    expect(page.locator(".page-note")).to_contain_text("succeeded")
    made = shop.task(page.url.rpartition("/")[2])
    assert made["id"] != task_id
    assert (made["payload"]["to"], made["tags"], made["key"]) == ("x@somewhere.org", ["news"], "ada")


def test_a_running_task_is_cancelled_and_then_deleted(desk: Desk, shop: Server) -> None:
    task_id = shop.submit("nap", {"seconds": 60})
    page = desk.open(f"#/tasks/{task_id}")
    button(page, "Cancel")
    confirm(page, "Cancel the task")
    expect(page.locator(".page-note")).to_contain_text("cancelled")
    assert shop.task(task_id)["state"] == "cancelled"
    button(page, "Delete")
    confirm(page, "Delete the task")
    expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
    assert shop.get(f"/v1/tasks/{task_id}").status == 404


def test_a_task_is_shown_as_a_command_that_makes_it_again(desk: Desk, shop: Server) -> None:
    task_id = shop.submit("email", {"to": "o'hara@example.org"}, tags=["a"], delay=600)
    page = desk.open(f"#/tasks/{task_id}")
    button(page, "As curl")
    words = shlex.split(page.get_by_label("Command").inner_text().replace("\\\n", ""))
    body = json.loads(words[words.index("-d") + 1])
    assert words[:2] == ["curl", f"http://127.0.0.1:{shop.port}/v1/tasks"]
    assert (body["type"], body["payload"], body["tags"]) == ("email", {"to": "o'hara@example.org"}, ["a"])
    page.get_by_role("dialog").get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl 'http://")


def test_a_family_is_shown_from_parent_to_child(desk: Desk, shop: Server) -> None:
    task_id = shop.submit("catalogue", {}, id="spring")
    shop.final(task_id)
    page = desk.open("#/tasks/spring")
    child = page.locator(".tree").get_by_role("link", name="spring:1")
    child.click()
    expect(page.get_by_text("Child of spring")).to_be_visible()


# Many tasks


def test_some_tasks_are_selected_and_retried(desk: Desk, shop: Server) -> None:
    ids = [failed(shop, queue="some") for _ in range(3)]
    page = desk.open("#/tasks?q=queue:some")
    for task_id in ids[:2]:
        page.get_by_role("checkbox", name=f"Select {task_id}").click()
    expect(page.get_by_role("region", name="Selected tasks")).to_contain_text("2 tasks")
    button(page, "Retry")
    confirm(page, "Retry 2")
    wait_until(
        lambda: sorted(len(shop.task(each)["errors"]) for each in ids) == [1, 2, 2], lambda: "not retried"
    )


@pytest.mark.parametrize(("verb", "left"), [("Cancel", {"cancelled": 120}), ("Delete", {})])
def test_all_that_match_are_changed_with_their_number(
    desk: Desk, shop: Server, verb: str, left: dict[str, int]
) -> None:
    queue = f"all-{verb}"
    tasks = [{"type": "email", "payload": {"to": "a"}, "queue": queue, "delay": 600} for _ in range(120)]
    shop.post("/v1/tasks/batch", tasks)
    if verb == "Delete":
        shop.post("/v1/tasks/cancel", {"filter": {"queue": queue}})
    page = desk.open(f"#/tasks?q=queue:{queue}")
    page.get_by_role("checkbox", name="Select all on this page").click()
    expect(page.get_by_role("region", name="Selected tasks")).to_contain_text("50 tasks")
    button(page, "Select all that match")
    button(page, verb)
    expect(page.get_by_role("heading", name=f"{verb} 120 tasks?")).to_be_visible()
    assert len(shop.get(f"/v1/tasks?queue={queue}&limit=500").json["tasks"]) == 120, "only counted yet"
    confirm(page, f"{verb} 120")
    page.get_by_text(f"120 tasks {verb.lower().rstrip('e')}").wait_for()
    queues = {each["queue"]: each["tasks"] for each in shop.get("/v1/queues").json["queues"]}
    assert queues.get(queue, {}) == left


def test_the_search_is_in_the_address_and_suggests(desk: Desk, shop: Server) -> None:
    task_id = failed(shop, queue="found", tags=["lost"], key="two words")
    desk.expect_complaint("status of 400")
    page = desk.open("#/tasks")
    box = page.get_by_role("combobox", name="Search tasks")
    assert 'error:"timed out"' in (box.get_attribute("placeholder") or "")
    box.press_sequentially("sta")
    expect(page.get_by_role("option", name="state:")).to_be_visible()
    box.press("ArrowDown")
    box.press("Enter")
    box.press_sequentially("fa")
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("state:failed ")
    box.press_sequentially('tag:lost key:"two words" error:"no mailbox" payload.to:x@nowhere.net created:1h')
    box.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text(task_id)
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    box.fill(task_id)
    box.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    box.fill("colour:red")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("There is no qualifier colour")
    box.fill("state:tired")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("'tired' is not allowed")


def test_pages_of_tasks_lead_on_and_back(desk: Desk, shop: Server) -> None:
    tasks = [
        {"type": "email", "id": f"p{n:03}", "payload": {"to": "a"}, "queue": "pages"} for n in range(120)
    ]
    shop.post("/v1/tasks/batch", [each | {"delay": 600} for each in tasks])
    page = desk.open("#/tasks?q=queue:pages")
    expect(page.locator("tbody tr a.id").first).to_have_text("p119")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("tbody tr a.id").first).to_have_text("p069")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("tbody tr")).to_have_count(20)
    page.get_by_role("link", name="Newer").click()
    expect(page.locator("tbody tr a.id").first).to_have_text("p069")
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(20)


# The rest


def test_a_task_is_submitted_by_a_form_made_of_its_signature(desk: Desk, shop: Server) -> None:
    page = desk.open("#/types")
    page.get_by_role("link", name="invoice").click()
    button(page, "Submit")
    expect(page.get_by_role("alert")).to_contain_text("order is missing")
    page.get_by_role("textbox", name="order").fill("1e")
    button(page, "Submit")
    expect(page.get_by_role("alert")).to_contain_text("not JSON")
    page.get_by_role("textbox", name="order").fill(str(2**53 + 1))
    page.get_by_role("combobox", name="currency").select_option("USD")
    page.get_by_role("textbox", name="lines").fill('["tea"]')
    page.get_by_role("textbox", name="Tags").fill("a b")
    page.get_by_role("textbox", name="Priority").fill("high")
    page.get_by_role("textbox", name="Id").fill("by-form")
    button(page, "Submit")
    expect(page.locator("h1")).to_contain_text("by-form")
    made = shop.final("by-form")
    assert made["payload"] == {"order": 9007199254740993, "currency": "USD", "lines": ["tea"]}
    assert (made["tags"], made["priority"]) == (["a", "b"], 10)


def test_a_task_is_submitted_as_json_and_a_bad_one_is_refused(desk: Desk, shop: Server) -> None:
    desk.expect_complaint("status of 422")
    page = desk.open("#/types/email")
    page.get_by_role("textbox", name="to", exact=True).fill("a@example.org")
    button(page, "As JSON")
    box = page.get_by_role("textbox", name="JSON")
    expect(box).to_have_value('{\n  "to": "a@example.org",\n  "subject": "Hello",\n  "urgent": false\n}')
    box.fill('{"to": 7}')
    button(page, "Submit")
    expect(page.get_by_role("alert")).to_contain_text("Expected `str`, got `int`")


def test_a_queue_is_paused_given_rules_purged_and_resumed(desk: Desk, shop: Server) -> None:
    shop.submit("email", {"to": "a@example.org"}, queue="lane", delay=600)
    page = desk.open("#/queues")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="lane", exact=True))
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    assert shop.get("/v1/queues/lane").json["paused"] is True
    row.get_by_role("button", name="Rules").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Order").select_option("aging")
    dialog.get_by_label("At a time").first.fill("3")
    dialog.get_by_label("Starts").first.fill("10")
    dialog.get_by_label("in seconds").first.fill("0.5")
    dialog.get_by_label("At a time").last.fill("1")
    confirm(page, "Save")
    expect(row).to_contain_text("aging; 3 at a time, 10 per 500 ms; each key: 1 at a time")
    rules = shop.get("/v1/queues/lane").json
    assert (rules["order"], rules["concurrency"], rules["per_key"]["concurrency"]) == ("aging", 3, 1)
    assert rules["rate"] == {"limit": 10, "period": 0.5, "burst": 10}
    row.get_by_role("button", name="Purge").click()
    confirm(page, "Cancel 1 task")
    wait_until(lambda: shop.get("/v1/queues/lane").json["tasks"] == {"cancelled": 1}, lambda: "still there")
    row.get_by_role("button", name="Resume").click()
    expect(row).not_to_contain_text("paused")
    assert shop.get("/v1/queues/lane").json["paused"] is False


def test_dead_letters_of_one_cause_are_retried_and_deleted(desk: Desk, shop: Server) -> None:
    shop.post("/v1/tasks/delete", {"all": True})
    for _ in range(3):
        failed(shop)
    page = desk.open("#/dead")
    group = page.locator(".group").filter(has_text="AddressError")
    expect(group).to_contain_text("3tasks")
    group.get_by_role("button", name="Retry 3").click()
    confirm(page, "Retry 3")
    wait_until(
        lambda: [len(each["errors"]) for each in shop.get("/v1/tasks?state=failed").json["tasks"]] == [2] * 3,
        lambda: "not retried",
    )
    group.get_by_role("button", name="Delete").click()
    confirm(page, "Delete 3")
    expect(page.get_by_text("No dead letters")).to_be_visible()
    assert shop.states().get("failed", 0) == 0


def test_all_dead_letters_are_those_that_are_not_shown_too(desk: Desk, shop: Server) -> None:
    shop.post("/v1/tasks/delete", {"all": True})
    for _ in range(2):
        failed(shop)
    late = shop.submit("invoice", {"order": 3}, max_attempts=1)
    assert shop.final(late)["state"] == "failed"
    shown = {"groups": shop.get("/v1/failures").json["groups"][:1]}
    desk.page.route("**/v1/failures?*", lambda route: route.fulfill(json=shown))
    page = desk.open("#/dead")
    expect(page.locator(".group")).to_have_count(1)
    button(page, "Retry all")
    confirm(page, "Retry 3")
    wait_until(lambda: shop.states().get("failed", 0) == 3, lambda: f"not again: {shop.states()}")
    button(page, "Delete all")
    expect(page.get_by_role("heading", name="Delete 3 failed tasks?")).to_be_visible()
    confirm(page, "Delete 3")
    page.get_by_text("3 tasks deleted").wait_for()
    assert shop.states().get("failed", 0) == 0
    page.unroute("**/v1/failures?*")


def test_a_schedule_is_told_in_words_run_paused_resumed_and_deleted(desk: Desk, shop: Server) -> None:
    body = {"cron": "30 7 * * 1-5", "tz": "Europe/Madrid", "type": "email", "payload": {"to": "a@b.org"}}
    shop.ask("PUT", "/v1/schedules/mornings", json.dumps(body).encode(), {"Content-Type": "application/json"})
    page = desk.open("#/schedules")
    card = page.get_by_role("region", name="mornings")
    expect(card).to_contain_text("at 07:30 Monday to Friday, Europe/Madrid time")
    expect(card.locator(".ticks ol").first.locator("li")).to_have_count(5)
    card.get_by_role("button", name="Run now").click()
    page.get_by_text("is made.").wait_for()
    assert len(shop.get("/v1/tasks?schedule=mornings").json["tasks"]) == 1
    card.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("None while it is paused")
    assert shop.get("/v1/schedules/mornings").json["paused"] is True
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".ticks ol").first.locator("li")).to_have_count(5)
    card.get_by_role("button", name="Delete").click()
    confirm(page, "Delete the schedule")
    expect(card).to_have_count(0)
    assert shop.get("/v1/schedules/mornings").status == 404


def test_workers_are_shown_and_resized(desk: Desk, shop: Server) -> None:
    task_id = shop.submit("nap", {"seconds": 60})
    desk.expect_complaint("status of 422")
    page = desk.open("#/workers")
    expect(page.get_by_role("link", name=task_id)).to_be_visible()
    page.get_by_label("At least").fill("2")
    # What is typed stays while what is shown is brought up to date.
    with page.expect_response("**/v1/workers"):
        pass
    page.get_by_label("At most").fill("7")
    button(page, "Set")
    page.get_by_text("So many workers from now on").wait_for()
    shown = shop.get("/v1/workers").json
    assert (shown["min"], shown["max"]) == (2, 7)
    page.get_by_label("At least").fill("9")
    button(page, "Set")
    expect(page.get_by_role("alert")).to_contain_text("9 is over max, which is 7")
    shop.post("/v1/tasks/cancel", {"filter": {"type": "nap"}})
