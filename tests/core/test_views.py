"""What the API shows of tasks and counters."""

from __future__ import annotations

import msgspec

from tq.core.queries import LaneCount, Stats
from tq.core.retry import DEFAULT_RETRY
from tq.core.task import (
    NO_OPTIONS,
    AttemptError,
    Json,
    LogLine,
    OnFailure,
    Options,
    Progress,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
    Unique,
)
from tq.core.views import stats_view, task_json


def shown(**changes: object) -> dict[str, object]:
    task = Task(
        id=TaskId("a"),
        type="email",
        queue="default",
        key=None,
        state=State.PENDING,
        reason=None,
        payload=Json('{"n": 1}'),
        priority=0,
        attempt=0,
        max_attempts=20,
        crashes=0,
        generation=0,
        timeout_ms=5_000,
        retry=DEFAULT_RETRY,
        result_ttl_ms=None,
        created_at=1_769_860_800_000,
        run_at=1_769_860_800_000,
        started_at=None,
        finished_at=None,
        worker=None,
        server=None,
        cancel_reason=None,
        result=None,
        errors=(),
        blockers=0,
        fingerprint=None,
        progress=None,
        logs=(),
        options=NO_OPTIONS,
    )
    view: dict[str, object] = msgspec.json.decode(task_json(msgspec.structs.replace(task, **changes)))
    return view


WAITING: dict[str, object] = {
    "id": "a",
    "type": "email",
    "queue": "default",
    "state": "pending",
    "reason": None,
    "payload": {"n": 1},
    "priority": 0,
    "attempt": 0,
    "max_attempts": 20,
    "crashes": 0,
    "timeout": 5.0,
    "created_at": "2026-01-31T12:00:00.000Z",
    "run_at": "2026-01-31T12:00:00.000Z",
    "started_at": None,
    "finished_at": None,
    "result": None,
    "errors": [],
}


def test_waiting_task_is_shown() -> None:
    assert shown() == WAITING


def test_running_task_shows_where_and_if_it_was_asked_to_stop() -> None:
    running = shown(
        state=State.RUNNING,
        attempt=1,
        started_at=1_769_860_800_250,
        server=ServerId("s"),
        worker=0,
        cancel_reason=Reason.USER,
    )

    assert running == WAITING | {
        "state": "running",
        "attempt": 1,
        "started_at": "2026-01-31T12:00:00.250Z",
        "server": "s",
        "worker": 0,
        "cancel_requested": True,
    }


def test_ended_task_shows_its_result_and_history() -> None:
    error = AttemptError(1, 1_769_860_800_000, Reason.ERROR, "ValueError", "no", duration_ms=1_500)

    ended = shown(
        state=State.SUCCEEDED,
        reason=Reason.OK,
        result=Json('{"ok": true}'),
        finished_at=1_769_860_801_000,
        errors=(error,),
    )

    assert ended == WAITING | {
        "state": "succeeded",
        "reason": "ok",
        "result": {"ok": True},
        "finished_at": "2026-01-31T12:00:01.000Z",
        "errors": [
            {
                "attempt": 1,
                "at": "2026-01-31T12:00:00.000Z",
                "reason": "error",
                "type": "ValueError",
                "message": "no",
                "duration": 1.5,
            }
        ],
    }


def test_what_a_task_may_have_is_shown_where_it_has_it() -> None:
    full = shown(
        key="acme",
        state=State.BLOCKED,
        blockers=2,
        fingerprint="0123456789ab",
        progress=Progress(0.5, "half"),
        logs=(LogLine(1_769_860_800_000, 1, "begun"),),
        options=Options(
            tags=("a", "b"),
            parent_id=TaskId("p"),
            depends_on=(TaskId("d"), TaskId("e")),
            on_dependency_failure=OnFailure.RUN,
            unique=Unique("k"),
            deadline_at=1_769_860_801_000,
            expires_at=1_769_860_802_000,
            schedule="nightly",
        ),
    )

    assert full == WAITING | {
        "state": "blocked",
        "key": "acme",
        "fingerprint": "0123456789ab",
        "progress": {"fraction": 0.5, "message": "half"},
        "logs": [{"at": "2026-01-31T12:00:00.000Z", "attempt": 1, "text": "begun"}],
        "waiting_for": 2,
        "tags": ["a", "b"],
        "parent_id": "p",
        "depends_on": ["d", "e"],
        "on_dependency_failure": "run",
        "unique": {"key": "k", "while": "active", "on_conflict": "existing"},
        "deadline": "2026-01-31T12:00:01.000Z",
        "expires_at": "2026-01-31T12:00:02.000Z",
        "schedule": "nightly",
    }


def test_counters_are_shown_by_state_by_queue_and_in_total() -> None:
    stats = Stats(
        lanes=(
            LaneCount("mail", "a", State.PENDING, 2),
            LaneCount("mail", "b", State.PENDING, 3),
            LaneCount("other", "a", State.FAILED, 1),
        ),
        submitted=9,
        succeeded=4,
        failed=1,
        cancelled=0,
    )

    assert stats_view(stats) == {
        "states": {
            "blocked": 0,
            "scheduled": 0,
            "pending": 5,
            "running": 0,
            "retrying": 0,
            "succeeded": 0,
            "failed": 1,
            "cancelled": 0,
        },
        "queues": {"mail": {"pending": 5}, "other": {"failed": 1}},
        "totals": {"submitted": 9, "succeeded": 4, "failed": 1, "cancelled": 0},
    }
