"""Every event has one name, noun.past, and goes to JSON and back."""

from __future__ import annotations

import re

import msgspec
import pytest

from tq.core import events
from tq.core.events import AttemptFinished, Event
from tq.core.task import Reason, State, TaskId

EVENTS = [kind for kind in Event.__subclasses__() if kind.__module__ == events.__name__]

NAMES = {
    "TaskSubmitted": "task.submitted",
    "TaskStarted": "task.started",
    "AttemptFinished": "attempt.finished",
    "TaskCancelled": "task.cancelled",
    "TaskRetried": "task.retried",
    "TaskUnblocked": "task.unblocked",
    "TaskExpired": "task.expired",
    "TaskUpdated": "task.updated",
    "TaskDeleted": "task.deleted",
    "TaskReleased": "task.released",
    "LeaseExpired": "lease.expired",
    "LeaseRefused": "lease.refused",
    "AttemptOverran": "attempt.overran",
    "TasksPruned": "tasks.pruned",
    "WorkersResized": "workers.resized",
    "QueueChanged": "queue.changed",
    "ScheduleChanged": "schedule.changed",
    "ScheduleFired": "schedule.fired",
    "KeyCreated": "key.created",
    "KeyRevoked": "key.revoked",
    "ServerStarted": "server.started",
    "ServerDraining": "server.draining",
    "ServerStopped": "server.stopped",
    "ServerRejoined": "server.rejoined",
    "LeaderElected": "leader.elected",
    "StorageLost": "storage.unavailable",
    "StorageRestored": "storage.restored",
    "HttpAnswered": "http.answered",
}
"""Metrics, logs and clients depend on these: a name is never changed, only added."""


def tag(kind: type[Event]) -> str:
    return str(kind.__struct_config__.tag)


def test_names_are_these() -> None:
    assert {kind.__name__: tag(kind) for kind in EVENTS} == NAMES


@pytest.mark.parametrize("kind", EVENTS)
def test_name_is_noun_dot_past(kind: type[Event]) -> None:
    # Two say how the world is now: "unavailable" has no past, and draining goes on.
    assert re.fullmatch(r"[a-z]+\.([a-z_]+(ed|ran)|unavailable|draining)", tag(kind))
    assert kind.__struct_config__.tag_field == "event"


def test_names_are_distinct() -> None:
    assert len({tag(kind) for kind in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
def test_no_event_carries_payloads_or_results(kind: type[Event]) -> None:
    assert not {"payload", "result", "errors", "key"} & set(kind.__struct_fields__)


def test_event_in_json_leaves_out_what_does_not_apply() -> None:
    event = AttemptFinished(
        at=5,
        task_id=TaskId("t"),
        type="email",
        queue="default",
        state=State.SUCCEEDED,
        reason=Reason.OK,
        attempt=1,
        worker=2,
        duration_ms=30,
        wait_ms=4,
    )

    text = msgspec.json.encode(event)

    assert msgspec.json.decode(text) == {
        "event": "attempt.finished",
        "at": 5,
        "task_id": "t",
        "type": "email",
        "queue": "default",
        "state": "succeeded",
        "reason": "ok",
        "attempt": 1,
        "worker": 2,
        "duration_ms": 30,
        "wait_ms": 4,
    }
    assert msgspec.json.decode(text, type=AttemptFinished) == event
