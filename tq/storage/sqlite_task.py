"""Rows of SELECT_TASKS as Tasks."""

from __future__ import annotations

from typing import Any

from tq.core.task import Task
from tq.storage import sqlite_sql as sql


def task_of(row: tuple[Any, ...]) -> Task:
    """The task in a row of SELECT_TASKS."""
    id, type, queue, key, state, reason, payload, priority, attempt, max_attempts, crashes = row[:11]
    generation, timeout_ms, retry, ttl, created_at, run_at, started_at, finished_at = row[11:19]
    worker, server, cancel_reason, result, errors, blockers, fingerprint, progress, logs, options = row[19:]
    return Task(
        id=id,
        type=type,
        queue=queue,
        key=key,
        state=sql.STATE_OF[state],
        reason=None if reason is None else sql.REASON_OF[reason],
        payload=payload,
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
        crashes=crashes,
        generation=generation,
        timeout_ms=timeout_ms,
        retry=sql.policy_of(retry),
        result_ttl_ms=ttl,
        created_at=created_at,
        run_at=run_at,
        started_at=started_at,
        finished_at=finished_at,
        worker=worker,
        server=server,
        cancel_reason=None if cancel_reason is None else sql.REASON_OF[cancel_reason],
        result=result,
        errors=() if errors is None else sql.history_decoder.decode(errors),
        blockers=blockers,
        fingerprint=fingerprint,
        progress=None if progress is None else sql.progress_decoder.decode(progress),
        logs=() if logs is None else sql.logs_decoder.decode(logs),
        options=sql.options_of(options),
    )
