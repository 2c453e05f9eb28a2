"""Every store: lists of tasks by what they are, page by page, and failures by their cause."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from storage_kit import NOW, claim, do, failure, finish, new, submit, task

from tq.core import ops, queries
from tq.core.queries import FailureGroup, ListTasks, OldestPending, PayloadMatch, TaskFilter, TaskPage
from tq.core.task import AttemptError, Json, LogLine, Progress, Reason, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A = TaskId("a")


def page(store: Store, limit: int, before: int | None = None, **wanted: Any) -> TaskPage:
    found = store.read(ListTasks(TaskFilter(**wanted), limit, before))
    assert len(found.tasks) <= limit
    return found


def names(found: TaskPage) -> str:
    return " ".join(task.id for task in found.tasks)


def listed(store: Store, limit: int = 2, **wanted: Any) -> str:
    """The names of all that are meant, page by page."""
    all_names, before = [], None
    while True:
        found = page(store, limit, before, **wanted)
        all_names += [task.id for task in found.tasks]
        if found.next is None:
            return " ".join(all_names)
        assert before is None or found.next < before
        before = found.next


def fail(store: Store, name: str, kind: str = "ValueError", message: str = "boom", **given: Any) -> None:
    """A task that has failed at once."""
    frame = given.pop("frame", None)
    do(store, ops.Submit(new(name, priority=100, **given)))
    [lease] = claim(store)
    error = AttemptError(1, NOW, Reason.ERROR, kind, message, frame=frame)
    do(store, finish(lease, State.FAILED, Reason.ERROR, error=error))


@pytest.fixture
def crowd(store: Store) -> Store:
    """Six tasks of every kind."""
    do(store, ops.Submit(new("a", key="K", tags=("x", "y"))), NOW)
    do(store, ops.Submit(new("b", type="sms", priority=9, tags=("x",), parent_id=A)), NOW + 1)
    [lease] = claim(store)
    do(store, finish(lease, State.FAILED, Reason.ERROR, error=told("ValueError", "Boom")))
    do(store, ops.Submit(new("c", key="k", priority=9, queue="mail", schedule="daily")), NOW + 2)
    claim(store)
    do(store, ops.Submit(new("d", key="K", queue="mail", tags=("y", "xy"))), NOW + 3)
    do(store, ops.Submit(new("e", type="sms", run_at=NOW + 99, schedule="hourly")), NOW + 4)
    do(store, ops.Submit(new("f", parent_id=A, queue="mail")), NOW + 5)
    do(store, ops.Cancel(TaskId("f")), NOW + 6)
    return store


def told(kind: str, message: str) -> AttemptError:
    return AttemptError(1, NOW, Reason.ERROR, kind, message)


# Filters


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "f e d c b a"),
        ({"states": (State.PENDING,)}, "d a"),
        ({"states": (State.CANCELLED, State.RUNNING, State.FAILED)}, "f c b"),
        ({"states": (State.SUCCEEDED, State.BLOCKED, State.RETRYING)}, ""),
        ({"states": tuple(State)}, "f e d c b a"),
        ({"queue": "mail"}, "f d c"),
        ({"queue": "Mail"}, ""),
        ({"type": "sms"}, "e b"),
        ({"key": "K"}, "d a"),
        ({"key": "k"}, "c"),
        ({"tag": "x"}, "b a"),
        ({"tag": "y"}, "d a"),
        ({"tag": "xy"}, "d"),
        ({"tag": "X"}, ""),
        ({"parent_id": A}, "f b"),
        ({"parent_id": TaskId("b")}, ""),
        ({"schedule": "daily"}, "c"),
        ({"created_after": NOW + 3}, "f e d"),
        ({"created_before": NOW + 3}, "c b a"),
        ({"created_after": NOW + 1, "created_before": NOW + 4}, "d c b"),
        ({"created_after": NOW + 3, "created_before": NOW + 3}, ""),
        ({"error": "boom"}, "b"),
        ({"fingerprint": "0123456789ab"}, ""),
        ({"payload": PayloadMatch(("n",), (Json("1"),))}, "f e d c b a"),
        # All that is said must be so.
        ({"queue": "mail", "key": "K"}, "d"),
        ({"type": "sms", "tag": "x", "states": (State.FAILED,)}, "b"),
        ({"type": "sms", "tag": "x", "states": (State.PENDING,)}, ""),
        ({"parent_id": A, "queue": "mail", "created_after": NOW + 5, "states": (State.CANCELLED,)}, "f"),
        ({"tag": "y", "key": "K", "created_before": NOW + 3}, "a"),
        ({"error": "BOOM", "payload": PayloadMatch(("n",), (Json("1"),)), "parent_id": A}, "b"),
        ({"schedule": "hourly", "type": "sms", "queue": "default"}, "e"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 500])
def test_filter_means_all_that_is_so(crowd: Store, wanted: dict[str, Any], expected: str, limit: int) -> None:
    assert listed(crowd, limit, **wanted) == expected


def test_list_shows_tasks_whole(crowd: Store) -> None:
    assert page(crowd, 500).tasks == tuple(task(crowd, name) for name in "fedcba")


LONG = Json('"' + "x" * 100_000 + '"')
"""A payload or result that no store keeps beside the rest of a task."""


@pytest.mark.parametrize("wanted", [{}, {"error": "late"}, {"payload": PayloadMatch(("a",), (LONG,))}])
def test_brief_list_leaves_out_what_may_be_long(store: Store, wanted: dict[str, Any]) -> None:
    do(store, ops.Submit(new("a", payload=f'{{"a":{LONG}}}', tags=("x",))))
    for attempt in (1, 2):
        [lease] = claim(store)
        failed = failure(attempt, f"late {attempt}")
        failed = msgspec.structs.replace(failed, traceback="line 1", frame="a.py:f")
        do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=failed))
        do(store, ops.Promote())
    [lease] = claim(store)
    do(store, ops.Note(A, lease.generation, Progress(0.5), (LogLine(NOW, 3, "half"),)))
    do(store, finish(lease, result=LONG))
    whole = task(store, "a")
    assert (len(whole.errors), len(whole.logs), whole.result) == (2, 1, LONG)

    [listed] = store.read(ListTasks(TaskFilter(**wanted), 10, brief=True)).tasks

    assert (listed.payload, listed.result, listed.logs) == ("null", None, ())
    assert listed.errors == (
        AttemptError(2, NOW + 2, Reason.ERROR, "ValueError", "late 2", None, 7, "a.py:f"),
    )
    kept = {name: getattr(whole, name) for name in ("payload", "result", "logs", "errors")}
    assert msgspec.structs.replace(listed, **kept) == whole


def test_brief_pages_are_those_of_whole_tasks(crowd: Store) -> None:
    first = crowd.read(ListTasks(TaskFilter(), 4, brief=True))
    assert names(first) == "f e d c"
    assert first.next == page(crowd, 4).next
    assert names(crowd.read(ListTasks(TaskFilter(), 4, first.next, brief=True))) == "b a"


def test_empty_store_lists_nothing(store: Store) -> None:
    assert page(store, 10) == TaskPage((), None)


def test_order_is_that_of_arrival_whatever_the_clock_said(store: Store) -> None:
    submit(store, "a", now=NOW + 9)
    submit(store, "b", now=NOW)
    submit(store, "c", now=NOW + 5)

    assert listed(store) == "c b a"
    assert listed(store, created_after=NOW + 5) == "c a"


def test_filter_follows_the_states(store: Store) -> None:
    submit(store, "a")
    assert listed(store, states=(State.PENDING,)) == "a"
    [lease] = claim(store)
    assert listed(store, states=(State.PENDING,)) == ""
    assert listed(store, states=(State.RUNNING,)) == "a"
    do(store, finish(lease))
    assert listed(store, states=(State.RUNNING,)) == ""
    assert listed(store, states=(State.SUCCEEDED,)) == "a"
    do(store, ops.Delete(A))
    assert listed(store) == ""


# Errors


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("boom", True),
        ("BOOM", True),
        ("valueerror: b", True),
        ("Error: Boom at 100%", True),
        ("100%_", True),
        ("1%0", False),
        ("1_0", False),
        ('it\'s "so" \\ now', True),
        ("Ñ", True),
        ("ñ", False),
        ("日本", True),
        ("boom  at", False),
        ("first", False),
    ],
)
def test_error_is_found_by_a_part_of_its_text(store: Store, text: str, found: bool) -> None:
    submit(store, "a")
    message = 'Boom at 100%_ Ñ 日本 it\'s "so" \\ now'
    for attempt, error in enumerate((told("FirstError", "first"), told("ValueError", message))):
        [lease] = claim(store)
        end = State.RETRYING if attempt == 0 else State.FAILED
        do(store, finish(lease, end, Reason.ERROR, run_at=NOW, error=error))
        do(store, ops.Promote())
    submit(store, "no error")

    assert listed(store, error=text) == ("a" if found else "")


def test_last_error_counts_in_whatever_state(store: Store) -> None:
    submit(store, "a")
    [lease] = claim(store)
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=told("E", "first")))
    do(store, ops.Promote())
    assert listed(store, error="first") == "a"
    [lease] = claim(store)
    assert listed(store, error="e: first") == "a"
    do(store, finish(lease, result="1"))
    assert listed(store, error="first", states=(State.SUCCEEDED,)) == "a"


# Payloads


@pytest.mark.parametrize(
    ("payload", "path", "values", "found"),
    [
        ('{"n":42}', "n", ["42"], True),
        ('{"n":42}', "n", ['"42"'], False),
        ('{"n":42}', "n", ["42.0"], False),
        ('{"n":42.0}', "n", ["42"], False),
        ('{"n":42.0}', "n", ["42.0"], True),
        ('{"n":"42"}', "n", ["42"], False),
        ('{"n":"42"}', "n", ['"42"'], True),
        ('{"n":"42"}', "n", ["42", '"42"'], True),
        ('{"n":42}', "n", ["42", '"42"'], True),
        ('{"n":4}', "n", ["42"], False),
        ('{"n":-7}', "n", ["-7"], True),
        ('{"n":0.1}', "n", ["0.1"], True),
        ('{"n":1e2}', "n", ["100.0"], True),
        ('{"n":1e2}', "n", ["100"], False),
        ('{"n":1e-7}', "n", ["1e-7"], True),
        ('{"n":9007199254740993}', "n", ["9007199254740993"], True),
        ('{"n":9007199254740993}', "n", ["9007199254740992"], False),
        ('{"n":-9223372036854775808}', "n", ["-9223372036854775808"], True),
        ('{"n":18446744073709551615}', "n", ["18446744073709551615"], True),
        ('{"n":18446744073709551615}', "n", ["18446744073709551614"], False),
        ('{"n":true}', "n", ["true"], True),
        ('{"n":true}', "n", ["1"], False),
        ('{"n":true}', "n", ['"true"'], False),
        ('{"n":1}', "n", ["true"], False),
        ('{"n":false}', "n", ["0"], False),
        ('{"n":0}', "n", ["false"], False),
        ('{"n":null}', "n", ["null"], True),
        ('{"n":null}', "n", ['"null"'], False),
        ('{"m":1}', "n", ["null"], False),
        ('{"n":""}', "n", ['""'], True),
        ('{"n":""}', "n", ["null"], False),
        ('{"n":"Ana"}', "n", ['"ana"'], False),
        ('{"n":"ñ 日 😀"}', "n", ['"ñ 日 😀"'], True),
        ('{"n":"\\u00f1 \\ud83d\\ude00"}', "n", ['"ñ 😀"'], True),
        ('{"n":"a\\"b\\\\c\\nd"}', "n", ['"a\\"b\\\\c\\nd"'], True),
        ('{"n":"it\'s"}', "n", ['"it\'s"'], True),
        # Paths
        ('{"u":{"id":7}}', "u id", ["7"], True),
        ('{"u":{"id":{"x":{"y":7}}}}', "u id x y", ["7"], True),
        ('{"u":{"id":7}}', "id", ["7"], False),
        ('{"u":{"id":7}}', "u", ["7"], False),
        ('{"u":{"id":7}}', "u id x", ["7"], False),
        ('{"u.id":7}', "u id", ["7"], False),
        ('{"u":null}', "u id", ["null"], False),
        ('{"u":[{"id":7}]}', "u id", ["7"], False),
        ('{"u":[7]}', "u 0", ["7"], False),
        ('{"u":[7]}', "u[0]", ["7"], False),
        ('{"u[0]":7}', "u[0]", ["7"], True),
        ('{"u":[7]}', "u #-1", ["7"], False),
        ('{"N":7}', "n", ["7"], False),
        ('{"\\u00f1":7}', "ñ", ["7"], True),
        ('{"a\\"b":7}', 'a"b', ["7"], True),
        ('{"a\\\\b":7}', "a\\b", ["7"], True),
        ('{"a\'b":7}', "a'b", ["7"], True),
        ('{"$":7,"*":8}', "$", ["7"], True),
        ('{"$":7,"*":8}', "*", ["7"], False),
        ("[7]", "0", ["7"], False),
        ("7", "n", ["7"], False),
        ('"n"', "n", ['"n"'], False),
        ("null", "n", ["null"], False),
        # Arrays and objects, white space aside
        ('{"n":[1, "a", null]}', "n", ['[1,"a",null]'], True),
        ('{"n":[1,2]}', "n", ["[2,1]"], False),
        ('{"n":[1,2]}', "n", ["1"], False),
        ('{"n": { "x" : 1 } }', "n", ['{"x":1}'], True),
        ('{"n":{"x":1}}', "n", ['{"x":1.0}'], False),
        ('{"n":[]}', "n", ["[]"], True),
        ('{"n":{}}', "n", ["null"], False),
    ],
)
def test_payload_is_found_by_an_equal_value(
    store: Store, payload: str, path: str, values: list[str], found: bool
) -> None:
    do(store, ops.Submit(new("a", payload=payload)))
    match = PayloadMatch(tuple(path.split(" ")), tuple(Json(value) for value in values))

    assert listed(store, payload=match) == ("a" if found else "")


def test_long_payload_is_found_as_well(store: Store) -> None:
    do(store, ops.Submit(new("a", payload='{"pad":"' + "x" * 100_000 + '","n":42}')))
    do(store, ops.Submit(new("b", payload='{"n":43}')))

    assert listed(store, payload=PayloadMatch(("n",), (Json("42"),))) == "a"
    assert listed(store, payload=PayloadMatch(("n",), (Json("42"), Json("43")))) == "b a"


# Pages


def test_pages_go_on_where_they_ended(store: Store) -> None:
    submit(store, *(f"n{n}" for n in range(7)))

    first = page(store, 3)
    assert names(first) == "n6 n5 n4"
    assert first.next is not None
    second = page(store, 3, first.next)
    assert names(second) == "n3 n2 n1"
    # Asked again, the same.
    assert page(store, 3, first.next) == second
    third = page(store, 3, second.next)
    assert (names(third), third.next) == ("n0", None)


def test_pages_neither_repeat_nor_miss_while_tasks_change(store: Store) -> None:
    submit(store, *(f"n{n}" for n in range(10)))
    first = page(store, 3, states=(State.PENDING,))
    assert names(first) == "n9 n8 n7"

    submit(store, "new")
    do(store, ops.Cancel(TaskId("n5")))
    do(store, ops.Cancel(TaskId("n4")))
    do(store, ops.Delete(TaskId("n4")))
    # The one that the page ended with goes too.
    do(store, ops.Cancel(TaskId("n7")))
    do(store, ops.Delete(TaskId("n7")))
    second = page(store, 3, first.next, states=(State.PENDING,))
    assert names(second) == "n6 n3 n2"

    [lease] = claim(store)
    assert lease.task_id == "n0"
    do(store, finish(lease))
    do(store, ops.Retry(TaskId("n5")))
    third = page(store, 3, second.next, states=(State.PENDING,))
    assert (names(third), third.next) == ("n1", None)


def test_task_does_not_move_in_its_list_by_changing(store: Store) -> None:
    submit(store, "a", "b", "c")
    [lease] = claim(store)
    do(store, finish(lease))
    do(store, ops.Retry(A), NOW + 50)
    do(store, ops.Update(task_id=A, priority=50), NOW + 51)

    assert listed(store) == "c b a"


def test_new_task_of_a_deleted_id_comes_first(store: Store) -> None:
    submit(store, "a", "b")
    do(store, ops.Cancel(A))
    do(store, ops.Delete(A))
    submit(store, "a")

    assert listed(store) == "a b"


def test_rare_ones_are_found_among_thousands(store: Store) -> None:
    for part in range(3):
        do(store, ops.SubmitMany(tuple(new(f"n{part}-{n}") for n in range(1_000))))
        do(store, ops.Submit(new(f"rare{part}", tags=("rare",), payload='{"rare":true}')))

    assert listed(store, tag="rare") == "rare2 rare1 rare0"
    assert listed(store, payload=PayloadMatch(("rare",), (Json("true"),))) == "rare2 rare1 rare0"
    assert len(listed(store, 500).split()) == 3_003


# Failures


def groups(store: Store, limit: int = 500) -> list[tuple[str, int, str]]:
    found = store.read(queries.GetFailureGroups(limit))
    return [(group.error.type, group.count, group.latest) for group in found]


def test_failures_are_grouped_by_their_cause(store: Store) -> None:
    fail(store, "a", message="no 1")
    fail(store, "b", message="no 2")
    fail(store, "c", "KeyError", frame="app.py:pay")
    fail(store, "d", message="no 4")

    assert store.read(queries.GetFailureGroups()) == (
        FailureGroup(
            # blake2b of type, exception and place with line ends between them, 6 bytes of it.
            fingerprint="f0fa29823f69",
            type="email",
            count=3,
            latest=TaskId("d"),
            error=AttemptError(1, NOW, Reason.ERROR, "ValueError", "no 4"),
        ),
        FailureGroup(
            fingerprint="0102bffe9508",
            type="email",
            count=1,
            latest=TaskId("c"),
            error=AttemptError(1, NOW, Reason.ERROR, "KeyError", "boom", frame="app.py:pay"),
        ),
    )
    assert task(store, "a").fingerprint == "f0fa29823f69"
    assert listed(store, fingerprint="f0fa29823f69") == "d b a"
    assert listed(store, fingerprint="0102bffe9508") == "c"


def test_type_exception_and_place_make_the_cause(store: Store) -> None:
    fail(store, "a", frame="app.py:pay")
    fail(store, "b", frame="app.py:pay")
    fail(store, "c", frame="app.py:pay", type="sms")
    fail(store, "d", frame="app.py:ship")
    fail(store, "e", "TypeError", frame="app.py:pay")

    assert sorted(count for _, count, _ in groups(store)) == [1, 1, 1, 2]


def test_largest_group_is_first_then_by_fingerprint(store: Store) -> None:
    for kind, count in (("E1", 2), ("E2", 1), ("E3", 3), ("E4", 2), ("E5", 2)):
        for n in range(count):
            fail(store, f"{kind} {n}", kind)

    assert groups(store) == [
        ("E3", 3, "E3 2"),
        # 22ab027a5382
        ("E1", 2, "E1 1"),
        # 2f21e48cdd30
        ("E5", 2, "E5 1"),
        # 534cf7b247c7
        ("E4", 2, "E4 1"),
        ("E2", 1, "E2 0"),
    ]
    assert groups(store, limit=2) == groups(store)[:2]
    assert groups(store, limit=0) == []


def test_latest_is_the_one_that_arrived_last(store: Store) -> None:
    submit(store, "a", "b")
    first, second = claim(store, 2)
    do(store, finish(second, State.FAILED, Reason.ERROR, error=told("E", "of b")))
    do(store, finish(first, State.FAILED, Reason.ERROR, error=told("E", "of a")), NOW + 9)

    [group] = store.read(queries.GetFailureGroups())
    assert (group.count, group.latest, group.error.message) == (2, "b", "of b")


def test_only_failed_tasks_are_in_groups(store: Store) -> None:
    for name in "abcd":
        fail(store, name)
    fail(store, "other", "KeyError")
    do(store, ops.Retry(TaskId("d")))
    assert task(store, "d").fingerprint is None
    do(store, ops.Delete(TaskId("c")))
    do(store, ops.Retry(TaskId("other")))
    do(store, ops.Submit(new("z")))

    assert groups(store) == [("ValueError", 2, "b")]


def test_attempt_that_is_tried_again_or_cancelled_is_no_failure(store: Store) -> None:
    submit(store, "a", "b", "c")
    first, second, third = claim(store, 3)
    do(store, finish(first, State.RETRYING, Reason.ERROR, run_at=NOW, error=told("E", "m")))
    do(store, ops.Cancel(second.task_id))
    do(store, finish(second, State.FAILED, Reason.ERROR, error=told("E", "m")))
    do(store, finish(third, State.CANCELLED, Reason.USER, error=told("E", "m")))

    assert groups(store) == []
    assert [task(store, name).fingerprint for name in "abc"] == [None, None, None]


def test_failure_that_told_nothing_is_in_no_group(store: Store) -> None:
    submit(store, "a")
    do(store, finish(claim(store)[0], State.FAILED, Reason.ERROR))

    assert task(store, "a").fingerprint is None
    assert groups(store) == []


# The oldest that wait


def test_the_oldest_pending_task_of_each_queue_is_known_whatever_its_priority(store: Store) -> None:
    assert store.read(OldestPending()) == ()
    for waiting in (
        new("late", priority=9, run_at=NOW - 1),
        new("early", type="sms", priority=-3, run_at=NOW - 6),
        new("earlier", type="sms", key="k", run_at=NOW - 7),
        new("mail", queue="mail", priority=5, run_at=NOW - 3),
        new("mail-low", queue="mail", priority=4, run_at=NOW - 8),
        new("mail-lower", queue="mail", priority=-100, run_at=NOW - 2),
    ):
        do(store, ops.Submit(waiting))
    assert store.read(OldestPending()) == (("default", NOW - 7), ("mail", NOW - 8))


def test_the_oldest_pending_task_neither_runs_nor_waits_for_its_time(
    store: Store,
) -> None:
    do(store, ops.Submit(new("runs", queue="runs", priority=9)), NOW)
    [lease] = claim(store)
    do(store, ops.Submit(new("later", queue="later", run_at=NOW + 50)), NOW)
    assert store.read(OldestPending()) == ()
    do(store, ops.Promote(), NOW + 60)
    do(store, finish(lease, State.SUCCEEDED, Reason.OK), NOW + 60)
    assert store.read(OldestPending()) == (("later", NOW + 50),)
