"""What the pages claim in tables and in numbers is what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Final

import pytest

from tq.api import access, negotiate
from tq.api.endpoints import lists, schedules
from tq.api.http import WAIT_MAX_S, read_request_id
from tq.context import CLEANUP_S, Context
from tq.core import fields, limits, ops, queries, requests, retry, schedule, task
from tq.core.requests import FILTER_FIELDS, FilterRequest, QueueRequest, ScheduleRequest, UpdateRequest
from tq.core.retry import RetryKind
from tq.core.task import MOVES, Move, Reason, State
from tq.core.views import NEXT_TICKS
from tq.core.wire import RetryRequest, UniqueRequest
from tq.engine import bulk, notes
from tq.handlers import TaskQueue
from tq.storage.sqlite_lists import SCAN_MAX

DOCS: Final = Path(__file__).resolve().parent.parent.parent / "docs"
DAY_S: Final = 24 * 3600


def page(name: str) -> str:
    """The page of that name, in whichever folder."""
    (path,) = DOCS.rglob(f"{name}.md")
    return path.read_text()


def tables(text: str, head: str) -> list[list[list[str]]]:
    """The tables of *text* whose first row begins with the cell *head*: rows of cells, without the head."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(f"| {head} |")]
    assert starts, f"no table with {head!r}"
    return [list(_rows(lines[start + 2 :])) for start in starts]


def _rows(lines: list[str]) -> list[list[str]]:
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:end]]


def names(cell: str) -> list[str]:
    """What is in backticks in *cell*."""
    return re.findall(r"`([^`]+)`", cell)


def first_names(text: str, head: str) -> set[str]:
    """All names in the first column of the tables of *text* that begin with *head*."""
    return {name for table in tables(text, head) for row in table for name in names(row[0])}


def test_tables_are_read() -> None:
    text = "| a | b |\n|---|---|\n| `x` `y` | 1 |\n| `z\\|w` | 2 |\n\n| a | b |\n|---|---|\n| `v` | |\n"
    assert tables(text, "a") == [[["`x` `y`", "1"], ["`z\\|w`", "2"]], [["`v`", ""]]]
    assert first_names(text, "a") == {"x", "y", "z\\|w", "v"}
    with pytest.raises(AssertionError, match="no table"):
        tables(text, "c")


# Names


def test_the_overview_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", page("index")))
    assert linked == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}


def test_the_moves_of_the_guarantees_are_all_the_moves_there_are() -> None:
    told: dict[State, dict[Move, set[State]]] = {state: {} for state in State}
    states: list[State] = []
    (rows,) = tables(page("guarantees"), "state")
    for first, move, leads_to in rows:
        states = [State(name) for name in names(first)] or states
        verb = Move(move.partition(":")[0])
        for state in states:
            # "the same; a `pending` one that is put off, `scheduled`"
            is_update = verb is Move.UPDATE
            put_off = {State.SCHEDULED} if state is State.PENDING else set()
            targets = {state} | put_off if is_update else {State(name) for name in names(leads_to)}
            told[state][verb] = targets
    assert told == {
        state: {move: set(targets) for move, targets in moves.items()} for state, moves in MOVES.items()
    }


def test_every_reason_is_told_in_the_overview() -> None:
    text = page("states").partition("## The life of a task")[2]
    (_, rows) = tables(text, "state")
    assert {names(row[1])[0] for row in rows} == set(Reason) - {Reason.INTERRUPTED}
    assert "`interrupted`" in text


def test_every_filter_is_told() -> None:
    assert first_names(page("listing"), "filter") == set(FILTER_FIELDS)
    assert f"any of {len(FilterRequest.__struct_fields__)} filters".replace("12", "twelve") in page("listing")


def test_every_field_that_can_be_changed_is_told() -> None:
    text = page("http-api").partition("## PATCH, DELETE")[2].partition("\n## ")[0]
    assert set(names(text.partition("it takes ")[2].partition(", and answers")[0])) == set(
        UpdateRequest.__struct_fields__
    )


def test_the_fields_of_a_schedule_are_told() -> None:
    assert first_names(page("schedules"), "field") == set(ScheduleRequest.__struct_fields__)


def test_the_fields_of_a_queue_are_told() -> None:
    told = first_names(page("queues"), "field")
    assert told == {"rate.limit", "rate.period", "rate.burst"} | set(QueueRequest.__struct_fields__) - {
        "rate"
    }


def test_the_fields_of_unique_and_of_retry_are_told() -> None:
    assert first_names(page("submit-once"), "field of `unique`") == set(
        UniqueRequest.__struct_encode_fields__
    )
    assert first_names(page("retries"), "field of `retry`") == set(RetryRequest.__struct_fields__)
    (rows,) = tables(page("retries"), "field of `retry`")
    assert {kind.value for kind in RetryKind} <= set(names(rows[0][2]))


def test_the_arguments_of_a_task_are_told() -> None:
    arguments = set(inspect.signature(TaskQueue.task).parameters) - {"self"}
    assert first_names(page("handlers"), "argument") == arguments


def test_what_a_context_has_is_told() -> None:
    told = {
        name.partition("(")[0].removeprefix("await ") for name in first_names(page("handlers"), "`ctx.…`")
    }
    own = {name for name in dir(Context) if not name.startswith("_")}
    assert told == own - {"task", "deadline_at", "clock", "link"}


# Numbers

CLAIMS = [
    ("priorities", f"from −{-task.PRIORITY_MIN} to {task.PRIORITY_MAX}"),
    (
        "priorities",
        ", ".join(f"`{name}` {number}".replace("-", "−") for name, number in task.PRIORITIES.items()),
    ),
    ("priorities", f"{limits.AGING_MS // 1000} s for each point"),
    ("retries", f"`max_attempts` is 1 to {fields.ATTEMPTS_MAX}"),
    ("retries", f"at most {retry.DELAY_CAP_MAX_MS // 1000 // DAY_S} days"),
    ("retries", f"The last {task.HISTORY_MAX} failed attempts"),
    ("retries", f"{task.ERROR_TEXT_MAX // 1024} KiB of each"),
    ("dead-letters", f"{task.FAILED_TTL_MS // 1000 // DAY_S} days, or its `result_ttl`"),
    ("dead-letters", f"up to {requests.BULK_MAX:,} tasks"),
    ("time", f"0 to {fields.DELAY_MAX_S / DAY_S / 366:.0f} years"),
    ("time", f"0.001 to {fields.TIMEOUT_MAX_S / DAY_S:.0f} days"),
    ("time", f"{task.TTL_MS // 3_600_000} h; {task.FAILED_TTL_MS // 1000 // DAY_S} days if it failed"),
    ("time", f"0 to {fields.TTL_MAX_S / DAY_S:.0f} days"),
    ("cancellation", f"(at most {WAIT_MAX_S})"),
    ("cancellation", f"has {CLEANUP_S:.0f} s to clean up"),
    ("submit-once", f"| {ops.REQUEST_KEPT_MS // 3_600_000} h |"),
    ("submit-once", f"1 to {task.KEY_MAX} printable"),
    ("families", f"up to {task.DEPENDENCIES_MAX} tasks that are stored"),
    ("families", f"up to {bulk.TREE_MAX} tasks, and up to {bulk.TREE_DEPTH_MAX} levels"),
    ("queues", f"1 to {limits.CONCURRENCY_MAX:,} | how many run"),
    ("queues", f"1 to {limits.RATE_LIMIT_MAX:,} | starts"),
    ("queues", f"0.001 to {limits.RATE_PERIOD_MAX_MS // 1000:,} | seconds"),
    ("queues", f"Up to {limits.QUEUES_MAX:,} queues"),
    ("schedules", f"next {NEXT_TICKS} and its last {ops.TICKS_KEPT} ticks"),
    ("schedules", f"{schedules.PAGE} at a time"),
    ("schedules", f"{schedule.EVERY_MIN_MS // 1000} to {schedule.EVERY_MAX_MS // 1000 // DAY_S} days"),
    ("schedules", f"| {requests.MISFIRE_GRACE_S:.0f} | seconds that a tick may be late"),
    ("schedules", f"0 to {requests.MISFIRE_GRACE_MAX_S / DAY_S:.0f} days"),
    ("schedules", f"Up to {ops.SCHEDULES_MAX:,} schedules"),
    ("progress", f"the last {task.LOG_LINES_MAX} of all attempts"),
    ("progress", f"{task.NOTE_TEXT_MAX:,} characters"),
    ("progress", f"every {notes.NOTE_EVERY_S:g} s"),
    ("listing", f"`limit` is 1 to {queries.PAGE_MAX}, {lists.PAGE_DEFAULT} if"),
    ("listing", f"up to {requests.SEARCH_MAX} characters"),
    ("listing", f"at most {SCAN_MAX:,} for one page"),
    ("listing", f"up to {task.TAGS_MAX} tags"),
    ("listing", f"| `limit` | {requests.BULK_MAX:,} |"),
]


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_a_number_of_a_page_is_that_of_the_code(name: str, claim: str) -> None:
    assert claim in " ".join(page(name).split())


def test_the_numbers_of_headers_and_of_the_access_log_are_true() -> None:
    said = page("http-api")
    assert negotiate.COMPRESS_MIN == 1024
    assert negotiate.COMPRESS_MAX == 8 * 1024 * 1024
    assert "an answer to a GET of 1 KiB to 8 MiB" in said
    characters = re.search(r"it is 1 to 128 of `([^`]+)`", said)
    assert characters is not None
    allowed = re.sub(r"(.)-(.)", "", characters[1]).replace(" ", "") + "azAZ09"
    assert read_request_id({"x-request-id": allowed}) == allowed
    assert read_request_id({"x-request-id": "x" * 128}) is not None
    assert read_request_id({"x-request-id": "x" * 129}) is None
    assert access.PATH_MAX == 100
    assert "the path is cut to 100 characters" in page("security")
    assert "cut to 100 characters" in page("events")
