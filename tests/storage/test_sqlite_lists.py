"""Lists of the SQLite store: the same as the model's, page by page; by an index; of bounded cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlite_kit import plan, work
from storage_kit import NOW, claim, do, finish, new
from tiers import tiered

from tq.core import ops
from tq.core.ops import AnyOp
from tq.core.queries import GetFailureGroups, ListTasks, PayloadMatch, TaskFilter, TaskPage
from tq.core.task import AttemptError, Json, Reason, ServerId, State, Task, TaskId
from tq.storage import sqlite_lists
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store

QUEUES = ("q1", "q2")
TYPES = ("t1", "t2", "t3")
KEYS = (None, "k1", "k'2\"")
TAGS = ("red", "blue", "it's")
PAYLOADS = (
    "1",
    "null",
    '{"a":1}',
    '{"a":1.0}',
    '{"a":1e2}',
    '{"a":true,"b":"x"}',
    '{"a":{"b":"ñ\\u0000"}}',
    '{"a":{"b":"\\u00f1\\u0000"}}',
    '{"a b":{"c\\"d":"1"}, "":2}',
    '{ "a" : [1, 2] }',
    '{"a.b":null,"a\\u0000":-5}',
    '["a"]',
    '{"a":12345678901234567890}',
    '{"a":"' + "y" * 1_200 + '"}',
)
PATHS = (("a",), ("a", "b"), ("a b", 'c"d'), ("",), ("a.b",), ("a\0",), ("0",), ())
VALUES = (
    "1",
    "1.0",
    "100.0",
    "true",
    '"x"',
    '"ñ\\u0000"',
    '"1"',
    "2",
    "null",
    "[1,2]",
    "-5",
    "[]",
    "12345678901234567890",
)
ERRORS = ("boom", "BOOM and Ñ", "50% _off_", "a\0b", "it's")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "tq.db", durable=False)
    yield opened
    opened.close()


def error(message: str = "boom", type: str = "E", frame: str | None = None) -> AttemptError:
    return AttemptError(1, NOW, Reason.ERROR, type, message, frame=frame)


# As the model


class World:
    """The same tasks in the model and in *store*: in every state, of all kinds."""

    def __init__(self, seed: int, store: SqliteStore) -> None:
        self.random = Random(seed)
        self.model = MemoryStore()
        self.store = store
        self.now = NOW
        self.names: list[str] = []

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.now += self.random.choice((0, 1, 50))
            self.apply(ops.Submit(self.new()))
            if self.random.random() < 0.7:
                self.work()

    def new(self) -> Any:
        choice = self.random.choice
        name = f"task-{len(self.names)}"
        parent = choice(self.names) if self.names and self.random.random() < 0.3 else None
        self.names.append(name)
        return new(
            name,
            type=choice(TYPES),
            queue=choice(QUEUES),
            key=choice(KEYS),
            payload=choice(PAYLOADS),
            run_at=self.now + choice((0, 0, 10_000)),
            tags=tuple(self.random.sample(TAGS, choice((0, 0, 1, 2)))),
            parent_id=parent,
            schedule=choice((None, None, "nightly")),
        )

    def work(self) -> None:
        for lease in self.apply(ops.Claim(ServerId("s"), None, self.random.choice((0, 1, 2)))).leases:
            state = self.random.choice((State.SUCCEEDED, State.FAILED, State.FAILED, State.RETRYING, None))
            if state is not None:
                told = error(
                    self.random.choice(ERRORS), self.random.choice("EF"), self.random.choice((None, "f"))
                )
                run_at = self.now + self.random.choice((5, 99_999))
                self.apply(finish(lease, state, Reason.ERROR, run_at=run_at, error=told, result="1"))
        self.apply(ops.Promote())
        if self.random.random() < 0.1:
            self.apply(ops.Cancel(TaskId(self.random.choice(self.names))))
        if self.random.random() < 0.1:
            self.apply(ops.Retry(TaskId(self.random.choice(self.names))))

    def apply(self, op: AnyOp) -> Any:
        [expected], [answer] = self.model.apply([op], self.now), self.store.apply([op], self.now)
        assert answer == expected
        return answer

    def filter(self) -> TaskFilter:
        """A filter of one to three conditions, most of which something meets."""
        random = self.random
        fingerprints = [task.fingerprint for task in self.model.snapshot().tasks if task.fingerprint]
        conditions: dict[str, Callable[[], object]] = {
            "states": lambda: tuple(random.sample(list(State), random.choice((1, 1, 2, 4)))),
            "queue": lambda: random.choice((*QUEUES, "q9")),
            "type": lambda: random.choice(TYPES),
            "key": lambda: random.choice((*KEYS, "k9")),
            "tag": lambda: random.choice((*TAGS, "green")),
            "parent_id": lambda: random.choice(self.names),
            "schedule": lambda: random.choice(("nightly", "none")),
            "fingerprint": lambda: random.choice(fingerprints or [None]),
            "created_after": lambda: random.randrange(NOW, self.now + 1),
            "created_before": lambda: random.randrange(NOW, self.now + 1),
            "error": lambda: random.choice(("boom", "e: ", "BOOM", "ñ", "%", "\0B", "it's", "")),
            "payload": lambda: PayloadMatch(
                random.choice(PATHS),
                tuple(Json(text) for text in random.sample(VALUES, random.choice((1, 2)))),
            ),
        }
        chosen = random.sample(list(conditions), random.choice((0, 1, 1, 2, 3)))
        return TaskFilter(**{name: conditions[name]() for name in chosen})  # type: ignore[arg-type]


def pages(store: Store, filter: TaskFilter, limit: int) -> list[TaskPage]:
    """All pages of a list, one after the other."""
    found = [store.read(ListTasks(filter, limit))]
    while found[-1].next is not None:
        found.append(store.read(ListTasks(filter, limit, found[-1].next)))
        assert len(found) < 1_000
    return found


def listed(store: Store, filter: TaskFilter, limit: int = 500) -> list[Task]:
    return [task for page in pages(store, filter, limit) for task in page.tasks]


@pytest.mark.parametrize("seed", tiered([1, 2, 3]))
def test_lists_are_those_of_the_model(store: SqliteStore, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(seed, store)
    world.grow(150)
    met = 0
    for _ in range(150):
        filter, limit = world.filter(), world.random.choice((1, 7, 500))
        expected = listed(world.model, filter)
        met += bool(expected)
        assert listed(store, filter, limit) == expected, filter
        monkeypatch.setattr(sqlite_lists, "SCAN_MAX", 3)
        assert listed(store, filter, limit) == expected, filter
        monkeypatch.undo()
    assert met > 50
    assert store.read(GetFailureGroups()) == world.model.read(GetFailureGroups())
    assert store.read(GetFailureGroups(2)) == world.model.read(GetFailureGroups(2))


# By an index

COVERED = "SEARCH tasks USING COVERING INDEX"


def many(store: SqliteStore, count: int, prefix: str = "t", **given: Any) -> None:
    for start in range(0, count, 1_000):
        numbers = range(start, min(start + 1_000, count))
        do(store, ops.SubmitMany(tuple(new(f"{prefix}{n}", **given) for n in numbers)))


def end_all(store: SqliteStore, state: State = State.SUCCEEDED) -> None:
    """Everything pending ends in *state*."""
    while leases := claim(store, 100):
        told = error() if state is State.FAILED else None
        store.apply([finish(lease, state, Reason.ERROR, error=told) for lease in leases], NOW)


def work_of_page(store: SqliteStore, limit: int = 10, **wanted: Any) -> int:
    """What it takes to read the first page of a list, which must have *limit* tasks."""
    query = ListTasks(TaskFilter(**wanted), limit)
    with store._readers.lend() as db:
        return work(db, lambda: len(sqlite_lists.page(db, query).tasks) == limit)


@pytest.mark.parametrize(
    ("statement", "step"),
    [
        (sqlite_lists.EVERY, "SEARCH tasks USING INTEGER PRIMARY KEY (rowid<?)"),
        (sqlite_lists.BY_RUNNING, f"{COVERED} tasks_running (seq<?)"),
        (sqlite_lists.BY_OPEN, "SEARCH tasks USING INDEX tasks_open (seq<?)"),
        (sqlite_lists.BY_FAILED, f"{COVERED} tasks_failed (seq<?)"),
        (sqlite_lists.BY_CANCELLED, f"{COVERED} tasks_cancelled (seq<?)"),
        (
            sqlite_lists.BY_PARENT,
            "SEARCH tasks USING COVERING INDEX tasks_by_parent (parent_id=? AND rowid<?)",
        ),
        (
            sqlite_lists.BY_CAUSE,
            f"{COVERED} tasks_by_cause (fingerprint=? AND rowid<?)",
        ),
        (sqlite_lists.BY_SCHEDULE, f"{COVERED} tasks_by_schedule (<expr>=? AND rowid<?)"),
        (sqlite_lists.BY_TAG, "SEARCH tags USING PRIMARY KEY (tag=? AND seq<?)"),
        (
            sqlite_lists.BY_LANE.format(1),
            f"{COVERED} tasks_by_lane (lane=? AND rowid<?)",
        ),
    ],
)
def test_candidates_come_sorted_from_an_index(store: SqliteStore, statement: str, step: str) -> None:
    assert plan(store, f"{statement} AND seq < :before ORDER BY seq DESC LIMIT 9") == [step]


def test_several_sources_are_merged_and_not_sorted(store: SqliteStore) -> None:
    parts = (sqlite_lists.BY_OPEN, sqlite_lists.BY_FAILED, sqlite_lists.BY_CANCELLED)

    steps = plan(store, " UNION ALL ".join(parts) + " ORDER BY seq DESC LIMIT 9")

    # Only the condition of tasks_open is a comparison, for which SQLite looks at the row itself.
    assert steps == [
        "SCAN tasks USING INDEX tasks_open",
        "SCAN tasks USING COVERING INDEX tasks_failed",
        "SCAN tasks USING COVERING INDEX tasks_cancelled",
    ]


def test_tasks_and_groups_are_read_by_an_index(store: SqliteStore) -> None:
    assert "TEMP B-TREE FOR ORDER BY" not in " ".join(plan(store, sqlite_lists.SELECT_LISTED))
    assert plan(store, sqlite_lists.SELECT_GROUPS)[0] == f"{COVERED} tasks_by_cause (fingerprint>?)"


def test_lists_cost_the_same_however_much_is_finished(store: SqliteStore) -> None:
    def populate(prefix: str) -> None:
        many(store, 12, f"{prefix}f", key="mine", tags=("red",), queue="mail", schedule="nightly")
        end_all(store, State.FAILED)
        do(store, ops.Submit(new(f"{prefix}p")))
        many(store, 12, f"{prefix}c", parent_id=TaskId(f"{prefix}p"))
        for n in range(12):
            do(store, ops.Cancel(TaskId(f"{prefix}c{n}")))

    def costs(prefix: str) -> dict[str, int]:
        fingerprint = store.read(GetFailureGroups())[0].fingerprint
        return {
            "failed": work_of_page(store, states=(State.FAILED,)),
            "cancelled": work_of_page(store, states=(State.CANCELLED,)),
            "open": work_of_page(store, 1, states=(State.PENDING, State.RUNNING)),
            "key": work_of_page(store, key="mine"),
            "queue": work_of_page(store, queue="mail", states=(State.FAILED, State.SUCCEEDED)),
            "tag": work_of_page(store, tag="red"),
            "schedule": work_of_page(store, schedule="nightly"),
            "parent": work_of_page(store, parent_id=TaskId(f"{prefix}p")),
            "fingerprint": work_of_page(store, fingerprint=fingerprint),
            "error": work_of_page(store, states=(State.FAILED,), error="BOOM"),
        }

    populate("few")
    few = costs("few")
    many(store, 15_000, "done", queue="bulk")
    end_all(store)
    do(store, ops.Submit(new("open")))

    for name, cost in costs("few").items():
        assert cost < few[name] + 2_000, name


def test_failure_groups_cost_what_failed_tasks_cost(store: SqliteStore) -> None:
    many(store, 50, "f")
    end_all(store, State.FAILED)
    with store._readers.lend() as db:
        few = work(db, lambda: sqlite_lists.failure_groups(db, 10))
    many(store, 5_000, "done")
    end_all(store)

    with store._readers.lend() as db:
        assert work(db, lambda: sqlite_lists.failure_groups(db, 10)) <= few + 100
    assert [group.count for group in store.read(GetFailureGroups())] == [50]


# Bounds


def test_page_ends_where_it_has_looked_at_enough(store: SqliteStore) -> None:
    do(store, ops.Submit(new("old", schedule="s", payload='{"a":1}')))
    many(store, sqlite_lists.SCAN_MAX, schedule="s")

    first = store.read(ListTasks(TaskFilter(payload=match("a", "1")), 10))
    assert first == TaskPage((), 2)
    second = store.read(ListTasks(TaskFilter(payload=match("a", "1")), 10, first.next))
    assert ([task.id for task in second.tasks], second.next) == (["old"], None)


def match(name: str, *values: str) -> PayloadMatch:
    return PayloadMatch((name,), tuple(Json(value) for value in values))


@pytest.mark.parametrize("limit", [5, 100])
def test_page_ends_when_its_texts_are_much(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(sqlite_lists, "PAGE_BYTES_MAX", 5_000)
    many(store, 9, payload='"' + "x" * 1_500 + '"')

    found = pages(store, TaskFilter(), limit)

    assert [len(page.tasks) for page in found] == [4, 4, 1]
    assert [task.id for page in found for task in page.tasks] == [f"t{n}" for n in range(8, -1, -1)]


def test_long_payloads_are_looked_into_up_to_a_bound(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_lists, "PARSED_BYTES_MAX", 5_000)
    many(store, 9, payload='{"a":1,"b":"' + "x" * 2_000 + '"}')
    many(store, 9, "short", payload='{"a":1}')

    found = pages(store, TaskFilter(payload=match("a", "1")), 100)

    assert [len(page.tasks) for page in found] == [12, 3, 3, 0]
    assert [len(page.tasks) for page in pages(store, TaskFilter(payload=match("a", "2")), 100)] == [
        0,
        0,
        0,
        0,
    ]


def test_page_is_short_where_only_numbers_look_alike(store: SqliteStore) -> None:
    many(store, 3, "list", payload='{"a":[1]}')
    many(store, 2, "other", payload='{"a":[2]}')

    found = pages(store, TaskFilter(payload=match("a", "[1]")), 2)

    assert [len(page.tasks) for page in found] == [0, 2, 1]


def test_more_lanes_than_can_be_merged_are_filtered(store: SqliteStore) -> None:
    for n in range(sqlite_lists.LANES_MERGED_MAX + 1):
        do(store, ops.Submit(new(f"t{n}", key=f"k{n}", queue="wide", type="ab"[n % 2])))
    many(store, 3, "narrow", queue="narrow", type="a")

    assert len(listed(store, TaskFilter(queue="wide"))) == sqlite_lists.LANES_MERGED_MAX + 1
    assert len(listed(store, TaskFilter(type="a"))) == 65 + 3
    assert [task.id for task in listed(store, TaskFilter(type="a", queue="wide", key="k4"))] == ["t4"]


def test_pages_stay_right_while_tasks_come_and_change(store: SqliteStore) -> None:
    many(store, 6)
    first = store.read(ListTasks(TaskFilter(states=(State.PENDING, State.RUNNING)), 2))
    many(store, 2, "new")
    claim(store, 3)

    rest = store.read(ListTasks(TaskFilter(states=(State.PENDING, State.RUNNING)), 9, first.next))

    assert [task.id for task in (*first.tasks, *rest.tasks)] == ["t5", "t4", "t3", "t2", "t1", "t0"]


def test_reader_is_free_again_after_a_list(store: SqliteStore) -> None:
    many(store, 3)
    store.read(ListTasks(TaskFilter(), 1))

    with store._readers.lend() as db:
        assert not db.in_transaction
