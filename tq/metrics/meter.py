"""The metrics of one server: told of what happens, read and written when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from tq.engine.server import Phase, Server
from tq.metrics.moment import Moment, NoTraffic, Traffic, look
from tq.metrics.tallies import Answer, Tallies

A = TypeVar("A", bound=Answer)

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"


class Meter:
    """Counts what happens on *server* from now on, and tells it. Made before the server runs.

    Args:
        traffic: Where connections are counted, if there are sockets.
    """

    def __init__(self, server: Server, traffic: Traffic | None = None) -> None:
        self.tallies = Tallies(server.queue.lanes)
        self._server = server
        self._traffic = traffic or NoTraffic()
        self._writing = trio.Lock()
        server.listen(self.tallies.event)
        server.ledger.measured = self.tallies.committed
        server.pulse = self.tallies.loop_lag.add
        server.write_metrics = self.write

    def counting(self, tell: Callable[[A], None] | None) -> Callable[[A], None]:
        """What counts each request that is over, and tells *tell* of it too."""
        if tell is None:
            return self.tallies.answered

        def count_and_tell(answer: A) -> None:
            self.tallies.answered(answer)
            tell(answer)

        return count_and_tell

    async def write(self, *, openmetrics: bool) -> bytes:
        """All metrics as text, in one of the two formats. Also while the store is away.

        Read and written off the loop, one after the other: many who ask at once take no more threads.
        """
        server = self._server
        async with self._writing:
            moment = look(
                server.pool,
                self._traffic,
                is_ready=server.phase is Phase.READY and not server.ledger.is_away,
                watchers=server.watchers.count,
            )
            now = server.clock.now_ms()
            return await server.run_sync(partial(self._write, moment, now, openmetrics=openmetrics))

    def _write(self, moment: Moment, now: int, *, openmetrics: bool) -> bytes:
        from tq.metrics.exposition import write

        moment.read(self._server.store, self.tallies.queues, now=now)
        return write(self.tallies, moment, openmetrics=openmetrics)
