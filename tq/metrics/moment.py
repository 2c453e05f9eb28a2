"""What is so now, read when metrics are asked for: the store's counters, the workers, the connections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tq.core.errors import StorageUnavailable
from tq.core.limits import QueueRules
from tq.core.queries import GetQueues, GetStats, OldestPending, Stats
from tq.core.task import State
from tq.engine.pool import Pool
from tq.metrics.tallies import Names
from tq.storage.store import Store


class Traffic(Protocol):
    """What came over the sockets, counted from the start; ``open`` connections there are now."""

    open: int
    accepted: int
    refused_full: int
    refused_address: int
    failed: int


@dataclass(slots=True)
class NoTraffic:
    """The traffic of a server without sockets."""

    open: int = 0
    accepted: int = 0
    refused_full: int = 0
    refused_address: int = 0
    failed: int = 0


@dataclass(slots=True)
class Moment:
    """One look at a server; what is of the store stays empty while that is away."""

    is_ready: bool
    workers: dict[str, float]
    workers_max: int
    watchers: int
    connections: int
    connections_accepted: int
    connections_refused: dict[str, float]
    connections_failed: int
    is_storage_up: bool = False
    tasks: dict[str, dict[State, int]] = field(default_factory=dict)
    """By queue and state."""
    oldest_s: dict[str, float] = field(default_factory=dict)
    """By queue: how long one has waited there, at most."""
    paused: dict[str, float] = field(default_factory=dict)
    submitted: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    finished: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def read(self, store: Store, names: Names, *, now: int) -> None:
        """Add what *store* has, if it can be reached. Blocking."""
        try:
            stats = store.read(GetStats())
            oldest = store.read(OldestPending())
            rules = store.read(GetQueues())
        except StorageUnavailable:
            return
        self.is_storage_up = True
        for queue, _ in rules:
            names.configure(queue)
        self._note_queues(stats, oldest, rules, names, now)
        self.submitted = [((), stats.submitted)]
        self.finished = [
            ((State.SUCCEEDED.value,), stats.succeeded),
            ((State.FAILED.value,), stats.failed),
            ((State.CANCELLED.value,), stats.cancelled),
        ]

    def _note_queues(
        self,
        stats: Stats,
        oldest: Iterable[tuple[str, int]],
        rules: Iterable[tuple[str, QueueRules]],
        names: Names,
        now: int,
    ) -> None:
        """What is so in each queue; those without a label of their own are one."""
        for queue in sorted(names.configured):
            self._add_queue(queue)
        for lane in stats.lanes:
            states = self.tasks[self._add_queue(names.label(lane.queue))]
            states[lane.state] = states.get(lane.state, 0) + lane.count
        for queue, run_at in oldest:
            label = self._add_queue(names.label(queue))
            self.oldest_s[label] = max(self.oldest_s[label], (now - run_at) / 1000)
        for queue, each in rules:
            label = self._add_queue(names.label(queue))
            self.paused[label] = max(self.paused[label], float(each.paused))

    def _add_queue(self, label: str) -> str:
        self.tasks.setdefault(label, {})
        self.oldest_s.setdefault(label, 0.0)
        self.paused.setdefault(label, 0.0)
        return label


def look(pool: Pool, traffic: Traffic, *, is_ready: bool, watchers: int) -> Moment:
    """What is so now, but for the store."""
    overran = sum(attempt.concluded for attempt in pool.running)
    busy = len(pool.running) - overran
    return Moment(
        is_ready=is_ready,
        workers={"idle": max(0, len(pool.workers) - len(pool.running)), "busy": busy, "overran": overran},
        workers_max=pool.maximum,
        watchers=watchers,
        connections=traffic.open,
        connections_accepted=traffic.accepted,
        connections_refused={"full": traffic.refused_full, "address": traffic.refused_address},
        connections_failed=traffic.failed,
    )
