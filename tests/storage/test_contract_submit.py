"""Every store: storing new tasks."""

from __future__ import annotations

import pytest
from storage_kit import NOW, claim, claimed, do, new, refusal, state, submit, task

from tq.core import ops, queries
from tq.core.errors import DuplicateTask
from tq.core.retry import RetryKind, RetryPolicy
from tq.core.task import Json, NewTask, Options, State, Task, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)


def test_contract_runs_on_every_kind_of_store(request: pytest.FixtureRequest, store: Store) -> None:
    assert request.node.name.endswith(("[memory]", "[sqlite]", "[postgres]"))


def test_empty_batch_is_answered_with_nothing(store: Store) -> None:
    assert store.apply([], NOW) == []


def test_submitted_task_is_kept_as_given_and_pending(store: Store) -> None:
    given = NewTask(
        id=TaskId("a"),
        type="email",
        payload=Json('{ "to":  "ana@example.com", "ñ": "日本\\n\\"" }'),
        queue="mail",
        priority=7,
        run_at=NOW - 5,
        timeout_ms=1_234,
        max_attempts=9,
        retry=RetryPolicy(kind=RetryKind.POLYNOMIAL, base_ms=11, cap_ms=222, jitter=0.25),
        result_ttl_ms=77,
        key="ñ",
        options=Options(tags=("a", "b"), deadline_at=NOW + 9, schedule="nightly"),
    )

    assert do(store, ops.Submit(given)) == ops.Submitted(TaskId("a"), State.PENDING, duplicate=False)

    assert task(store, "a") == Task(
        id=TaskId("a"),
        type="email",
        queue="mail",
        state=State.PENDING,
        reason=None,
        payload=Json('{ "to":  "ana@example.com", "ñ": "日本\\n\\"" }'),
        priority=7,
        attempt=0,
        max_attempts=9,
        crashes=0,
        generation=0,
        timeout_ms=1_234,
        retry=RetryPolicy(kind=RetryKind.POLYNOMIAL, base_ms=11, cap_ms=222, jitter=0.25),
        result_ttl_ms=77,
        created_at=NOW,
        run_at=NOW - 5,
        started_at=None,
        finished_at=None,
        worker=None,
        server=None,
        cancel_reason=None,
        result=None,
        errors=(),
        key="ñ",
        blockers=0,
        fingerprint=None,
        progress=None,
        logs=(),
        options=Options(tags=("a", "b"), deadline_at=NOW + 9, schedule="nightly"),
    )


@pytest.mark.parametrize(
    "payload",
    [
        "null",
        '"\\u0000"',
        '"\\\\u0000 \\u001f \x7f"',
        "-9223372036854775808",
        "18446744073709551615",
        "1e400",
        "[1.0, 1]",
        '{"a": {"a": [[]]}, "a": 2}',
        '"😀 \\ud83d\\ude00"',
        '"' + "é" * 1_001 + '"',
        '"' + "x" * 1_000_000 + '"',
    ],
    ids=lambda payload: payload[:12],
)
def test_payload_comes_back_to_the_character(store: Store, payload: str) -> None:
    do(store, ops.Submit(new("a", payload=payload)))

    assert task(store, "a").payload == payload
    [lease] = claim(store)
    assert lease.payload == payload


def test_task_for_later_is_scheduled(store: Store) -> None:
    assert do(store, ops.Submit(new("a", run_at=NOW + 1))).state is State.SCHEDULED
    assert do(store, ops.Submit(new("b", run_at=NOW))).state is State.PENDING
    assert claimed(store) == ["b"]


def test_unknown_task_is_none(store: Store) -> None:
    submit(store, "a")

    assert store.read(queries.GetTask(TaskId("b"))) is None
    assert store.read(queries.GetTask(TaskId("a\0"))) is None


def test_same_submit_again_changes_nothing_and_tells_the_state_now(store: Store) -> None:
    do(store, ops.Submit(new("a", payload='{"x":1,"y":2}')))
    claim(store)
    before = store.snapshot()

    again = do(store, ops.Submit(new("a", payload='{ "y": 2, "x": 1 }', priority=5)), NOW + 9)

    assert again == ops.Submitted(TaskId("a"), State.RUNNING, duplicate=True)
    assert store.snapshot() == before


def test_same_submit_twice_in_one_batch_makes_one_task(store: Store) -> None:
    replies = store.apply([ops.Submit(new("a")), ops.Submit(new("b")), ops.Submit(new("a"))], NOW)

    assert replies == [
        ops.Submitted(TaskId("a"), State.PENDING),
        ops.Submitted(TaskId("b"), State.PENDING),
        ops.Submitted(TaskId("a"), State.PENDING, duplicate=True),
    ]
    assert store.read(queries.GetStats()).submitted == 2


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (new("a", type="sms"), "type"),
        (new("a", payload='{"n":1.0}'), "payload"),
        (new("a", type="sms", payload="2"), "type"),
    ],
)
def test_other_submit_under_a_taken_id_is_refused(store: Store, other: NewTask, what: str) -> None:
    submit(store, "a")

    refused = refusal(DuplicateTask, store, ops.Submit(other))

    assert refused.message == f"task a exists with another {what}: choose another id or send the same request"
    assert refused.fields == {"task_id": "a"}


def test_long_payload_is_compared_as_well(store: Store) -> None:
    long = '"' + "x" * 5_000 + '"'
    first, same, other = store.apply(
        [ops.Submit(new("a", payload=text)) for text in (long, long, long[:-2] + 'y"')], NOW
    )

    assert first == ops.Submitted(TaskId("a"), State.PENDING)
    assert same == ops.Submitted(TaskId("a"), State.PENDING, duplicate=True)
    assert isinstance(other, DuplicateTask)
    assert isinstance(store.apply([ops.Submit(new("a"))], NOW)[0], DuplicateTask)


def test_refused_submit_does_not_disturb_its_neighbours(store: Store) -> None:
    submit(store, "a")

    before, refused, after = store.apply(
        [ops.Submit(new("b")), ops.Submit(new("a", type="sms")), ops.Submit(new("c"))], NOW
    )

    assert before == ops.Submitted(TaskId("b"), State.PENDING)
    assert isinstance(refused, DuplicateTask)
    assert after == ops.Submitted(TaskId("c"), State.PENDING)
    assert claimed(store) == ["a", "b", "c"]


def test_batch_submit_stores_all_in_order(store: Store) -> None:
    replies = do(store, ops.SubmitMany((new("b"), new("a"), new("c", run_at=NOW + 5), new("b"))))

    assert replies == (
        ops.Submitted(TaskId("b"), State.PENDING),
        ops.Submitted(TaskId("a"), State.PENDING),
        ops.Submitted(TaskId("c"), State.SCHEDULED),
        ops.Submitted(TaskId("b"), State.PENDING, duplicate=True),
    )
    assert claimed(store) == ["b", "a"]
    assert do(store, ops.SubmitMany(())) == ()


def test_batch_submit_stores_none_if_one_is_refused(store: Store) -> None:
    submit(store, "old")

    refused = refusal(
        DuplicateTask, store, ops.SubmitMany((new("a"), new("old"), new("old", type="sms"), new("b")))
    )

    assert refused.fields == {"task_id": "old", "index": 2}


def test_batch_submit_is_refused_if_it_contradicts_itself(store: Store) -> None:
    refused = refusal(DuplicateTask, store, ops.SubmitMany((new("a"), new("b"), new("a", payload="2"))))

    assert refused.fields == {"task_id": "a", "index": 2}


def test_batch_submit_between_single_ones_keeps_the_order(store: Store) -> None:
    store.apply(
        [ops.Submit(new("a")), ops.SubmitMany((new("b"), new("c"))), ops.Submit(new("d"))],
        NOW,
    )

    assert [kept.id for kept in store.snapshot().tasks] == ["a", "b", "c", "d"]


def test_submit_and_what_follows_it_work_in_one_batch(store: Store) -> None:
    replies = store.apply([ops.Submit(new("a")), ops.Cancel(TaskId("a")), ops.Submit(new("a"))], NOW)

    assert replies[1] == ops.CancelReply(State.CANCELLED)
    assert replies[2] == ops.Submitted(TaskId("a"), State.CANCELLED, duplicate=True)
    assert state(store, "a") is State.CANCELLED
