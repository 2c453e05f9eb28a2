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
    AttemptError,
    Cancel,
    During,
    Expired,
    Failure,
    Json,
    Judged,
    Lease,
    Move,
    OnConflict,
    Options,
    Reason,
    Snooze,
    State,
    Success,
    TaskId,
    Unique,
    Verdict,
    check_move,
    cut_text,
    deadline_passed,
    expiry,
    fingerprint,
    holds_unique,
    initial_state,
    keep_until,
    same_json,
    server_lost,
    unique_name,
    verdict,
)

NOW = 1_700_000_000_000
T = TaskId("t")

TABLE = {
    "blocked": {
        "promote": {"scheduled", "pending"},
        "cancel": {"cancelled"},
        "expire": {"cancelled", "failed"},
        "update": {"blocked"},
    },
    "scheduled": {
        "promote": {"pending"},
        "cancel": {"cancelled"},
        "expire": {"cancelled", "failed"},
        "update": {"scheduled"},
    },
    "pending": {
        "claim": {"running"},
        "cancel": {"cancelled"},
        "expire": {"cancelled", "failed"},
        "update": {"pending", "scheduled"},
    },
    "running": {
        "finish": {"succeeded", "failed", "cancelled", "retrying", "scheduled"},
        "release": {"pending", "cancelled"},
        "recover": {"pending", "failed", "cancelled"},
        "cancel": {"running"},
    },
    "retrying": {
        "promote": {"pending"},
        "cancel": {"cancelled"},
        "expire": {"cancelled", "failed"},
        "update": {"retrying"},
    },
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
        "task t is running: it cannot be retried; it can be cancelled, finished, recovered, released"
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


def lease(
    *,
    attempt: int = 1,
    max_attempts: int = 3,
    retry: RetryPolicy = DEFAULT_RETRY,
    deadline_at: int | None = None,
    expires_at: int | None = None,
) -> Lease:
    return Lease(
        task_id=T,
        generation=7,
        type="email",
        queue="default",
        payload=Json("1"),
        attempt=attempt,
        max_attempts=max_attempts,
        timeout_ms=5_000,
        retry=retry,
        result_ttl_ms=None,
        created_at=NOW,
        run_at=NOW,
        claimed_at=NOW,
        options=Options(deadline_at=deadline_at, expires_at=expires_at),
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
def test_outcome_leads_where_it_should(outcome: Judged, attempt: int, expected: Verdict) -> None:
    assert verdict(outcome, lease(attempt=attempt), now=NOW, chance=0.5) == expected


def test_single_attempt_is_never_tried_again() -> None:
    assert verdict(error(), lease(max_attempts=1), now=NOW, chance=0.5).state is State.FAILED


@pytest.mark.parametrize(
    ("outcome", "deadline", "expected"),
    [
        # The next attempt would begin 1,000 ms from now, a snoozed one 50 ms from now.
        (error(), 1_001, Verdict(State.RETRYING, Reason.TIMEOUT, NOW + 1_000)),
        (error(), 1_000, Verdict(State.FAILED, Reason.DEADLINE)),
        (error(), 999, Verdict(State.FAILED, Reason.DEADLINE)),
        (error(), -1, Verdict(State.FAILED, Reason.DEADLINE)),
        (error(retry_after_ms=0), 1, Verdict(State.RETRYING, Reason.TIMEOUT, NOW)),
        (error(retry_after_ms=0), 0, Verdict(State.FAILED, Reason.DEADLINE)),
        (error(retryable=False), -1, Verdict(State.FAILED, Reason.TIMEOUT)),
        (Snooze(50), 51, Verdict(State.SCHEDULED, None, NOW + 50)),
        (Snooze(50), 50, Verdict(State.FAILED, Reason.DEADLINE)),
        # What is done is done, late or not.
        (Success(Json("1")), -1, Verdict(State.SUCCEEDED, Reason.OK)),
        (Cancel(), -1, Verdict(State.CANCELLED, Reason.USER)),
    ],
)
def test_no_wait_is_begun_that_would_end_after_the_deadline(
    outcome: Judged, deadline: int, expected: Verdict
) -> None:
    assert verdict(outcome, lease(deadline_at=NOW + deadline), now=NOW, chance=0.5) == expected


def test_only_the_deadline_makes_a_wait_too_long() -> None:
    late = lease(expires_at=NOW - 1)

    assert verdict(error(), late, now=NOW, chance=0.5).state is State.RETRYING
    assert verdict(Snooze(50), late, now=NOW, chance=0.5).state is State.SCHEDULED


def test_attempt_that_came_too_late_ends_as_one_that_waited_too_long() -> None:
    assert verdict(Expired(), lease(expires_at=NOW), now=NOW, chance=0.5) == Verdict(
        State.CANCELLED, Reason.EXPIRED
    )
    assert verdict(Expired(), lease(deadline_at=NOW, expires_at=NOW), now=NOW, chance=0.5) == Verdict(
        State.FAILED, Reason.DEADLINE
    )


@given(
    outcome=st.sampled_from(
        [Success(Json("1")), error(), error(retryable=False), Snooze(5), Cancel(), Expired()]
    ),
    attempt=st.integers(1, 30),
    chance=st.floats(0, 1, exclude_max=True),
    deadline=st.none() | st.integers(-10, 10_000_000),
)
def test_every_verdict_is_a_legal_finish(
    outcome: Judged, attempt: int, chance: float, deadline: int | None
) -> None:
    deadline_at = None if deadline is None else NOW + deadline
    late = lease(attempt=attempt, max_attempts=20, deadline_at=deadline_at)
    found = verdict(outcome, late, now=NOW, chance=chance)

    check_move(T, State.RUNNING, Move.FINISH, found.state)
    assert (found.run_at is None) == (found.state in FINAL)
    assert found.run_at is None or found.run_at >= NOW
    assert found.run_at is None or deadline_at is None or found.run_at < deadline_at


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


def test_passed_deadline_is_told_of_in_the_history() -> None:
    assert deadline_passed(4, NOW) == AttemptError(
        attempt=4,
        at=NOW,
        reason=Reason.DEADLINE,
        type="DeadlinePassed",
        message="the deadline passed while the task waited",
    )


@pytest.mark.parametrize(
    ("deadline", "expires", "stop", "fate"),
    [
        (None, None, None, (State.CANCELLED, Reason.EXPIRED)),
        (None, 5, 5, (State.CANCELLED, Reason.EXPIRED)),
        (5, None, 5, (State.FAILED, Reason.DEADLINE)),
        (10, None, 10, (State.FAILED, Reason.DEADLINE)),
        (11, 5, 5, (State.CANCELLED, Reason.EXPIRED)),
        (5, 7, 5, (State.FAILED, Reason.DEADLINE)),
        (7, 5, 5, (State.FAILED, Reason.DEADLINE)),
    ],
)
def test_task_that_waited_too_long_has_failed_if_its_deadline_has_passed(
    deadline: int | None, expires: int | None, stop: int | None, fate: tuple[State, Reason]
) -> None:
    options = Options(deadline_at=deadline, expires_at=expires)

    assert options.stop_at == stop
    assert expiry(options, 10) == Verdict(*fate)


# A fingerprint is kept with the task: it may not change from one version of tq to the next.
@pytest.mark.parametrize(
    ("type", "kind", "frame", "expected"),
    [
        ("email", "ValueError", "app.py:send", "de7707041c48"),
        ("email", "ValueError", None, "f0fa29823f69"),
        ("sms", "ValueError", "app.py:send", "eda3c77bc946"),
        ("correo ñ", "日本", "x", "4783236c3b12"),
    ],
)
def test_fingerprint_is_the_same_for_ever(type: str, kind: str, frame: str | None, expected: str) -> None:
    error = AttemptError(3, NOW, Reason.ERROR, kind, "message", "trace", 7, frame)

    assert fingerprint(type, error) == expected


def test_fingerprint_does_not_depend_on_message_attempt_or_time() -> None:
    one = AttemptError(1, NOW, Reason.ERROR, "E", "user 1", "trace 1", 7, "f")
    other = AttemptError(2, NOW + 9, Reason.TIMEOUT, "E", "user 2", None, None, "f")

    assert fingerprint("email", one) == fingerprint("email", other)
    assert fingerprint("email", None) is None


@pytest.mark.parametrize(
    ("during", "states"),
    [
        (During.QUEUED, {"blocked", "scheduled", "pending", "retrying"}),
        (During.ACTIVE, {"blocked", "scheduled", "pending", "retrying", "running"}),
    ],
)
def test_unique_key_is_held_in_these_states(during: During, states: set[str]) -> None:
    assert {state.value for state in State if holds_unique(state, Unique("k", during))} == states


def test_unique_name_tells_type_and_key_apart() -> None:
    assert unique_name("email", Unique("a/b")) == "email/a/b"
    assert Unique("k") == Unique("k", During.ACTIVE, OnConflict.EXISTING)
