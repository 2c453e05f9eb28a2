"""What the reference model keeps: dicts, heaps and counters, and the few ways in which they change."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from copy import copy
from itertools import chain

from msgspec.structs import replace

from tq.core import refusals
from tq.core.ops import RequestKey
from tq.core.queries import LaneCount, Stats
from tq.core.task import (
    FINAL,
    TIMED,
    WAITING,
    State,
    Task,
    TaskId,
    holds_unique,
    keep_until,
    unique_name,
)
from tq.storage.memory_lanes import Lanes, lane_of
from tq.storage.memory_schedules import Schedules


class Rows:
    """Tasks in a dict, in arrival order, and heaps of ids whose stale entries are skipped when met.

    ``edges`` has, of a task that has not been settled, those that wait for it, by arrival; ``watched`` the
    tasks that others ever depended on or had for a parent; ``unsettled`` the tasks for Settle, and whether
    their children are concerned.
    """

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.arrivals: dict[TaskId, int] = {}
        self.arrived = 0
        self.counts: Counter[tuple[str, str, State]] = Counter()
        self.totals: Counter[State] = Counter()
        self.submitted = 0
        self.lanes = Lanes(self.tasks, self.arrivals)
        self.timed: list[tuple[int, int, TaskId]] = []
        self.stops: list[tuple[int, int, TaskId]] = []
        self.kept: list[tuple[int, int, TaskId]] = []
        self.holders: dict[str, TaskId] = {}
        self.requests: dict[str, tuple[RequestKey, TaskId, int]] = {}
        self.edges: dict[TaskId, list[TaskId]] = {}
        self.watched: set[TaskId] = set()
        self.unsettled: dict[TaskId, bool] = {}
        self.schedules = Schedules()

    def copied(self) -> Rows:
        """Rows of their own that say the same."""
        twin = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | list | set):
                setattr(twin, name, copy(value))
        twin.edges = {task_id: list(waiting) for task_id, waiting in self.edges.items()}
        twin.lanes = self.lanes.copied(twin.tasks, twin.arrivals)
        # A batch of submits does not touch schedules.
        return twin

    def known(self, task_id: TaskId) -> Task:
        """The task of this id. Raises NotFound."""
        try:
            return self.tasks[task_id]
        except KeyError:
            raise refusals.no_such_task(task_id) from None

    def change(self, task: Task, **changes: object) -> Task:
        """*task* with *changes*, counted."""
        changed = replace(task, **changes)
        self.count(task, -1)
        self.count(changed, +1)
        self.tasks[task.id] = changed
        self.hold(changed)
        return changed

    def hold(self, task: Task) -> None:
        """Take the unique key of *task* if it is free and the task keeps others out; else let it go."""
        unique = task.options.unique
        if unique is None:
            return
        name = unique_name(task.type, unique)
        if holds_unique(task.state, unique):
            self.holders.setdefault(name, task.id)
        elif self.holders.get(name) == task.id:
            del self.holders[name]

    def wait(self, task: Task, **changes: object) -> None:
        """Put *task* into a state that waits: nobody runs it."""
        idle = {"started_at": None, "worker": None, "server": None, "cancel_reason": None}
        self.enqueue(self.change(task, **idle, **changes))

    def end(self, task: Task, now: int, *, cascade: bool = True, **changes: object) -> None:
        """Put *task* into a final state at *now*; with *cascade*, its children hear if that is cancelled."""
        ended = self.change(task, finished_at=now, cancel_reason=None, **changes)
        self.totals[ended.state] += 1
        entry = self.kept_entry(ended)
        assert entry is not None
        heapq.heappush(self.kept, entry)
        self.unsettle(ended.id, cascade=cascade and ended.state is State.CANCELLED)

    def unsettle(self, task_id: TaskId, *, cascade: bool) -> None:
        """Leave *task_id* to Settle, if others may have to hear of it."""
        if task_id in self.watched:
            self.unsettled[task_id] = cascade or self.unsettled.get(task_id, False)

    def enqueue(self, task: Task) -> None:
        """Put *task* where it is found when its time comes."""
        if task.state is State.PENDING:
            self.lanes.add(task)
        elif task.state in TIMED:
            heapq.heappush(self.timed, self._timed_entry(task))
        if task.options.stop_at is not None:
            heapq.heappush(self.stops, self._stop_entry(task))

    def _timed_entry(self, task: Task) -> tuple[int, int, TaskId]:
        return (task.run_at, self.arrivals[task.id], task.id)

    def _stop_entry(self, task: Task) -> tuple[int, int, TaskId]:
        assert task.options.stop_at is not None
        return (task.options.stop_at, self.arrivals[task.id], task.id)

    def kept_entry(self, task: Task) -> tuple[int, int, TaskId] | None:
        """The entry of a final task among those kept."""
        if task.state not in FINAL:
            return None
        assert task.finished_at is not None
        until = keep_until(task.state, task.result_ttl_ms, task.finished_at)
        return (until, self.arrivals[task.id], task.id)

    def kept_until(self) -> Iterator[int]:
        """The instants at which something has been kept long enough: final tasks, and idempotency keys."""
        tasks = (entry[0] for entry in map(self.kept_entry, self.tasks.values()) if entry is not None)
        return chain(tasks, (until for *_, until in self.requests.values()))

    def count(self, task: Task, change: int) -> None:
        """There is one more, or one less, of *task* as it is."""
        name = (task.queue, task.type, task.state)
        self.counts[name] += change
        if not self.counts[name]:
            del self.counts[name]
        self.lanes.count(task, change)

    def next_timed(self) -> int | None:
        """The earliest run_at of a scheduled or retrying task."""
        while self.timed:
            task = self.tasks.get(self.timed[0][2])
            if task is not None and task.state in TIMED and self._timed_entry(task) == self.timed[0]:
                return self.timed[0][0]
            heapq.heappop(self.timed)
        return None

    def next_stop(self) -> int | None:
        """The earliest instant at which a task may not wait any more."""
        while self.stops:
            task = self.tasks.get(self.stops[0][2])
            is_waiting = task is not None and task.state in WAITING and task.options.stop_at is not None
            if task is not None and is_waiting and self._stop_entry(task) == self.stops[0]:
                return self.stops[0][0]
            heapq.heappop(self.stops)
        return None

    def forget(self, task: Task) -> None:
        """Delete *task* and all that is known of it."""
        for depended_on in set(task.options.depends_on):
            waiting = self.edges.get(depended_on, [])
            if task.id in waiting:
                waiting.remove(task.id)
        self.edges.pop(task.id, None)
        self.watched.discard(task.id)
        self.count(task, -1)
        self.lanes.forget_if_empty(lane_of(task))
        del self.tasks[task.id], self.arrivals[task.id]

    def stats(self) -> Stats:
        """See GetStats."""
        lanes = (LaneCount(*name, count) for name, count in self.counts.items())
        return Stats(
            lanes=tuple(sorted(lanes)),
            submitted=self.submitted,
            succeeded=self.totals[State.SUCCEEDED],
            failed=self.totals[State.FAILED],
            cancelled=self.totals[State.CANCELLED],
        )
