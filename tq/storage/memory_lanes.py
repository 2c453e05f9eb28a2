"""Which pending task of the reference model is the next, under the rules of its queue.

A lane is a queue, a type and a key. Each lane has a heap of its pending tasks, whose stale entries are
skipped when met; the pick among lanes is made anew for each task, which is slow and obviously right.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from msgspec.structs import replace

from tq.core.limits import DEFAULT_RULES, QUEUES_MAX, Order, QueueRules, Rate, rank
from tq.core.refusals import too_many
from tq.core.task import State, Task, TaskId

Lane: TypeAlias = tuple[str, str, str | None]
"""Queue, type, key."""
Entry: TypeAlias = tuple[tuple[int, int], int, TaskId]
"""Rank, arrival, id."""


def lane_of(task: Task) -> Lane:
    """The lane that *task* is in, all its life."""
    return (task.queue, task.type, task.key)


class Lanes:
    """The pending tasks among *tasks*, whose *arrivals* tell their order, and the rules of queues."""

    def __init__(self, tasks: dict[TaskId, Task], arrivals: dict[TaskId, int]) -> None:
        self._tasks = tasks
        self._arrivals = arrivals
        self._heaps: dict[Lane, list[Entry]] = {}
        self._sizes: Counter[Lane] = Counter()
        self._running: Counter[Lane] = Counter()
        self._served: dict[Lane, int] = {}
        self._turn = 0
        self._tats: dict[tuple[str, str | None], int] = {}
        self.rules: dict[str, QueueRules] = {}

    def copied(self, tasks: dict[TaskId, Task], arrivals: dict[TaskId, int]) -> Lanes:
        """Lanes of their own, of *tasks*, that say the same."""
        twin = Lanes(tasks, arrivals)
        twin._heaps = {lane: list(heap) for lane, heap in self._heaps.items()}
        twin._sizes, twin._running = Counter(self._sizes), Counter(self._running)
        twin._served, twin._turn, twin._tats = dict(self._served), self._turn, dict(self._tats)
        twin.rules = dict(self.rules)
        return twin

    # Keeping up

    def add(self, task: Task) -> None:
        """*task* is pending now."""
        heapq.heappush(self._heaps.setdefault(lane_of(task), []), self._entry(task))

    def count(self, task: Task, change: int) -> None:
        """There is one more, or one less, of *task* as it is."""
        lane = lane_of(task)
        self._sizes[lane] += change
        if task.state is State.RUNNING:
            self._running[lane] += change

    def forget_if_empty(self, lane: Lane) -> None:
        """A lane whose last task is gone has never been."""
        if not self._sizes[lane]:
            for known in (self._sizes, self._running, self._served, self._heaps):
                known.pop(lane, None)

    def set_rules(self, queue: str, **changes: object) -> QueueRules:
        """Change the rules of *queue*. Raises Conflict past QUEUES_MAX."""
        before = self.rules.get(queue, DEFAULT_RULES)
        after = replace(before, **changes)
        if after == DEFAULT_RULES:
            self.rules.pop(queue, None)
        elif queue in self.rules or len(self.rules) < QUEUES_MAX:
            self.rules[queue] = after
        else:
            raise too_many("queues with rules", QUEUES_MAX)
        self._forget_rates(queue, before, after)
        if before.order is not after.order:
            self._sort_anew(queue)
        return after

    def _forget_rates(self, queue: str, before: QueueRules, after: QueueRules) -> None:
        """A rate that is changed begins anew."""
        if before.limits.rate != after.limits.rate:
            self._tats.pop((queue, None), None)
        if before.per_key.rate != after.per_key.rate:
            for name in [name for name in self._tats if name[0] == queue and name[1] is not None]:
                del self._tats[name]

    def _sort_anew(self, queue: str) -> None:
        for lane, heap in self._heaps.items():
            if lane[0] == queue:
                waiting = {entry[2] for entry in heap if self._waits_in(lane, entry[2])}
                heap[:] = sorted(self._entry(self._tasks[task_id]) for task_id in waiting)

    # Picking

    def pick(self, types: tuple[str, ...] | None, now: int) -> Task | None:
        """The next task of *types* that may start, its start counted in turns and rates; or None."""
        first: dict[str, tuple[tuple[int, int, int, int], Entry, Lane]] = {}
        for lane, entry in self._heads(types):
            if self._held_back(lane, now) is None:
                mine = (self._order_in_queue(lane, entry), entry, lane)
                first[lane[0]] = min(first.get(lane[0], mine), mine)
        if not first:
            return None
        _, entry, lane = min(first.values(), key=lambda head: self._order_among_queues(head[1]))
        heapq.heappop(self._heaps[lane])
        self._serve(lane, now)
        return self._tasks[entry[2]]

    def held_back(self, types: tuple[str, ...] | None, now: int) -> tuple[int | None, bool]:
        """When a rate lets the next through, and whether one waits for the end of another."""
        causes = [self._held_back(lane, now) for lane, _ in self._heads(types)]
        # True is equal to 1, which is an instant too.
        instants = [cause for cause in causes if cause is not None and cause is not True]
        return min(instants, default=None), any(cause is True for cause in causes)

    def _heads(self, types: tuple[str, ...] | None) -> Iterator[tuple[Lane, Entry]]:
        """The first task of each lane of *types* whose queue is not paused."""
        for lane in list(self._heaps):
            heap = self._heaps[lane]
            while heap and not self._is_current(heap[0], lane):
                heapq.heappop(heap)
            if heap and (types is None or lane[1] in types) and not self._rules(lane).paused:
                yield lane, heap[0]

    def _held_back(self, lane: Lane, now: int) -> int | bool | None:
        """True: by a limit of concurrency; an instant: by a rate until then; None: by nothing."""
        if self._is_full(lane):
            return True
        instants = [
            rate.allowed_at(self._tats.get(name, 0))
            for name, rate in self._rates(lane)
            if not rate.allowance(self._tats.get(name, 0), now)
        ]
        return max(instants, default=None)

    def _is_full(self, lane: Lane) -> bool:
        queue, _, key = lane
        rules = self._rules(lane)
        cap, key_cap = rules.limits.concurrency, rules.per_key.concurrency
        if (
            cap is not None
            and self._count_running(other for other in self._running if other[0] == queue) >= cap
        ):
            return True
        if key is None or key_cap is None:
            return False
        mine = (other for other in self._running if other[0] == queue and other[2] == key)
        return self._count_running(mine) >= key_cap

    def _count_running(self, lanes: Iterable[Lane]) -> int:
        return sum(self._running[lane] for lane in lanes)

    def _rates(self, lane: Lane) -> Iterator[tuple[tuple[str, str | None], Rate]]:
        queue, _, key = lane
        rules = self._rules(lane)
        if rules.limits.rate is not None:
            yield (queue, None), rules.limits.rate
        if key is not None and rules.per_key.rate is not None:
            yield (queue, key), rules.per_key.rate

    def _serve(self, lane: Lane, now: int) -> None:
        self._turn += 1
        self._served[lane] = self._turn
        for name, rate in self._rates(lane):
            self._tats[name] = rate.after(self._tats.get(name, 0), now, 1)

    def _order_in_queue(self, lane: Lane, entry: Entry) -> tuple[int, int, int, int]:
        (first, second), arrival, _ = entry
        if self._rules(lane).order is Order.AGING:
            return (first, second, arrival, 0)
        served = max((turn for other, turn in self._served.items() if other[::2] == lane[::2]), default=0)
        return (first, served, second, arrival)

    def _order_among_queues(self, entry: Entry) -> tuple[int, int, int]:
        task = self._tasks[entry[2]]
        return (-task.priority, task.run_at, entry[1])

    def _rules(self, lane: Lane) -> QueueRules:
        return self.rules.get(lane[0], DEFAULT_RULES)

    def _entry(self, task: Task) -> Entry:
        order = self._rules(lane_of(task)).order
        return (rank(order, task.priority, task.run_at), self._arrivals[task.id], task.id)

    def _is_current(self, entry: Entry, lane: Lane) -> bool:
        return self._waits_in(lane, entry[2]) and self._entry(self._tasks[entry[2]]) == entry

    def _waits_in(self, lane: Lane, task_id: TaskId) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and task.state is State.PENDING and lane_of(task) == lane
