"""When a client asks again, and what it makes of answers."""

from __future__ import annotations

import pytest
from talks import LOST, PROBLEM, REFUSED, Stage, ok, problem, short

from tq.client.errors import NotTq, Unreachable
from tq.client.records import TaskRecord
from tq.client.retrying import Answer, Call, RetryRules, accepted, exchange, pause_after, refusal
from tq.core import errors

RULES = RetryRules(attempts=5, total=60, base=0.2, cap=1.0)
ASK = Call(method="GET", path="/x")
ONCE = Call(method="POST", path="/x", repeatable=False)


def pauses(rules: RetryRules, chance: float) -> list[float | None]:
    return [
        pause_after(rules, attempt=attempt, elapsed=0, retry_after=None, chance=chance)
        for attempt in range(1, rules.attempts + 1)
    ]


def test_pauses_double_up_to_the_cap_and_then_one_gives_up() -> None:
    assert pauses(RULES, 0.5) == [0.2, 0.4, 0.8, 1.0, None]


def test_jitter_takes_or_adds_half() -> None:
    assert pauses(RULES, 0.0) == [0.1, 0.2, 0.4, 0.5, None]
    assert pauses(RULES, 1.0) == pytest.approx([0.3, 0.6, 1.2, 1.5, None])


def test_by_default_a_server_that_is_away_for_half_a_minute_is_waited_for() -> None:
    told = [pause for pause in pauses(RetryRules(), 0.5) if pause is not None]
    assert sum(told) == pytest.approx(42.6)
    assert len(told) == 9


def test_what_the_server_asks_to_wait_comes_before_the_jitter() -> None:
    assert pause_after(RULES, attempt=1, elapsed=0, retry_after=7, chance=0.5) == 7.2


def test_a_pause_that_ends_after_the_total_is_not_made() -> None:
    assert pause_after(RULES, attempt=1, elapsed=53.5, retry_after=7, chance=0.5) is None
    assert pause_after(RULES, attempt=1, elapsed=52.5, retry_after=7, chance=0.5) == 7.2


def test_a_huge_attempt_does_not_overflow() -> None:
    rules = RetryRules(attempts=10_000)
    assert pause_after(rules, attempt=5_000, elapsed=0, retry_after=None, chance=0.5) == 10.0


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_statuses_are_asked_again(status: int) -> None:
    stage = Stage(problem(status, "overloaded", retry_after="3"), ok({}))
    assert stage.run(exchange(ASK, RULES, stage.seams)).status == 200
    assert stage.pauses == [3.2]


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422, 500, 507])
def test_other_statuses_are_final(status: int) -> None:
    stage = Stage(problem(status, "invalid_input", retry_after="1"))
    assert stage.run(exchange(ASK, RULES, stage.seams)).status == status
    assert stage.pauses == []


@pytest.mark.parametrize("text", ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "1e3", "9999999"])
def test_a_retry_after_that_is_no_number_of_seconds_is_ignored(text: str) -> None:
    stage = Stage(problem(503, "overloaded", retry_after=text), ok({}))
    stage.run(exchange(ASK, RULES, stage.seams))
    assert stage.pauses == [0.2]


def test_silence_to_the_end_is_unreachable_and_says_why() -> None:
    stage = Stage(*[REFUSED] * 5)
    with pytest.raises(Unreachable, match="ConnectError") as caught:
        stage.run(exchange(ASK, RULES, stage.seams))
    assert not caught.value.may_be_done
    assert len(stage.calls) == 5


def test_one_lost_answer_among_refused_connections_may_be_done() -> None:
    stage = Stage(REFUSED, LOST, REFUSED, REFUSED, REFUSED)
    with pytest.raises(Unreachable, match="may be done") as caught:
        stage.run(exchange(ASK, RULES, stage.seams))
    assert caught.value.may_be_done


def test_refusals_to_the_end_come_as_the_refusal() -> None:
    stage = Stage(*[problem(503, "shutting_down", retry_after="1")] * 5)
    answer = stage.run(exchange(ASK, RULES, stage.seams))
    assert isinstance(refusal(answer), errors.ShuttingDown)


def test_a_gateway_without_its_server_is_unreachable() -> None:
    stage = Stage(*[Answer(502, {"content-type": "text/html"}, b"<h1>")] * 5)
    with pytest.raises(Unreachable, match="answered 502") as caught:
        stage.run(exchange(ASK, RULES, stage.seams))
    assert caught.value.may_be_done


def test_what_is_not_repeatable_is_sent_again_only_if_it_was_not_done() -> None:
    stage = Stage(REFUSED, problem(503, "overloaded"), ok({}))
    assert stage.run(exchange(ONCE, RULES, stage.seams)).status == 200
    for lost in (LOST, Answer(504, {}, b"")):
        stage = Stage(REFUSED, lost)
        with pytest.raises(Unreachable) as caught:
            stage.run(exchange(ONCE, RULES, stage.seams))
        assert caught.value.may_be_done


def test_a_repetition_is_marked_only_if_the_first_may_be_done() -> None:
    stage = Stage(REFUSED, ok({}))
    assert not stage.run(exchange(ASK, RULES, stage.seams)).is_repeat
    stage = Stage(LOST, REFUSED, ok({}))
    assert stage.run(exchange(ASK, RULES, stage.seams)).is_repeat


# Answers


def test_every_code_of_the_core_comes_back_as_its_class_with_its_fields() -> None:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.TqError)
    ]
    assert len(kinds) > 15
    for kind in kinds:
        error = refusal(problem(409, kind.code, task_id="a", known=["b"]))
        assert error is not None
        assert type(error) is kind
        assert error.message == "why"
        assert error.fields == {"task_id": "a", "known": ["b"]}


def test_a_code_that_is_not_known_here_is_kept() -> None:
    error = refusal(problem(418, "teapot", field="x"))
    assert type(error) is errors.TqError
    assert error.fields == {"field": "x", "code": "teapot"}


def test_fields_with_the_names_of_parameters_do_no_harm() -> None:
    error = refusal(problem(400, "invalid_input", message="m", self="s"))
    assert error is not None
    assert error.fields == {}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"content-type": "text/html"}, b"<h1>Hello</h1>"),
        Answer(200, {}, b'{"id": 7}'),
        Answer(200, {}, b'{"id": "a", "state": "unheard of"}'),
        Answer(302, {"location": "/login"}, b""),
        Answer(404, {"content-type": "text/html"}, b"nothing"),
        Answer(404, {"content-type": PROBLEM}, b"[]"),
    ],
)
def test_the_answer_of_something_else_is_not_taken_for_a_tq_server(answer: Answer) -> None:
    with pytest.raises(NotTq, match="check the URL"):
        accepted(answer, TaskRecord)


def test_a_field_of_a_newer_server_is_ignored() -> None:
    assert accepted(ok(short(colour="red")), TaskRecord).id == "a"
