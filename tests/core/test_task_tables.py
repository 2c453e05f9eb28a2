"""The life of a task: what the tables allow, and what an outcome leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.core.errors import IllegalTransition
from tq.core.retry import DEFAULT_RETRY, RetryPolicy
from tq.core.task import (
    FINAL,
    INITIAL,
    MOVES,
    TIMED,
    WAITING,
    Cancel,
    Failure,
    Json,
    Lease,
    Move,
    Outcome,
    Reason,
    Snooze,
    State,
    Success,
    TaskId,
    Verdict,
    check_move,
    cut_text,
    initial_state,
    keep_until,
    same_json,
    server_lost,
    verdict,
)

NOW = 1_700_000_000_000
T = TaskId("t")

TABLE = {
    "blocked": {"promote": {"scheduled", "pending"}, "cancel": {"cancelled"}},
    "scheduled": {"promote": {"pending"}, "cancel": {"cancelled"}},
    "pending": {"claim": {"running"}, "cancel": {"cancelled"}},
    "running": {
        "finish": {"succeeded", "failed", "cancelled", "retrying", "scheduled"},
        "release": {"pending", "cancelled"},
        "recover": {"pending", "failed", "cancelled"},
        "cancel": {"running"},
    },
    "retrying": {"promote": {"pending"}, "cancel": {"cancelled"}},
    "succeeded": {"retry": {"pending"}},
    "failed": {"retry": {"pending"}},
    "cancelled": {"retry": {"pending"}},
}


def test_table_of_moves_is_as_the_design_says() -> None:
    assert {
        state.value: {move.value: {to.value for to in targets} for move, targets in moves.items()}
        for state, moves in MOVES.items()
    } == TABLE


def test_every_state_has_a_place_in_the_table() -> None:
    assert set(MOVES) == set(State)
    assert WAITING | {State.RUNNING} | FINAL == set(State)
    assert not WAITING & FINAL
    assert TIMED < WAITING
    assert INITIAL < WAITING


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("to", State)
def test_move_is_allowed_exactly_if_it_is_in_the_table(state: State, move: Move, to: State) -> None:
    if to in TABLE[state].get(move, set()):
        check_move(T, state, move, to)
        return
    with pytest.raises(IllegalTransition) as refused:
        check_move(T, state, move, to)
    assert refused.value.fields == {"task_id": "t", "state": state.value, "move": move.value}


def test_refused_move_says_what_is_possible() -> None:
    with pytest.raises(IllegalTransition) as refused:
        check_move(T, State.RUNNING, Move.RETRY, State.PENDING)

    assert refused.value.message == (
        "task t is running: it cannot retry; from running a task can cancel, finish, recover, release"
    )


def test_every_state_is_reached_from_the_initial_ones() -> None:
    reached: set[State] = set(INITIAL)
    while True:
        further = {to for state in reached for targets in MOVES[state].values() for to in targets}
        if further <= reached:
            break
        reached |= further
    assert reached == set(State)


@given(start=st.sampled_from(sorted(INITIAL)), choices=st.lists(st.integers(0, 99), max_size=60))
def test_no_path_leaves_a_final_state_except_by_retry(start: State, choices: list[int]) -> None:
    state = start
    for choice in choices:
        steps = sorted((move, to) for move, targets in MOVES[state].items() for to in targets)
        move, to = steps[choice % len(steps)]
        check_move(T, state, move, to)
        assert (move is Move.RETRY) == (state in FINAL)
        # Nothing runs but what was claimed, and nothing is claimed but what is pending.
        assert (
            to is not State.RUNNING or state is State.RUNNING or (state, move) == (State.PENDING, Move.CLAIM)
        )
        state = to


def test_nothing_is_ever_stuck() -> None:
    assert all(moves for moves in MOVES.values())


# What an outcome leads to


def lease(*, attempt: int = 1, max_attempts: int = 3, retry: RetryPolicy = DEFAULT_RETRY) -> Lease:
    return Lease(
        T, 7, "email", "default", Json("1"), attempt, max_attempts, 5_000, retry, None, NOW, NOW, NOW
    )


def error(*, retryable: bool = True, retry_after_ms: int | None = None) -> Failure:
    return Failure(
        reason=Reason.TIMEOUT, type="T", message="m", retryable=retryable, retry_after_ms=retry_after_ms
    )


@pytest.mark.parametrize(
    ("outcome", "attempt", "expected"),
    [
        (Success(Json("1")), 1, Verdict(State.SUCCEEDED, Reason.OK)),
        (Success(Json("1")), 3, Verdict(State.SUCCEEDED, Reason.OK)),
        (error(), 1, Verdict(State.RETRYING, Reason.TIMEOUT, NOW + 1_000)),
        (error(), 2, Verdict(State.RETRYING, Reason.TIMEOUT, NOW + 2_000)),
        (error(), 3, Verdict(State.FAILED, Reason.TIMEOUT)),
        (error(), 4, Verdict(State.FAILED, Reason.TIMEOUT)),
        (error(retryable=False), 1, Verdict(State.FAILED, Reason.TIMEOUT)),
        (error(retry_after_ms=0), 1, Verdict(State.RETRYING, Reason.TIMEOUT, NOW)),
        (error(retry_after_ms=77), 2, Verdict(State.RETRYING, Reason.TIMEOUT, NOW + 77)),
        (error(retry_after_ms=77), 3, Verdict(State.FAILED, Reason.TIMEOUT)),
        (Snooze(500), 1, Verdict(State.SCHEDULED, None, NOW + 500)),
        (Snooze(0), 3, Verdict(State.SCHEDULED, None, NOW)),
        (Cancel("no"), 1, Verdict(State.CANCELLED, Reason.USER)),
    ],
)
def test_outcome_leads_where_it_should(outcome: Outcome, attempt: int, expected: Verdict) -> None:
    assert verdict(outcome, lease(attempt=attempt), now=NOW, chance=0.5) == expected


def test_single_attempt_is_never_tried_again() -> None:
    assert verdict(error(), lease(max_attempts=1), now=NOW, chance=0.5).state is State.FAILED


@given(
    outcome=st.sampled_from([Success(Json("1")), error(), error(retryable=False), Snooze(5), Cancel()]),
    attempt=st.integers(1, 30),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_verdict_is_a_legal_finish(outcome: Outcome, attempt: int, chance: float) -> None:
    found = verdict(outcome, lease(attempt=attempt, max_attempts=20), now=NOW, chance=chance)

    check_move(T, State.RUNNING, Move.FINISH, found.state)
    assert (found.run_at is None) == (found.state in FINAL)
    assert found.run_at is None or found.run_at >= NOW


# Small rules


def test_task_starts_pending_unless_its_time_is_to_come() -> None:
    assert initial_state(NOW, NOW) is State.PENDING
    assert initial_state(NOW - 1, NOW) is State.PENDING
    assert initial_state(NOW + 1, NOW) is State.SCHEDULED


def test_failed_tasks_are_kept_seven_days_and_others_one() -> None:
    assert keep_until(State.SUCCEEDED, None, NOW) == NOW + 86_400_000
    assert keep_until(State.CANCELLED, None, NOW) == NOW + 86_400_000
    assert keep_until(State.FAILED, None, NOW) == NOW + 604_800_000
    assert keep_until(State.FAILED, 5, NOW) == NOW + 5
    assert keep_until(State.SUCCEEDED, 0, NOW) == NOW


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1", True),
        ("1", "1.0", False),
        ("1e2", "100.0", True),
        ('{"a":1,"b":2}', '{ "b": 2, "a": 1 }', True),
        ('{"a":{"b":1,"c":2}}', '{"a":{"c":2,"b":1}}', True),
        ("[1,2]", "[2,1]", False),
        ('"\\u00f1"', '"ñ"', True),
        ("null", "false", False),
        ("18446744073709551615", "18446744073709551614", False),
    ],
)
def test_json_is_compared_by_what_it_says(one: str, other: str, same: bool) -> None:
    assert same_json(Json(one), Json(other)) is same
    assert same_json(Json(other), Json(one)) is same


def test_long_text_keeps_its_end() -> None:
    assert cut_text("x" * 16_384) == "x" * 16_384
    cut = cut_text("head" + "x" * 16_384 + "tail")
    assert len(cut) == 16_384
    assert cut.startswith("… x")
    assert cut.endswith("xtail")


def test_lost_server_is_told_of_in_the_history() -> None:
    lost = server_lost(4, NOW)

    assert (lost.attempt, lost.at, lost.reason, lost.type) == (4, NOW, Reason.INTERRUPTED, "ServerLost")
