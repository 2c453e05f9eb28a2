"""Schedules: made, looked at, paused, run out of turn, removed."""

from __future__ import annotations

from typing import Final

from tq.api.endpoints.tasks import submitted_response
from tq.api.http import Request, Response, json_response
from tq.core.errors import InvalidInput, NotFound
from tq.core.fields import check_name
from tq.core.ops import DeleteSchedule, Schedule
from tq.core.queries import GetSchedule, GetSchedules
from tq.core.refusals import no_such_schedule
from tq.core.requests import check_nothing, read_schedule, read_spec
from tq.core.views import schedule_view
from tq.engine import schedules
from tq.engine.server import Server

PAGE: Final = 100
"""Schedules in one page."""


async def list_schedules(server: Server, request: Request) -> Response:
    """Schedules by name, a page at a time, with a link to the next page: ``next`` is its ``cursor``."""
    cursor = request.query.get("cursor")
    after = "" if cursor is None else _checked_cursor(cursor)
    found = await server.read(GetSchedules(after, PAGE + 1))
    now = server.clock.now_ms()
    next_cursor = found[PAGE - 1].name if len(found) > PAGE else None
    views = [schedule_view(each, now=now) for each in found[:PAGE]]
    headers = () if next_cursor is None else (("link", f'<{request.path}?cursor={next_cursor}>; rel="next"'),)
    return json_response({"schedules": views, "next": next_cursor}, headers=headers)


def _checked_cursor(text: str) -> str:
    try:
        return check_name("cursor", text)
    except InvalidInput:
        raise InvalidInput(
            f"cursor: {text[:40]!r} is not allowed: it is the next of another page", parameter="cursor"
        ) from None


async def get(server: Server, request: Request) -> Response:
    """One schedule, with its last and its next ticks."""
    return _shown(server, await _find(server, request))


async def put(server: Server, request: Request) -> Response:
    """Make a schedule (201), or give it a new definition (200)."""
    name = check_name("name", request.params["name"])
    schedule, was_there = await server.put_schedule(name, read_schedule(request.body))
    return _shown(server, schedule, status=200 if was_there else 201)


async def delete(server: Server, request: Request) -> Response:
    """Remove a schedule; the tasks it made stay."""
    await server.change(DeleteSchedule(_name(request)))
    return Response(204)


async def pause(server: Server, request: Request) -> Response:
    """Have no tick fire until it is resumed."""
    return await _pause(server, request, paused=True)


async def resume(server: Server, request: Request) -> Response:
    """Have ticks fire again, from the next one on."""
    return await _pause(server, request, paused=False)


async def _pause(server: Server, request: Request, *, paused: bool) -> Response:
    check_nothing(request.body)
    known = await _find(server, request)
    op = schedules.pause(known, paused=paused, now=server.clock.now_ms())
    return _shown(server, await server.change(op))


async def run(server: Server, request: Request) -> Response:
    """Make the task of the schedule now, beside its ticks; 201 with the task."""
    check_nothing(request.body)
    known = await _find(server, request)
    now = server.clock.now_ms()
    new = schedules.made_task(known.name, read_spec(known.spec), server.new_id(), now=now)
    return submitted_response(new, await server.submit(new, request_id=request.request_id))


async def _find(server: Server, request: Request) -> Schedule:
    name = _name(request)
    known = await server.read(GetSchedule(name))
    if known is None:
        raise no_such_schedule(name)
    return known


def _name(request: Request) -> str:
    try:
        return check_name("name", request.params["name"])
    except InvalidInput as fault:
        raise NotFound(fault.message) from None


def _shown(server: Server, schedule: Schedule, *, status: int = 200) -> Response:
    return json_response(schedule_view(schedule, now=server.clock.now_ms()), status=status)
