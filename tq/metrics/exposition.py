"""Every metric: its name, its labels, what it tells and where its values come from; and how they are written.

It writes what was counted and what was read, and asks nobody itself. It is imported when metrics are first
asked for: a start should not wait for it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf, isinf
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics

from tq import __version__
from tq.core.task import FINAL, Reason, State
from tq.metrics.moment import Moment
from tq.metrics.tallies import Spread, Tallies

Value: TypeAlias = float | Spread
Row: TypeAlias = tuple[tuple[str, ...], Value]


class Source:
    """What the values come from: what was counted, and what is so now."""

    def __init__(self, tallies: Tallies, moment: Moment) -> None:
        self.tallies = tallies
        self.moment = moment

    def by_lane(self, value: Callable[[int, int], int]) -> Iterator[Row]:
        """A value of each lane, made of how many were submitted to it, and how many overran in it."""
        # Other threads may add lanes meanwhile: a list is made at one go.
        for names, lane in list(self.tallies.lanes.items()):
            yield names, value(lane.submitted, lane.overran)

    def ends(
        self, wanted: Callable[[State], bool]
    ) -> Iterator[tuple[tuple[str, str], State, Reason | None, int]]:
        """How many attempts of each lane left their task in each of the states that are *wanted*, and why."""
        for names, lane in list(self.tallies.lanes.items()):
            for (state, reason), count in list(lane.ended.items()):
                if wanted(state):
                    yield names, state, reason, count

    def by_queue_and_state(self) -> Iterator[Row]:
        """How many tasks are in each state in each queue."""
        for queue, states in self.moment.tasks.items():
            for state in State:
                yield (queue, state.value), states.get(state, 0)


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. ``name`` is without what Prometheus adds to it, such as ``_total``."""

    kind: str
    name: str
    labels: tuple[str, ...]
    text: str
    rows: Callable[[Source], Iterable[Row]]

    def family(self, source: Source) -> Metric:
        """Its values now."""
        family = _FAMILIES[self.kind](self.name, self.text, labels=self.labels)
        for labels, value in self.rows(source):
            if isinstance(family, HistogramMetricFamily):
                assert isinstance(value, Spread)
                family.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
            else:
                assert not isinstance(value, Spread)
                family.add_metric(labels, value)
        return family


_FAMILIES: Final[dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    total = 0
    buckets = []
    # A copy, so that no bucket has fewer than the one before it.
    for bound, count in zip((*spread.bounds, inf), list(spread.counts), strict=True):
        total += count
        buckets.append(("+Inf" if isinf(bound) else str(float(bound)), float(total)))
    return buckets


def _one(value: Callable[[Source], Value]) -> Callable[[Source], Iterable[Row]]:
    """The rows of a metric without labels."""
    return lambda source: [((), value(source))]


def _by_name(values: Callable[[Source], dict[str, Value]]) -> Callable[[Source], Iterable[Row]]:
    """The rows of a metric with one label."""
    return lambda source: [((name,), value) for name, value in list(values(source).items())]


OF_TASKS: Final = (
    Described(
        "counter",
        "tq_tasks_submitted",
        ("queue", "type"),
        "Tasks stored by this server.",
        lambda source: source.by_lane(lambda submitted, overran: submitted),
    ),
    Described(
        "counter",
        "tq_tasks_finished",
        ("queue", "type", "state", "reason"),
        "Tasks that ended with an attempt.",
        lambda source: (
            ((*names, state.value, reason or ""), count)
            for names, state, reason, count in source.ends(lambda state: state in FINAL)
        ),
    ),
    Described(
        "counter",
        "tq_tasks_ended_waiting",
        ("state",),
        "Tasks that ended without one: cancelled, or too late.",
        _by_name(lambda source: dict(source.tallies.ended_waiting)),
    ),
    Described(
        "counter",
        "tq_retries",
        ("queue", "type", "reason"),
        "Attempts that failed, and are to be followed by another.",
        lambda source: (
            ((*names, reason or ""), count)
            for names, _, reason, count in source.ends(lambda state: state is State.RETRYING)
        ),
    ),
    Described(
        "counter",
        "tq_attempts_put_back",
        ("queue", "type", "state"),
        "Attempts that were snoozed, or whose process died, and left their task to wait.",
        lambda source: _put_back(source),
    ),
    Described(
        "counter",
        "tq_attempts_overran",
        ("queue", "type"),
        "Handlers that went on after their attempt was ended.",
        lambda source: source.by_lane(lambda submitted, overran: overran),
    ),
    Described(
        "histogram",
        "tq_task_wait_seconds",
        ("queue",),
        "From when a task could begin to when its attempt did.",
        _by_name(lambda source: {**source.tallies.wait}),
    ),
    Described(
        "histogram",
        "tq_task_run_seconds",
        ("type",),
        "How long an attempt took.",
        _by_name(lambda source: {**source.tallies.run}),
    ),
    Described(
        "counter",
        "tq_tasks_rerun",
        (),
        "Ended tasks that an operator made pending again.",
        _one(lambda source: source.tallies.rerun),
    ),
    Described(
        "counter",
        "tq_tasks_released",
        (),
        "Tasks given back with no attempt burnt.",
        _one(lambda source: source.tallies.released),
    ),
    Described(
        "counter",
        "tq_tasks_pruned",
        (),
        "Ended tasks deleted because their time to be kept was over.",
        _one(lambda source: source.tallies.pruned),
    ),
    Described(
        "counter",
        "tq_leases_expired",
        ("state",),
        "Tasks taken back from dead servers, by what they became.",
        _by_name(lambda source: dict(source.tallies.leases_expired)),
    ),
    Described(
        "counter",
        "tq_leases_refused",
        (),
        "Attempts that ended after their lease was lost.",
        _one(lambda source: source.tallies.leases_refused),
    ),
)

OF_STORE: Final = (
    Described(
        "gauge",
        "tq_tasks",
        ("queue", "state"),
        "Tasks in the store now.",
        lambda source: source.by_queue_and_state(),
    ),
    Described(
        "gauge",
        "tq_oldest_pending_seconds",
        ("queue",),
        "How long the task has waited that has waited longest for a worker; 0: none waits.",
        _by_name(lambda source: {**source.moment.oldest_s}),
    ),
    Described(
        "gauge",
        "tq_queue_paused",
        ("queue",),
        "1 if the queue is paused.",
        _by_name(lambda source: {**source.moment.paused}),
    ),
    Described(
        "counter",
        "tq_store_tasks_submitted",
        (),
        "Tasks stored since the store was made.",
        lambda source: source.moment.submitted,
    ),
    Described(
        "counter",
        "tq_store_tasks_finished",
        ("state",),
        "Tasks ended since the store was made.",
        lambda source: source.moment.finished,
    ),
)
"""What every server that shares the store tells alike: of several, take the maximum and not the sum."""

OF_LEDGER: Final = (
    Described(
        "gauge",
        "tq_storage_up",
        (),
        "1 if the store can be reached.",
        _one(lambda source: float(source.moment.is_storage_up)),
    ),
    Described(
        "counter",
        "tq_storage_outages",
        (),
        "How often the store went away.",
        _one(lambda source: source.tallies.outages),
    ),
    Described(
        "histogram",
        "tq_ledger_batch_ops",
        (),
        "Changes committed in one transaction.",
        _one(lambda source: source.tallies.batch_ops),
    ),
    Described(
        "histogram",
        "tq_ledger_commit_seconds",
        (),
        "How long a transaction took.",
        _one(lambda source: source.tallies.commit_s),
    ),
)

OF_SERVER: Final = (
    Described(
        "counter",
        "tq_schedule_ticks",
        ("result",),
        "Ticks that made a task, came while the last one had not ended, or came too late.",
        _by_name(lambda source: dict(source.tallies.ticks)),
    ),
    Described(
        "histogram",
        "tq_schedule_lag_seconds",
        (),
        "How long after its tick a schedule fired.",
        _one(lambda source: source.tallies.schedule_lag),
    ),
    Described(
        "gauge",
        "tq_workers",
        ("state",),
        "Workers, by what they do.",
        _by_name(lambda source: {**source.moment.workers}),
    ),
    Described(
        "gauge",
        "tq_workers_max",
        (),
        "The most workers there may be.",
        _one(lambda source: source.moment.workers_max),
    ),
    Described(
        "gauge",
        "tq_ready",
        (),
        "1 if the server takes and does work.",
        _one(lambda source: float(source.moment.is_ready)),
    ),
    Described(
        "gauge",
        "tq_watchers",
        (),
        "Who watches events now, over SSE or WebSocket.",
        _one(lambda source: source.moment.watchers),
    ),
    Described(
        "histogram",
        "tq_loop_lag_seconds",
        (),
        "How late the event loop was, looked at every second.",
        _one(lambda source: source.tallies.loop_lag),
    ),
    Described(
        "gauge",
        "tq_build_info",
        ("version", "python"),
        "Always 1; its labels tell what runs.",
        lambda source: [((__version__, platform.python_version()), 1.0)],
    ),
)

OF_HTTP: Final = (
    Described(
        "counter",
        "tq_http_requests",
        ("method", "route", "status"),
        "Requests that are over. No route: nothing was found. Status none: cut before the answer.",
        lambda source: list(source.tallies.requests.items()),
    ),
    Described(
        "histogram",
        "tq_http_request_seconds",
        ("route",),
        "How long requests took, waiting that was asked for included.",
        _by_name(lambda source: {**source.tallies.request_s}),
    ),
    Described(
        "gauge",
        "tq_connections",
        (),
        "Connections there are now.",
        _one(lambda source: source.moment.connections),
    ),
    Described(
        "counter",
        "tq_connections_accepted",
        (),
        "Connections that were given a place.",
        _one(lambda source: source.moment.connections_accepted),
    ),
    Described(
        "counter",
        "tq_connections_refused",
        ("why",),
        "Connections closed at once: too many in all, or from their address.",
        _by_name(lambda source: {**source.moment.connections_refused}),
    ),
    Described(
        "counter",
        "tq_connections_failed",
        (),
        "Connections that ended with an error of tq.",
        _one(lambda source: source.moment.connections_failed),
    ),
)

METRICS: Final = (*OF_TASKS, *OF_STORE, *OF_LEDGER, *OF_SERVER, *OF_HTTP)


def _put_back(source: Source) -> Iterator[Row]:
    """Attempts after which a task waits, and is not retried, by its state."""
    by_state: dict[tuple[str, ...], int] = {}
    for names, state, _, count in source.ends(
        lambda state: state not in FINAL and state is not State.RETRYING
    ):
        key = (*names, state.value)
        by_state[key] = by_state.get(key, 0) + count
    yield from by_state.items()


class _Written:
    """What one server has to tell, as prometheus-client collects it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for metric in METRICS:
            yield metric.family(self._source)


def write(tallies: Tallies, moment: Moment, *, openmetrics: bool) -> bytes:
    """All metrics of one server and of its process, as text. May be called from a thread."""
    # A registry of its own: that of the library belongs to the process, which may have several servers.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Written(Source(tallies, moment)))
    ProcessCollector(registry=registry)
    if not openmetrics:
        return write_text(registry)
    text: bytes = write_openmetrics(registry)  # type: ignore[no-untyped-call]
    return text
