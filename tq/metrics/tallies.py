"""Counts what happens on a server, in plain numbers.

On the way of every task, so it costs a look-up and an addition; what Prometheus wants is made of it when it
is asked for. What clients name as they like is given a label of its own up to a bound, past it OTHER.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from tq.core import events
from tq.core.events import Event
from tq.core.limits import QUEUES_MAX
from tq.core.task import Reason, State

OTHER: Final = "other"
"""The label of every name that gets none of its own."""
NAMES_MAX: Final = 200
"""Queues, and types, with a label of their own beside those that are configured."""
LANES_MAX: Final = 400
"""Pairs of a queue and a type with labels of their own, beside those of handlers."""

DEFAULT_QUEUE: Final = "default"

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800)
"""Bounds for waiting and running, and for requests."""
SHORT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
"""Bounds for what ought to be over at once."""
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Those with a label of their own: a client may make up any other."""


class Answer(Protocol):
    """One request, once it is over. ``route`` as its table writes it; empty where nothing was found."""

    @property
    def method(self) -> str: ...  # noqa: D102

    @property
    def route(self) -> str: ...  # noqa: D102

    @property
    def status(self) -> int | None: ...  # noqa: D102

    @property
    def duration_ms(self) -> float: ...  # noqa: D102


class Spread:
    """How many values lie between which bounds (the upper one included), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Names:
    """Which names have a label of their own: those that are configured, and the first of the others."""

    def __init__(self, configured: Iterable[str]) -> None:
        self.configured = set(configured)
        self._others: set[str] = set()

    def configure(self, name: str) -> None:
        """Let *name* have a label whatever else there is."""
        if len(self.configured) < QUEUES_MAX:
            self.configured.add(name)

    def label(self, name: str) -> str:
        """*name* itself, or OTHER."""
        if name in self.configured or name in self._others:
            return name
        if len(self._others) >= NAMES_MAX:
            return OTHER
        self._others.add(name)
        return name


class Lane:
    """What became of the tasks of a type in a queue. ``wait`` is that of the queue, ``run`` of the type."""

    __slots__ = ("ended", "overran", "run", "submitted", "wait")

    def __init__(self, wait: Spread, run: Spread) -> None:
        self.submitted = 0
        self.overran = 0
        self.ended: dict[tuple[State, Reason | None], int] = {}
        """Attempts, by where they left the task and why."""
        self.wait = wait
        self.run = run


class Tallies:
    """Everything counted since the server was made. Not safe for threads, but to read.

    Args:
        lanes: The queues and types that are configured.
    """

    def __init__(self, lanes: Iterable[tuple[str, str]]) -> None:
        lanes = list(lanes)
        self.queues = Names({DEFAULT_QUEUE, *(queue for queue, _ in lanes)})
        self.types = Names(type for _, type in lanes)
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.wait: dict[str, Spread] = {}
        """By queue."""
        self.run: dict[str, Spread] = {}
        """By type."""
        self.ended_waiting = Counter[str]()
        self.rerun = self.released = self.pruned = self.leases_refused = self.outages = 0
        self.leases_expired = Counter[str](pending=0, failed=0, cancelled=0)
        self.ticks = Counter[str](fired=0, overlapped=0, late=0)
        self.schedule_lag = Spread(SECONDS)
        self.batch_ops = Spread(SIZES)
        self.commit_s = Spread(SHORT_SECONDS)
        self.loop_lag = Spread(SHORT_SECONDS)
        self.requests = Counter[tuple[str, str, str]]()
        """By method, route and status."""
        self.request_s: dict[str, Spread] = {}
        """By route."""
        for lane in lanes:
            self._make_lane(lane)
        self._room = len(self.lanes) + LANES_MAX
        self._tell: dict[type[Event], Callable[[Any], None]] = {
            events.TaskSubmitted: self._submitted,
            events.AttemptFinished: self._attempt_finished,
            events.AttemptOverran: self._attempt_overran,
            events.TaskCancelled: self._ended_waiting,
            events.TaskExpired: self._ended_waiting,
            events.TaskRetried: self._rerun,
            events.TaskReleased: self._released,
            events.TasksPruned: self._pruned,
            events.LeaseExpired: self._lease_expired,
            events.LeaseRefused: self._lease_refused,
            events.ScheduleFired: self._schedule_fired,
            events.QueueChanged: self._queue_changed,
            events.StorageLost: self._storage_lost,
        }

    def event(self, event: Event) -> None:
        """Count *event*, if it is one that counts."""
        tell = self._tell.get(type(event))
        if tell is not None:
            tell(event)

    def answered(self, answer: Answer) -> None:
        """Count a request that is over."""
        method = answer.method if answer.method in METHODS else OTHER
        self.requests[method, answer.route, str(answer.status or "none")] += 1
        spread = self.request_s.get(answer.route)
        if spread is None:
            # The table of routes bounds them.
            spread = self.request_s[answer.route] = Spread(SECONDS)
        spread.add(answer.duration_ms / 1000)

    def committed(self, ops: int, duration_s: float) -> None:
        """Count one transaction of the ledger."""
        self.batch_ops.add(ops)
        self.commit_s.add(duration_s)

    # Lanes

    def _lane(self, queue: str, type: str) -> Lane:
        return self.lanes.get((queue, type)) or self._find_lane(queue, type)

    def _find_lane(self, queue: str, type: str) -> Lane:
        names = self.queues.label(queue), self.types.label(type)
        if names not in self.lanes and len(self.lanes) >= self._room:
            names = OTHER, OTHER
        return self.lanes.get(names) or self._make_lane(names)

    def _make_lane(self, names: tuple[str, str]) -> Lane:
        queue, type = names
        wait = self.wait.setdefault(queue, Spread(SECONDS))
        run = self.run.setdefault(type, Spread(SECONDS))
        lane = self.lanes[names] = Lane(wait, run)
        return lane

    # Events

    def _submitted(self, event: events.TaskSubmitted) -> None:
        self._lane(event.queue, event.type).submitted += 1

    def _attempt_finished(self, event: events.AttemptFinished) -> None:
        lane = self._lane(event.queue, event.type)
        end = event.state, event.reason
        lane.ended[end] = lane.ended.get(end, 0) + 1
        lane.wait.add(event.wait_ms / 1000)
        lane.run.add(event.duration_ms / 1000)

    def _attempt_overran(self, event: events.AttemptOverran) -> None:
        self._lane(event.queue, event.type).overran += 1

    def _ended_waiting(self, event: events.TaskCancelled | events.TaskExpired) -> None:
        # A running task that is asked to stop ends with its attempt.
        if event.state is not State.RUNNING:
            self.ended_waiting[event.state.value] += 1

    def _rerun(self, event: events.TaskRetried) -> None:
        self.rerun += 1

    def _released(self, event: events.TaskReleased) -> None:
        self.released += 1

    def _pruned(self, event: events.TasksPruned) -> None:
        self.pruned += event.count

    def _lease_expired(self, event: events.LeaseExpired) -> None:
        self.leases_expired.update(pending=event.pending, failed=event.failed, cancelled=event.cancelled)

    def _lease_refused(self, event: events.LeaseRefused) -> None:
        self.leases_refused += 1

    def _schedule_fired(self, event: events.ScheduleFired) -> None:
        self.ticks["late"] += event.skipped
        if event.task_id is not None:
            self.ticks["fired"] += 1
            self.schedule_lag.add(max(0, event.at - event.tick_at) / 1000)
        else:
            self.ticks["overlapped" if event.overlapped else "late"] += 1

    def _queue_changed(self, event: events.QueueChanged) -> None:
        self.queues.configure(event.queue)

    def _storage_lost(self, event: events.StorageLost) -> None:
        self.outages += 1
