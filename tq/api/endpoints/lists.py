"""Many tasks at once: listing, the causes of failures, changes in bulk."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from tq.api.http import Request, Response, json_response
from tq.core.errors import InvalidInput
from tq.core.queries import PAGE_MAX, GetFailureGroups, ListTasks, TaskFilter
from tq.core.requests import FilterRequest, read_bulk, read_filter
from tq.core.views import brief_view, failure_group_view, task_view
from tq.engine.bulk import CAN_BE_DONE_TO, Action, Bulk, change_all
from tq.engine.server import Server

PAGE_DEFAULT: Final = 50
"""Tasks in a page, if the request does not say."""
_DIGITS_MAX: Final = 18
VIEWS: Final = {"full": task_view, "brief": brief_view}
"""How a list may show tasks; the first, if the request does not say."""


async def list_tasks(server: Server, request: Request) -> Response:
    """One page of the tasks that the query means, newest first, with a link to the next page."""
    query = dict(request.query)
    limit = _limit(query.pop("limit", None))
    before = _cursor(query.pop("cursor", None))
    view = _view(query.pop("view", "full"))
    wanted = _filter(query)
    wanted = replace(wanted, queue=request.caller.narrowed(wanted.queue))
    page = await server.read(ListTasks(wanted, limit, before, view == "brief"))
    tasks = [server.as_it_runs(task) for task in page.tasks]
    next_cursor = None if page.next is None else str(page.next)
    headers = () if next_cursor is None else (("link", _link(request, next_cursor)),)
    views = [VIEWS[view](task, cancellable=server.cancellable(task)) for task in tasks]
    return json_response({"tasks": views, "next": next_cursor}, headers=headers)


def _filter(query: dict[str, str]) -> TaskFilter:
    try:
        return read_filter(msgspec.convert(query, FilterRequest))
    except InvalidInput as fault:
        # In a query it is a parameter, not a field of a body.
        raise InvalidInput(fault.message, parameter=fault.fields["field"]) from None


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    limit = _number(text)
    if limit is None or not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(
            f"limit: {text[:40]!r} is not allowed: an integer from 1 to {PAGE_MAX}", parameter="limit"
        )
    return limit


def _cursor(text: str | None) -> int | None:
    cursor = None if text is None else _number(text)
    if text is not None and cursor is None:
        raise InvalidInput(
            f"cursor: {text[:40]!r} is not allowed: it is the next of another page", parameter="cursor"
        )
    return cursor


def _view(text: str) -> str:
    if text not in VIEWS:
        allowed = ", ".join(VIEWS)
        raise InvalidInput(f"view: {text[:40]!r} is not allowed: one of {allowed}", parameter="view")
    return text


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None


def _link(request: Request, cursor: str) -> str:
    return f'<{request.path}?{urlencode({**request.query, "cursor": cursor})}>; rel="next"'


async def failures(server: Server, request: Request) -> Response:
    """The failed tasks, by what their failures have in common, the most first."""
    groups = await server.read(GetFailureGroups(_limit(request.query.get("limit"))))
    return json_response({"groups": [failure_group_view(group) for group in groups]})


async def cancel(server: Server, request: Request) -> Response:
    """Cancel all that the filter means."""
    return await _change(server, request, Action.CANCEL)


async def retry(server: Server, request: Request) -> Response:
    """Retry all that the filter means: failed ones, unless it names states."""
    return await _change(server, request, Action.RETRY)


async def delete(server: Server, request: Request) -> Response:
    """Delete all ended tasks that the filter means."""
    return await _change(server, request, Action.DELETE)


async def _change(server: Server, request: Request, action: Action) -> Response:
    asked = read_bulk(request.body)
    wanted = _filter_in_body(asked.filter, action)
    done = await change_all(
        server.ledger,
        server.read,
        action,
        replace(wanted, queue=request.caller.narrowed(wanted.queue)),
        limit=asked.limit,
        dry_run=asked.dry_run,
        cascade=asked.cascade,
    )
    return bulk_response(done, dry_run=asked.dry_run)


def bulk_response(done: Bulk, *, dry_run: bool) -> Response:
    """How many tasks were meant, and how many were changed."""
    return json_response({"dry_run": dry_run, **msgspec.structs.asdict(done)})


def _filter_in_body(asked: FilterRequest, action: Action) -> TaskFilter:
    """The filter that is *asked* for. Raises InvalidInput: also for states that *action* is not for."""
    try:
        wanted = read_filter(asked)
    except InvalidInput as fault:
        raise InvalidInput(f"filter.{fault.message}", field=f"filter.{fault.fields['field']}") from None
    if wrong := [state.value for state in wanted.states if state not in CAN_BE_DONE_TO[action]]:
        allowed = ", ".join(state.value for state in CAN_BE_DONE_TO[action])
        raise InvalidInput(
            f"filter.state: a task that is {wrong[0]} cannot be {action.done}: name some of {allowed}",
            field="filter.state",
        )
    return wanted
