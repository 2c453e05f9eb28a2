"""What a schema allows is what the check behind it takes, at every bound and beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from contract import SCHEMAS, faults

from tq.api.endpoints.workers import WorkersRequest, range_asked
from tq.api.schemas import ref
from tq.core.errors import InvalidInput
from tq.core.requests import (
    make_spec,
    read_bulk,
    read_cancel,
    read_filter,
    read_queue,
    read_schedule,
    read_update,
    submit_of,
)
from tq.core.task import TaskId
from tq.core.wire import TypeDefaults, decode, decode_submit, new_task
from tq.testing.kit import EPOCH_MS

# Reading a body as its endpoint does


def submit(body: bytes) -> None:
    new_task(decode_submit(body), TypeDefaults(), new_id=TaskId("made"), now=EPOCH_MS)


def update(body: bytes) -> None:
    read_update(body, TaskId("t"), now=EPOCH_MS)


def schedule(body: bytes) -> None:
    request = read_schedule(body)
    task = new_task(submit_of(request), TypeDefaults(), new_id=TaskId("made"), now=EPOCH_MS)
    make_spec(request, task, known=None, now=EPOCH_MS)


def queue(body: bytes) -> None:
    read_queue(body, "q")


def bulk(body: bytes) -> None:
    read_filter(read_bulk(body).filter)


def cancel(body: bytes) -> None:
    read_cancel(body)


def workers(body: bytes) -> None:
    range_asked(decode(msgspec.json.Decoder(WorkersRequest), body))


READERS: dict[str, tuple[Callable[[bytes], None], dict[str, object]]] = {
    "SubmitRequest": (submit, {"type": "x"}),
    "UpdateRequest": (update, {"max_attempts": 1}),
    "ScheduleRequest": (schedule, {"type": "x", "cron": "@daily"}),
    "QueueRequest": (queue, {}),
    "BulkRequest": (bulk, {"all": True}),
    "CancelRequest": (cancel, {}),
    "WorkersRequest": (workers, {"min": 1, "max": 1000}),
}
"""By struct: how it is read, and the least that makes one."""

Values = tuple[list[Any], list[Any]]
"""What is taken, and what is refused."""

INSTANTS: Values = (
    ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2026-01-01t00:00:00+02:00"],
    [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-W01-1T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "tomorrow",
        5,
        "2026-01-01T00:00:00Z\n",
    ],
)
NAMES: Values = (["a", "x" * 64, "A-Z_0.9:~"], ["", "x" * 65, "a b", "é", "a\n", 5])
IDS: Values = (["a", "x" * 128], ["x" * 129, "a b", "a/b"])
SECONDS_TTL: Values = ([0, 0.5, 31_622_400], [-0.001, 31_622_401, "1"])
TIMEOUTS: Values = ([0.001, 604_800], [0, 0.0009, 604_801])
PRIORITIES: Values = ([-100, 100, "low", "normal", "high", "critical"], [-101, 101, "urgent", 1.5, True])
ATTEMPTS: Values = ([1, 1000], [0, 1001, 1.5])
KEYS: Values = (["k", "x" * 128, "clé 7"], ["", "x" * 129])
TAGS: Values = ([[], ["x" * 64], ["a"] * 16], [["a"] * 17, ["x" * 65], [""], "a"])
DELAYS: Values = ([0, 158_112_000], [-1, 158_112_001])
POLICIES: Values = (
    [{}, {"kind": "fixed", "base": 0, "cap": 2_592_000, "jitter": 0}, {"jitter": 1}],
    [{"base": -1}, {"cap": 2_592_001}, {"jitter": 1.01}, {"jitter": -0.01}, {"kind": "odd"}, {"odd": 1}],
)
UNIQUES: Values = (
    [{"key": "k"}, {"key": "k", "while": "queued", "on_conflict": "replace"}],
    [{}, {"key": ""}, {"key": "x" * 129}, {"key": "k", "while": "never"}, {"key": "k", "on_conflict": "odd"}],
)
RATES: Values = (
    [{"limit": 1}, {"limit": 100_000, "period": 86_400, "burst": 100_000}, {"limit": 1, "period": 0.001}],
    [
        {},
        {"limit": 0},
        {"limit": 100_001},
        {"limit": 1, "burst": 0},
        {"limit": 1, "burst": 100_001},
        {"limit": 1, "period": 0},
        {"limit": 1, "period": 86_401},
        {"limit": 1, "odd": 1},
    ],
)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CONCURRENCIES: Values = ([1, 100_000, None], [0, 100_001])
TRUTHS: Values = ([True, False], ["yes", 1, None])
STATES: Values = (
    ["failed", "waiting,ended", "failed,failed"],
    ["", "odd", "failed,", "failed, retrying", "FAILED"],
)
TRACES: Values = (
    [TRACE, "01" + TRACE[2:], None],
    [
        "",
        "ff" + TRACE[2:],
        TRACE.upper(),
        TRACE + "-00",
        "01" + TRACE[2:] + "-00",
        TRACE[:-1],
        TRACE.replace("00f067aa0ba902b7", "0" * 16),
        TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
    ],
)
FILTERS: list[tuple[str, Values]] = [
    ("state", STATES),
    *((name, NAMES) for name in ("queue", "type", "tag", "schedule")),
    ("key", KEYS),
    ("parent_id", IDS),
    ("fingerprint", (["0123456789ab"], ["0123456789a", "0123456789AB", "0123456789abc"])),
    ("created_after", INSTANTS),
    ("created_before", INSTANTS),
    ("error", (["e", "x" * 200], ["", "x" * 201])),
    (
        "where",
        (["payload.a:1", "payload.a.b:", "payload." + "x" * 64 + ":\n"], ["a:1", "payload:1", "payload.a"]),
    ),
]

VALUES: dict[tuple[str, str], Values] = {
    **{
        (struct, field): values
        for struct in ("SubmitRequest", "ScheduleRequest")
        for field, values in {
            "type": NAMES,
            "payload": ([None, 1, {"a": []}], []),
            "queue": NAMES,
            "priority": PRIORITIES,
            "timeout": TIMEOUTS,
            "max_attempts": ATTEMPTS,
            "retry": POLICIES,
            "result_ttl": SECONDS_TTL,
            "key": KEYS,
            "tags": TAGS,
            "unique": UNIQUES,
        }.items()
    },
    ("SubmitRequest", "id"): ([*IDS[0], ""], IDS[1]),
    ("SubmitRequest", "delay"): DELAYS,
    ("SubmitRequest", "run_at"): INSTANTS,
    ("SubmitRequest", "parent_id"): IDS,
    ("SubmitRequest", "depends_on"): ([[], ["a"] * 100], [["a"] * 101, ["a b"], [""], None]),
    ("SubmitRequest", "on_dependency_failure"): ([None], ["odd", 1]),
    ("SubmitRequest", "deadline"): INSTANTS,
    ("SubmitRequest", "expires_at"): INSTANTS,
    ("SubmitRequest", "traceparent"): TRACES,
    ("ScheduleRequest", "cron"): (["0 3 * * *"], ["0 " * 51, 5]),
    ("ScheduleRequest", "tz"): (["Europe/Madrid", None], [5]),
    ("ScheduleRequest", "overlap"): (["skip", "allow"], ["odd", None]),
    ("ScheduleRequest", "misfire_grace"): ([0, 31_622_400], [-1, 31_622_401, None]),
    ("UpdateRequest", "priority"): PRIORITIES,
    ("UpdateRequest", "delay"): DELAYS,
    ("UpdateRequest", "run_at"): INSTANTS,
    ("UpdateRequest", "timeout"): TIMEOUTS,
    ("UpdateRequest", "max_attempts"): ATTEMPTS,
    ("UpdateRequest", "result_ttl"): SECONDS_TTL,
    ("UpdateRequest", "deadline"): INSTANTS,
    ("UpdateRequest", "expires_at"): INSTANTS,
    ("QueueRequest", "order"): (["strict", "aging"], ["odd", None]),
    ("QueueRequest", "concurrency"): CONCURRENCIES,
    ("QueueRequest", "rate"): ([*RATES[0], None], RATES[1]),
    ("QueueRequest", "per_key"): (
        [
            None,
            {},
            *({"rate": each} for each in RATES[0]),
            *({"concurrency": each} for each in CONCURRENCIES[0]),
        ],
        [
            {"odd": 1},
            *({"rate": each} for each in RATES[1]),
            *({"concurrency": each} for each in CONCURRENCIES[1]),
        ],
    ),
    ("BulkRequest", "filter"): (
        [{name: each} for name, (good, _) in FILTERS for each in good],
        [{"odd": 1}, None, *({name: each} for name, (_, bad) in FILTERS for each in bad)],
    ),
    ("BulkRequest", "all"): ([True], ["yes", 1, None, False]),
    ("BulkRequest", "dry_run"): TRUTHS,
    ("BulkRequest", "limit"): ([1, 100_000], [0, 100_001]),
    ("BulkRequest", "cascade"): TRUTHS,
    ("CancelRequest", "cascade"): TRUTHS,
    ("WorkersRequest", "min"): ([1, 1000], [0, 1001, None]),
    ("WorkersRequest", "max"): ([1000], [0, 1001]),
}
"""By struct and field: what is taken, at the bounds, and what is refused, just beyond them."""


def cases() -> Iterator[Any]:
    for (struct, name), (good, bad) in VALUES.items():
        for value in good:
            yield pytest.param(struct, {name: value}, True, id=f"{struct}-{name}-{str(value)[:20]}")
        for value in bad:
            yield pytest.param(struct, {name: value}, False, id=f"{struct}-{name}-not-{str(value)[:20]}")


WHOLES: list[tuple[str, dict[str, object], bool]] = [
    ("SubmitRequest", {"type": "x", "on_dependency_failure": "run"}, False),
    ("SubmitRequest", {"type": "x", "on_dependency_failure": "run", "depends_on": []}, False),
    ("SubmitRequest", {"type": "x", "on_dependency_failure": "run", "depends_on": ["d"]}, True),
    ("SubmitRequest", {"type": "x", "on_dependency_failure": "cancel", "depends_on": ["d"]}, True),
    ("UpdateRequest", {}, False),
    ("BulkRequest", {}, False),
    ("BulkRequest", {"filter": {}}, False),
    ("BulkRequest", {"filter": {"queue": "q"}}, True),
    ("ScheduleRequest", {"type": "x"}, False),
    ("ScheduleRequest", {"type": "x", "every": 1}, True),
    ("ScheduleRequest", {"type": "x", "every": 31_622_400}, True),
    ("ScheduleRequest", {"type": "x", "every": 0.999}, False),
    ("ScheduleRequest", {"type": "x", "every": 31_622_401}, False),
    ("ScheduleRequest", {"type": "x", "every": 1, "cron": "@daily"}, False),
    ("WorkersRequest", {"count": 1}, True),
    ("WorkersRequest", {"count": 1000}, True),
    ("WorkersRequest", {"count": 0}, False),
    ("WorkersRequest", {"count": 1001}, False),
    ("WorkersRequest", {"count": 1, "min": 1}, False),
    ("WorkersRequest", {"min": 1}, False),
    ("WorkersRequest", {}, False),
    ("SubmitRequest", {}, False),
    ("SubmitRequest", {"type": "x", "odd": 1}, False),
]
"""Bodies as they are, and whether they are taken."""


def is_taken(struct: str, content: object) -> bool:
    read, _ = READERS[struct]
    try:
        read(json.dumps(content).encode())
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize(("struct", "content", "good"), list(cases()))
def test_a_schema_and_the_check_behind_it_agree(struct: str, content: dict[str, object], good: bool) -> None:
    whole = READERS[struct][1] | content
    assert is_taken(struct, whole) is good
    assert (faults(ref(struct), whole, strictly=False) == []) is good


@pytest.mark.parametrize(("struct", "content", "good"), WHOLES)
def test_a_schema_and_the_reader_agree_on_the_whole(
    struct: str, content: dict[str, object], good: bool
) -> None:
    assert is_taken(struct, content) is good
    assert (faults(ref(struct), content, strictly=False) == []) is good


def test_every_field_of_every_body_is_among_them() -> None:
    fields = {(struct, name) for struct in READERS for name in SCHEMAS[struct]["properties"]}
    tried = set(VALUES) | {(struct, name) for struct, content, _ in WHOLES for name in content}
    assert fields - tried == set()
    assert {name for name, _ in FILTERS} == set(SCHEMAS["FilterRequest"]["properties"])
