"""Queues: their rules, and how many of their tasks are in which state."""

from __future__ import annotations

from dataclasses import dataclass

from tq.api.endpoints.lists import bulk_response
from tq.api.http import Request, Response, json_response
from tq.core.errors import InvalidInput, NotFound
from tq.core.fields import check_name
from tq.core.limits import QueueRules
from tq.core.ops import PauseQueue
from tq.core.queries import GetQueues, OldestPending, TaskFilter
from tq.core.requests import BULK_MAX, check_nothing, read_purge, read_queue
from tq.core.task import WAITING
from tq.core.views import counts_by_queue, queue_view
from tq.engine.bulk import Action, change_all
from tq.engine.server import Server


async def list_queues(server: Server, request: Request) -> Response:
    """Every queue that has tasks or rules, by name."""
    known = await _known(server)
    return json_response({"queues": [known.view(name) for name in known.names()]})


async def get(server: Server, request: Request) -> Response:
    """One queue; one that has neither tasks nor rules is as good as any."""
    return await _show(server, _name(request))


async def put(server: Server, request: Request) -> Response:
    """Give a queue its rules; what is not said is as in a queue without rules."""
    op = read_queue(request.body, request.params["queue"])
    await server.change(op)
    return await _show(server, op.queue)


async def pause(server: Server, request: Request) -> Response:
    """Have nothing of the queue started; what runs goes on."""
    name = _name(request)
    check_nothing(request.body)
    await server.change(PauseQueue(name, paused=True))
    return await _show(server, name)


async def resume(server: Server, request: Request) -> Response:
    """Have the queue go on."""
    name = _name(request)
    check_nothing(request.body)
    await server.change(PauseQueue(name, paused=False))
    return await _show(server, name)


async def purge(server: Server, request: Request) -> Response:
    """Cancel everything that waits in the queue; with ``dry_run``, count it."""
    wanted = TaskFilter(queue=_name(request), states=tuple(sorted(WAITING)))
    dry_run = read_purge(request.body).dry_run
    done = await change_all(
        server.ledger, server.read, Action.CANCEL, wanted, limit=BULK_MAX, dry_run=dry_run
    )
    return bulk_response(done, dry_run=dry_run)


async def _show(server: Server, name: str) -> Response:
    return json_response((await _known(server)).view(name))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of queues, by name: of those that have rules, or tasks, or pending ones."""

    rules: dict[str, QueueRules]
    counts: dict[str, dict[str, int]]
    pending_since: dict[str, int]

    def names(self) -> list[str]:
        """The queues that have tasks or rules, sorted."""
        return sorted({*self.rules, *self.counts})

    def view(self, name: str) -> dict[str, object]:
        """The queue *name*, whether or not anything is known of it."""
        return queue_view(
            name,
            self.rules.get(name),
            self.counts.get(name, {}),
            pending_since=self.pending_since.get(name),
        )


async def _known(server: Server) -> Known:
    rules = dict(await server.read(GetQueues()))
    counts = counts_by_queue(await server.stats())
    return Known(rules, counts, dict(await server.read(OldestPending())))


def _name(request: Request) -> str:
    try:
        return check_name("queue", request.params["queue"])
    except InvalidInput as fault:
        raise NotFound(fault.message) from None
