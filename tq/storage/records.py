"""How the SQL stores keep records: the numbers of states and reasons, what is JSON text, what a row has.

Knows values and texts; knows no statement and no database.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from tq.core.keys import Key, Scope
from tq.core.limits import Rate
from tq.core.ops import Schedule, Tick
from tq.core.retry import RetryPolicy
from tq.core.task import (
    NO_OPTIONS,
    AttemptError,
    LogLine,
    Options,
    Progress,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
)

STATE_CODE: Final = {
    State.BLOCKED: 0,
    State.SCHEDULED: 1,
    State.PENDING: 2,
    State.RUNNING: 3,
    State.RETRYING: 4,
    State.SUCCEEDED: 5,
    State.FAILED: 6,
    State.CANCELLED: 7,
}
STATE_OF: Final = {code: state for state, code in STATE_CODE.items()}
REASON_CODE: Final = {
    Reason.OK: 0,
    Reason.ERROR: 1,
    Reason.TIMEOUT: 2,
    Reason.DEADLINE: 3,
    Reason.EXPIRED: 4,
    Reason.USER: 5,
    Reason.PARENT: 6,
    Reason.POISON: 7,
    Reason.INTERRUPTED: 8,
    Reason.DEPENDENCY: 9,
    Reason.REPLACED: 10,
}
REASON_OF: Final = {code: reason for reason, code in REASON_CODE.items()}
BLOCKED: Final = 0
PENDING: Final = 2
RUNNING: Final = 3

STORE_LANE: Final = 0
"""The counters of this lane are the totals of the whole store."""
SUBMITTED: Final = 100
"""The total of tasks ever submitted, among the counters of STORE_LANE."""


class Row(msgspec.Struct, array_like=True):
    """What of a task its moves read and write.

    ``keep_until`` and ``result`` are not read: a move sets them or clears them.
    """

    id: TaskId
    seq: int
    lane: int
    state: int
    generation: int
    attempt: int
    crashes: int
    failures: int
    result_ttl_ms: int | None
    run_at: int
    reason: int | None
    started_at: int | None
    finished_at: int | None
    worker: int | None
    server: ServerId | None
    cancel_reason: int | None
    options: str | None
    watched: int
    blockers: int
    logged: int
    keep_until: int | None = None
    result: str | None = None


rows_decoder: Final = msgspec.json.Decoder(list[Row])
history_decoder: Final = msgspec.json.Decoder(tuple[AttemptError, ...])
logs_decoder: Final = msgspec.json.Decoder(tuple[LogLine, ...])
progress_decoder: Final = msgspec.json.Decoder(Progress)
counts_decoder: Final = msgspec.json.Decoder(list[tuple[str | None, str | None, int, int]])
_policy_decoder: Final = msgspec.json.Decoder(RetryPolicy)
_options_decoder: Final = msgspec.json.Decoder(Options)
_encoder: Final = msgspec.json.Encoder()


def to_json(value: object) -> str:
    """*value* as JSON text, the form in which statements take many rows."""
    return _encoder.encode(value).decode()


# Tasks submitted together mostly share one policy; the bound is there for those that do not.
@lru_cache(maxsize=256)
def policy_text(policy: RetryPolicy) -> str:
    """*policy* as a row keeps it."""
    return to_json(policy)


@lru_cache(maxsize=256)
def policy_of(text: str) -> RetryPolicy:
    """The policy that a row keeps as *text*."""
    return _policy_decoder.decode(text)


def options_text(options: Options) -> str | None:
    """*options* as a row keeps them."""
    return None if options == NO_OPTIONS else to_json(options)


# Tasks submitted or fired together mostly share their options.
@lru_cache(maxsize=256)
def _options_of(text: str) -> Options:
    return _options_decoder.decode(text)


def options_of(text: str | None) -> Options:
    """The options that a row keeps as *text*."""
    return NO_OPTIONS if text is None else _options_of(text)


def task_of(row: tuple[Any, ...]) -> Task:
    """The task in a row of a store's SELECT_TASKS."""
    id, type, queue, key, state, reason, payload, priority, attempt, max_attempts, crashes = row[:11]
    generation, timeout_ms, retry, ttl, created_at, run_at, started_at, finished_at = row[11:19]
    worker, server, cancel_reason, result, errors, blockers, fingerprint, progress, logs, options = row[19:]
    return Task(
        id=id,
        type=type,
        queue=queue,
        key=key,
        state=STATE_OF[state],
        reason=None if reason is None else REASON_OF[reason],
        payload=payload,
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
        crashes=crashes,
        generation=generation,
        timeout_ms=timeout_ms,
        retry=policy_of(retry),
        result_ttl_ms=ttl,
        created_at=created_at,
        run_at=run_at,
        started_at=started_at,
        finished_at=finished_at,
        worker=worker,
        server=server,
        cancel_reason=None if cancel_reason is None else REASON_OF[cancel_reason],
        result=result,
        errors=() if errors is None else history_decoder.decode(errors),
        blockers=blockers,
        fingerprint=fingerprint,
        progress=None if progress is None else progress_decoder.decode(progress),
        logs=() if logs is None else logs_decoder.decode(logs),
        options=options_of(options),
    )


# Keys

KEY_COLUMNS: Final = "id, name, digest, scopes, queues, rate, created_at, expires_at, revoked_at"
_scopes_decoder: Final = msgspec.json.Decoder(tuple[Scope, ...])
_key_queues_decoder: Final = msgspec.json.Decoder(tuple[str, ...])
_key_rate_decoder: Final = msgspec.json.Decoder(Rate | None)


def key_row(key: Key) -> tuple[str | int | None, ...]:
    """*key* as KEY_COLUMNS."""
    return (
        *(key.id, key.name, key.digest),
        *(to_json(key.scopes), to_json(key.queues), to_json(key.rate)),
        *(key.created_at, key.expires_at, key.revoked_at),
    )


def key_of_row(row: tuple[Any, ...]) -> Key:
    """The key in a row of KEY_COLUMNS."""
    id, name, digest, scopes, queues, rate, created_at, expires_at, revoked_at = row
    return Key(
        id=id,
        name=name,
        digest=digest,
        scopes=_scopes_decoder.decode(scopes),
        queues=_key_queues_decoder.decode(queues),
        rate=_key_rate_decoder.decode(rate),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


# Schedules

SCHEDULE_COLUMNS: Final = "name, spec, version, paused, created_at, seen_until, next_at, last_task_id, ticks"
_ticks_decoder: Final = msgspec.json.Decoder(tuple[Tick, ...])


def schedule_of_row(row: tuple[Any, ...]) -> Schedule:
    """The schedule in a row of SCHEDULE_COLUMNS."""
    name, spec, version, paused, created_at, seen_until, next_at, last_task_id, ticks = row
    return Schedule(
        name=name,
        spec=spec,
        version=version,
        paused=bool(paused),
        created_at=created_at,
        seen_until=seen_until,
        next_at=next_at,
        last_task_id=last_task_id,
        ticks=_ticks_decoder.decode(ticks),
    )


def schedule_row(schedule: Schedule) -> tuple[Any, ...]:
    """*schedule* as SCHEDULE_COLUMNS."""
    *plain, ticks = msgspec.structs.astuple(schedule)
    return (*plain, to_json(ticks))
