"""Schedules: how a definition is kept, and what becomes of a tick. Each makes one task, whoever fires it."""

from __future__ import annotations

from msgspec.structs import replace

from tq.core.ops import Fire, PauseSchedule, PutSchedule, Schedule
from tq.core.requests import ScheduleRequest, ScheduleSpec, make_spec, read_spec, spec_text
from tq.core.schedule import due, next_tick
from tq.core.task import NewTask, TaskId
from tq.core.views import format_instant
from tq.core.wire import TypeDefaults, decode_submit, new_task


def put(
    name: str, request: ScheduleRequest, task: NewTask, *, known: Schedule | None, now: int
) -> PutSchedule:
    """The op that keeps what *request* asks for under *name*.

    Args:
        task: What a tick of it makes, checked.
        known: The schedule of that name as it is.
    Raises:
        InvalidInput: What is wrong, naming the field.
    """
    before = None if known is None else read_spec(known.spec)
    spec = make_spec(request, task, known=before, now=now)
    return PutSchedule(name=name, spec=spec_text(spec), next_at=next_tick(spec.timing, now))


def pause(schedule: Schedule, *, paused: bool, now: int) -> PauseSchedule:
    """The op that pauses *schedule*, or lets it go on with its next tick after *now*."""
    next_at = None if paused else next_tick(read_spec(schedule.spec).timing, now)
    return PauseSchedule(schedule.name, schedule.version, paused, next_at)


def fire(schedule: Schedule, *, now: int) -> Fire:
    """The op that deals with the ticks of *schedule* up to *now*, of which there is at least one."""
    assert schedule.next_at is not None
    spec = read_spec(schedule.spec)
    # A tick that came while its definition was on its way into the store was promised all the same.
    last = min(schedule.seen_until, schedule.next_at - 1)
    found = due(spec.timing, last=last, now=now, misfire_grace_ms=spec.misfire_grace_ms)
    task = None if found.fire_at is None else tick_task(schedule.name, spec, found.fire_at)
    return Fire(
        name=schedule.name,
        version=schedule.version,
        tick_at=schedule.next_at if found.fire_at is None else found.fire_at,
        seen_until=found.seen_until,
        next_at=next_tick(spec.timing, now),
        task=task,
        skipped=found.skipped,
        overlap=spec.overlap,
    )


def tick_task(name: str, spec: ScheduleSpec, at: int) -> NewTask:
    """The task of the tick at *at*. Its id follows from the two, so that no tick makes a second one."""
    return made_task(name, spec, TaskId(f"{name}:{format_instant(at)}"), now=at)


def made_task(name: str, spec: ScheduleSpec, task_id: TaskId, *, now: int) -> NewTask:
    """The task that the schedule makes at *now*. The handler of its type need not be here."""
    request = decode_submit(spec.task.encode())
    task = new_task(request, TypeDefaults(), new_id=task_id, now=now)
    return replace(task, options=replace(task.options, schedule=name))
