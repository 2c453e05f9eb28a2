"""What is counted, in plain numbers, and how far the labels go."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tq.api.endpoints.metrics import wants_openmetrics
from tq.core import events
from tq.core.task import Reason, State, TaskId
from tq.metrics.tallies import LANES_MAX, NAMES_MAX, Spread, Tallies

T = TaskId("t")


def submitted(queue: str = "default", type: str = "email") -> events.TaskSubmitted:
    return events.TaskSubmitted(at=0, task_id=T, type=type, queue=queue, state=State.PENDING)


def finished(
    state: State, reason: Reason | None, *, wait_ms: int = 0, run_ms: int = 0
) -> events.AttemptFinished:
    return events.AttemptFinished(
        at=0,
        task_id=T,
        type="email",
        queue="default",
        state=state,
        reason=reason,
        attempt=1,
        worker=1,
        duration_ms=run_ms,
        wait_ms=wait_ms,
    )


@dataclass(frozen=True)
class Asked:
    method: str = "GET"
    route: str = "/stats"
    status: int | None = 200
    duration_ms: float = 1.0


def test_a_value_is_counted_below_the_first_bound_that_it_does_not_exceed() -> None:
    spread = Spread((1, 5))
    for each in (0, 1, 1.5, 5, 5.1, 100):
        spread.add(each)
    assert spread.counts == [2, 2, 2]
    assert spread.total == 112.6


def test_waiting_and_running_are_counted_in_seconds() -> None:
    tallies = Tallies([("default", "email")])
    tallies.event(finished(State.SUCCEEDED, Reason.OK, wait_ms=90_000, run_ms=250))
    assert (tallies.wait["default"].total, tallies.run["email"].total) == (90.0, 0.25)
    wait = tallies.wait["default"]
    assert [bound for bound, count in zip(wait.bounds, wait.counts, strict=False) if count] == [300]
    assert (wait.bounds[0], wait.bounds[-1]) == (0.005, 1800)


def test_attempts_are_counted_by_where_they_left_their_task_and_why() -> None:
    tallies = Tallies([])
    for _ in range(2):
        tallies.event(finished(State.RETRYING, Reason.TIMEOUT))
    tallies.event(finished(State.FAILED, Reason.ERROR))
    assert tallies.lanes["default", "email"].ended == {
        (State.RETRYING, Reason.TIMEOUT): 2,
        (State.FAILED, Reason.ERROR): 1,
    }


def test_queues_that_clients_name_get_no_more_than_so_many_labels() -> None:
    tallies = Tallies([("mail", "email")])
    for number in range(1_000):
        tallies.event(submitted(f"queue-{number:04}"))
    assert len(tallies.wait) == 202, "mail, 200 others, and other"
    assert tallies.lanes["queue-0199", "email"].submitted == 1
    assert ("queue-0200", "email") not in tallies.lanes
    assert tallies.lanes["other", "email"].submitted == 800
    tallies.event(submitted("mail"))
    assert tallies.lanes["mail", "email"].submitted == 1
    assert NAMES_MAX == 200


def test_types_and_pairs_that_clients_name_get_no_more_than_so_many_labels() -> None:
    tallies = Tallies([])
    for number in range(10_000):
        tallies.event(submitted(f"queue-{number % 100}", f"type-{number % 70}"))
    assert len(tallies.lanes) == 401
    assert tallies.lanes["other", "other"].submitted > 0
    assert sum(lane.submitted for lane in tallies.lanes.values()) == 10_000
    for number in range(1_000):
        tallies.event(submitted("queue-1", f"new-{number}"))
    assert len(tallies.lanes) <= LANES_MAX + 2
    assert len(tallies.run) <= NAMES_MAX + 1


def test_a_queue_with_rules_has_a_label_however_many_others_there_are() -> None:
    tallies = Tallies([])
    for number in range(300):
        tallies.event(submitted(f"queue-{number}"))
    tallies.event(events.QueueChanged(at=0, queue="late", paused=False))
    tallies.event(submitted("late"))
    assert tallies.lanes["late", "email"].submitted == 1


def test_a_method_that_a_client_made_up_has_no_label() -> None:
    tallies = Tallies([])
    for each in (Asked(), Asked("BREW"), Asked("SPAM"), Asked(status=None, duration_ms=2500)):
        tallies.answered(each)
    assert tallies.requests == {
        ("GET", "/stats", "200"): 1,
        ("other", "/stats", "200"): 2,
        ("GET", "/stats", "none"): 1,
    }
    assert tallies.request_s["/stats"].total == pytest.approx(2.503)


def test_a_running_task_that_is_asked_to_stop_has_not_ended() -> None:
    tallies = Tallies([])
    tallies.event(events.TaskCancelled(at=0, task_id=T, state=State.RUNNING))
    tallies.event(events.TaskCancelled(at=0, task_id=T, state=State.CANCELLED))
    tallies.event(events.TaskExpired(at=0, task_id=T, state=State.FAILED))
    assert tallies.ended_waiting == {"cancelled": 1, "failed": 1}


def test_ticks_are_counted_by_what_came_of_them_and_their_lag_if_they_made_a_task() -> None:
    tallies = Tallies([])
    for event in (
        events.ScheduleFired(at=1_500, name="s", tick_at=1_000, task_id=T),
        events.ScheduleFired(at=9_000, name="s", tick_at=1_000, overlapped=True),
        events.ScheduleFired(at=9_000, name="s", tick_at=1_000, skipped=3),
    ):
        tallies.event(event)
    assert tallies.ticks == {"fired": 1, "overlapped": 1, "late": 4}
    assert tallies.schedule_lag.total == 0.5
    assert sum(tallies.schedule_lag.counts) == 1


def test_what_is_rare_is_counted() -> None:
    tallies = Tallies([])
    for event in (
        events.TaskRetried(at=0, task_id=T),
        events.TaskReleased(at=0, task_id=T, state=State.PENDING),
        events.TasksPruned(at=0, count=70),
        events.LeaseExpired(at=0, pending=3, failed=2, cancelled=1),
        events.LeaseExpired(at=0, pending=3, failed=0, cancelled=0),
        events.LeaseRefused(at=0, task_id=T, generation=1),
        events.AttemptOverran(at=0, task_id=T, type="email", queue="default", worker=1),
        events.StorageLost(at=0, code="storage_unavailable", message="away"),
    ):
        tallies.event(event)
    assert (tallies.rerun, tallies.released, tallies.pruned) == (1, 1, 70)
    assert tallies.leases_expired == {"pending": 6, "failed": 2, "cancelled": 1}
    assert (tallies.leases_refused, tallies.outages) == (1, 1)
    assert tallies.lanes["default", "email"].overran == 1


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0; q=0.5, text/plain;q=0.1", True),
        ("text/plain;q=0.1 , application/openmetrics-text;version=1.0.0;charset=utf-8", True),
        ("application/openmetrics-text;q=0, text/plain", False),
        ("text/plain, application/openmetrics-text; q=0.000", False),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0.5, text/plain", False),
        ("application/openmetrics-text, text/plain", True),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.3,"
            "text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
            True,
        ),
    ],
)
def test_openmetrics_is_for_who_names_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
