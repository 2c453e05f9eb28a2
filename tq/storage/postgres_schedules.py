"""The schedules of the PostgreSQL store, and the rules by which the fleet deals with each tick once.

The twin of `tq.storage.memory_schedules`. Whoever changes a schedule has its row to itself until the commit.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.errors import DuplicateTask
from tq.core.ops import SCHEDULES_MAX, TICKS_KEPT, Schedule, Tick
from tq.core.task import FINAL
from tq.storage.postgres_link import Talk
from tq.storage.postgres_sql import LOCK, SCHEDULES_LOCK
from tq.storage.postgres_submit import submit_one
from tq.storage.postgres_work import Work
from tq.storage.records import SCHEDULE_COLUMNS, STATE_OF, schedule_of_row, schedule_row

_SELECT: Final = f"SELECT {SCHEDULE_COLUMNS} FROM schedules "
SELECT_SCHEDULE: Final = _SELECT + "WHERE name = $1"
LOCK_SCHEDULE: Final = SELECT_SCHEDULE + " FOR UPDATE"
SELECT_SCHEDULES: Final = _SELECT + "WHERE name > $1 ORDER BY name LIMIT $2"
SELECT_DUE_SCHEDULES: Final = (
    _SELECT + "WHERE next_at IS NOT NULL AND next_at <= $1 ORDER BY next_at, name LIMIT $2"
)
COUNT_SCHEDULES: Final = "SELECT count(*) FROM schedules"
PUT_SCHEDULE: Final = f"""
INSERT INTO schedules ({SCHEDULE_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, version = excluded.version, paused = excluded.paused,
    created_at = excluded.created_at, seen_until = excluded.seen_until, next_at = excluded.next_at,
    last_task_id = excluded.last_task_id, ticks = excluded.ticks
"""
DELETE_SCHEDULE: Final = "DELETE FROM schedules WHERE name = $1"
SELECT_STATE: Final = "SELECT lives.state FROM tasks JOIN lives ON lives.seq = tasks.seq WHERE tasks.id = $1"


def put_schedule(work: Work, op: ops.PutSchedule) -> Schedule:
    """See PutSchedule."""
    # One at a time, because the first to make a schedule has no row to lock.
    work.talk.lock(LOCK, SCHEDULES_LOCK)
    known = _get(work.talk, op.name)
    if known is None:
        if work.talk.ask(COUNT_SCHEDULES)[0][0] >= SCHEDULES_MAX:
            raise refusals.too_many("schedules", SCHEDULES_MAX)
        return _keep(work.talk, ops.new_schedule(op, work.now))
    if known.spec == op.spec:
        return known
    next_at = None if known.paused else op.next_at
    changed = replace(known, spec=op.spec, version=known.version + 1, seen_until=work.now, next_at=next_at)
    return _keep(work.talk, changed)


def delete_schedule(work: Work, name: str) -> ops.Deleted:
    """See DeleteSchedule."""
    _find(work.talk, name)
    work.talk.tell(DELETE_SCHEDULE, (name,))
    return ops.Deleted()


def pause_schedule(work: Work, op: ops.PauseSchedule) -> Schedule:
    """See PauseSchedule."""
    known = _find(work.talk, op.name)
    if known.version != op.version:
        raise refusals.schedule_moved_on(op.name)
    if known.paused == op.paused:
        return known
    return _keep(work.talk, replace(known, paused=op.paused, next_at=op.next_at, seen_until=work.now))


def fire(work: Work, op: ops.Fire) -> ops.Fired:
    """See Fire."""
    known = _find(work.talk, op.name)
    if known.paused or known.version != op.version or op.seen_until <= known.seen_until:
        raise refusals.schedule_moved_on(op.name)
    overlapped = op.task is not None and not op.overlap and _is_last_open(work.talk, known)
    submitted = None
    if op.task is not None and not overlapped:
        try:
            submitted = submit_one(work, op.task)
        except DuplicateTask:
            overlapped = True
    task_id = None if submitted is None else submitted.task_id
    tick = Tick(at=op.tick_at, task_id=task_id, overlapped=overlapped, skipped=op.skipped)
    _keep(
        work.talk,
        replace(
            known,
            seen_until=op.seen_until,
            next_at=op.next_at,
            last_task_id=task_id or known.last_task_id,
            ticks=(*known.ticks, tick)[-TICKS_KEPT:],
        ),
    )
    return ops.Fired(submitted)


def _is_last_open(talk: Talk, schedule: Schedule) -> bool:
    """Whether the last task that *schedule* made has not ended."""
    found = talk.ask(SELECT_STATE, schedule.last_task_id)
    return bool(found) and STATE_OF[found[0][0]] not in FINAL


def _get(talk: Talk, name: str) -> Schedule | None:
    found = talk.ask(LOCK_SCHEDULE, name)
    return schedule_of_row(found[0]) if found else None


def _find(talk: Talk, name: str) -> Schedule:
    known = _get(talk, name)
    if known is None:
        raise refusals.no_such_schedule(name)
    return known


def _keep(talk: Talk, schedule: Schedule) -> Schedule:
    talk.tell(PUT_SCHEDULE, schedule_row(schedule))
    return schedule
