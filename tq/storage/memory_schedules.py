"""The schedules of the reference model: a dict, and the rules by which each tick is dealt with once."""

from __future__ import annotations

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.ops import SCHEDULES_MAX, TICKS_KEPT, Schedule, Tick
from tq.core.task import TaskId


class Schedules:
    """Schedules by name."""

    def __init__(self) -> None:
        self._known: dict[str, Schedule] = {}

    def get(self, name: str) -> Schedule | None:
        """The schedule, or None."""
        return self._known.get(name)

    def listed(self) -> list[Schedule]:
        """All of them, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def due(self, now: int) -> list[Schedule]:
        """Those whose next tick has come, earliest first, then by name."""
        due = [each for each in self.listed() if each.next_at is not None and each.next_at <= now]
        return sorted(due, key=lambda each: (each.next_at, each.name))

    def next_at(self) -> int | None:
        """The earliest tick of all."""
        return min((each.next_at for each in self._known.values() if each.next_at is not None), default=None)

    def put(self, op: ops.PutSchedule, now: int) -> Schedule:
        """See PutSchedule."""
        known = self._known.get(op.name)
        if known is None:
            if len(self._known) >= SCHEDULES_MAX:
                raise refusals.too_many("schedules", SCHEDULES_MAX)
            return self._keep(ops.new_schedule(op, now))
        if known.spec == op.spec:
            return known
        next_at = None if known.paused else op.next_at
        return self._keep(
            replace(known, spec=op.spec, version=known.version + 1, seen_until=now, next_at=next_at)
        )

    def delete(self, name: str) -> ops.Deleted:
        """See DeleteSchedule."""
        if self._known.pop(name, None) is None:
            raise refusals.no_such_schedule(name)
        return ops.Deleted()

    def pause(self, op: ops.PauseSchedule, now: int) -> Schedule:
        """See PauseSchedule."""
        known = self._find(op.name)
        if known.version != op.version:
            raise refusals.schedule_moved_on(op.name)
        if known.paused == op.paused:
            return known
        return self._keep(replace(known, paused=op.paused, next_at=op.next_at, seen_until=now))

    def to_fire(self, op: ops.Fire) -> Schedule:
        """The schedule whose tick *op* may deal with. Raises NotFound, Conflict."""
        known = self._find(op.name)
        if known.paused or known.version != op.version or op.seen_until <= known.seen_until:
            raise refusals.schedule_moved_on(op.name)
        return known

    def fired(self, op: ops.Fire, task_id: TaskId | None, *, overlapped: bool) -> None:
        """Note that the tick of *op* was dealt with."""
        known = self._find(op.name)
        tick = Tick(at=op.tick_at, task_id=task_id, overlapped=overlapped, skipped=op.skipped)
        self._keep(
            replace(
                known,
                seen_until=op.seen_until,
                next_at=op.next_at,
                last_task_id=task_id or known.last_task_id,
                ticks=(*known.ticks, tick)[-TICKS_KEPT:],
            )
        )

    def _find(self, name: str) -> Schedule:
        known = self._known.get(name)
        if known is None:
            raise refusals.no_such_schedule(name)
        return known

    def _keep(self, schedule: Schedule) -> Schedule:
        self._known[schedule.name] = schedule
        return schedule
