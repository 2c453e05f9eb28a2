"""The schedules of the SQLite store, and the rules by which each tick is dealt with once.

The twin of `tq.storage.memory_schedules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw
from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.errors import DuplicateTask
from tq.core.ops import SCHEDULES_MAX, TICKS_KEPT, Schedule, Submitted, Tick
from tq.core.task import FINAL, NewTask
from tq.storage.records import SCHEDULE_COLUMNS, STATE_OF, schedule_of_row, schedule_row

_SELECT: Final = f"SELECT {SCHEDULE_COLUMNS} FROM schedules "
SELECT_SCHEDULE: Final = _SELECT + "WHERE name = ?1"
SELECT_SCHEDULES: Final = _SELECT + "WHERE name > ?1 ORDER BY name LIMIT ?2"
SELECT_DUE_SCHEDULES: Final = (
    _SELECT + "WHERE next_at IS NOT NULL AND next_at <= ?1 ORDER BY next_at, name LIMIT ?2"
)
COUNT_SCHEDULES: Final = "SELECT count(*) FROM schedules"
PUT_SCHEDULE: Final = "INSERT OR REPLACE INTO schedules VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
DELETE_SCHEDULE: Final = "DELETE FROM schedules WHERE name = ?1"
SELECT_STATE: Final = "SELECT state FROM tasks WHERE id = ?1"


def get_schedule(db: apsw.Connection, name: str) -> Schedule | None:
    """See GetSchedule."""
    row = db.execute(SELECT_SCHEDULE, (name,)).get
    return None if row is None else schedule_of_row(row)


def list_schedules(db: apsw.Connection, after: str, limit: int) -> tuple[Schedule, ...]:
    """See GetSchedules."""
    return tuple(schedule_of_row(row) for row in db.execute(SELECT_SCHEDULES, (after, limit)))


def due_schedules(db: apsw.Connection, now: int, limit: int) -> tuple[Schedule, ...]:
    """See DueSchedules."""
    return tuple(schedule_of_row(row) for row in db.execute(SELECT_DUE_SCHEDULES, (now, limit)))


def put_schedule(db: apsw.Connection, op: ops.PutSchedule, now: int) -> Schedule:
    """See PutSchedule."""
    known = get_schedule(db, op.name)
    if known is None:
        if db.execute(COUNT_SCHEDULES).get >= SCHEDULES_MAX:
            raise refusals.too_many("schedules", SCHEDULES_MAX)
        return _keep(db, ops.new_schedule(op, now))
    if known.spec == op.spec:
        return known
    next_at = None if known.paused else op.next_at
    return _keep(db, replace(known, spec=op.spec, version=known.version + 1, seen_until=now, next_at=next_at))


def delete_schedule(db: apsw.Connection, name: str) -> ops.Deleted:
    """See DeleteSchedule."""
    _find(db, name)
    db.execute(DELETE_SCHEDULE, (name,))
    return ops.Deleted()


def pause_schedule(db: apsw.Connection, op: ops.PauseSchedule, now: int) -> Schedule:
    """See PauseSchedule."""
    known = _find(db, op.name)
    if known.version != op.version:
        raise refusals.schedule_moved_on(op.name)
    if known.paused == op.paused:
        return known
    return _keep(db, replace(known, paused=op.paused, next_at=op.next_at, seen_until=now))


def fire(db: apsw.Connection, op: ops.Fire, submit: Callable[[NewTask], Submitted]) -> ops.Fired:
    """See Fire; *submit* stores its task."""
    known = _find(db, op.name)
    if known.paused or known.version != op.version or op.seen_until <= known.seen_until:
        raise refusals.schedule_moved_on(op.name)
    overlapped = op.task is not None and not op.overlap and _is_last_open(db, known)
    submitted = None
    if op.task is not None and not overlapped:
        try:
            submitted = submit(op.task)
        except DuplicateTask:
            overlapped = True
    task_id = None if submitted is None else submitted.task_id
    tick = Tick(at=op.tick_at, task_id=task_id, overlapped=overlapped, skipped=op.skipped)
    _keep(
        db,
        replace(
            known,
            seen_until=op.seen_until,
            next_at=op.next_at,
            last_task_id=task_id or known.last_task_id,
            ticks=(*known.ticks, tick)[-TICKS_KEPT:],
        ),
    )
    return ops.Fired(submitted)


def _is_last_open(db: apsw.Connection, schedule: Schedule) -> bool:
    """Whether the last task that *schedule* made has not ended."""
    code = db.execute(SELECT_STATE, (schedule.last_task_id,)).get
    return code is not None and STATE_OF[code] not in FINAL


def _find(db: apsw.Connection, name: str) -> Schedule:
    known = get_schedule(db, name)
    if known is None:
        raise refusals.no_such_schedule(name)
    return known


def _keep(db: apsw.Connection, schedule: Schedule) -> Schedule:
    db.execute(PUT_SCHEDULE, schedule_row(schedule))
    return schedule
