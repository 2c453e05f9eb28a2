"""A lease for tests that have no store, and what a child is sent for it."""

from __future__ import annotations

import msgspec

from tq.clock import SystemClock
from tq.core.retry import DEFAULT_RETRY
from tq.core.task import Json, Lease, TaskId
from tq.engine.frames import Run


def run_of(type: str, payload: object = None) -> Run:
    now = SystemClock().now_ms()
    lease = Lease(
        task_id=TaskId("task-1"),
        generation=1,
        type=type,
        queue="default",
        payload=Json(msgspec.json.encode(payload).decode()),
        attempt=1,
        max_attempts=1,
        timeout_ms=5_000,
        retry=DEFAULT_RETRY,
        result_ttl_ms=None,
        created_at=now,
        run_at=now,
        claimed_at=now,
    )
    return Run(lease, 1, deadline_at=now + 5_000)
