"""Who works in a server: how many workers, the attempts they make, and how much more they may be handed.

It knows counts and instants. It runs nothing and never touches the store.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import count
from typing import Final

import trio

from tq.clock import Clock
from tq.context import CLEANUP_S
from tq.core.task import Lease, Outcome, TaskId
from tq.core.workers import WorkerRange
from tq.engine.bell import Bell
from tq.engine.notes import Notes

HAND_OVER_MS: Final = 50
"""How much work, at the measured rate, may lie in the hand-over channel."""
RECALL_MS: Final = 100
"""A lease that lay in the channel this long was handed over by a wrong guess and goes back."""
SHRINK_AFTER_S: Final = 10.0
"""A worker above the minimum that was not needed for so long is let go."""

_MEAN_WEIGHT: Final = 0.1


class Stop(Enum):
    """Why an attempt's scope was cancelled before its time."""

    USER = "user"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt while it runs. ``concluded``: its end was told already; what comes later is dropped.

    ``started`` and ``stopped`` are monotonic seconds, to be compared with the scope's deadline, which is
    ``limit_ms`` after the start. ``notes`` are there if the handler can tell any.
    """

    lease: Lease
    worker: int
    started_at: int
    started: float
    scope: trio.CancelScope
    limit_ms: int
    is_async: bool = True
    stop: Stop | None = None
    stopped: float | None = None
    concluded: bool = False
    notes: Notes | None = None

    def cancel(self, stop: Stop, *, now: float) -> None:
        """Cancel what runs, with everything it started in its nurseries."""
        if self.stop is None:
            self.stop, self.stopped = stop, now
        self.scope.cancel()

    def is_overdue(self, now: float) -> bool:
        """Whether it had to end, had its time to clean up, and goes on."""
        ends = self.scope.deadline if self.stopped is None else self.stopped
        return not self.concluded and now >= ends + (CLEANUP_S if self.is_async else 0.0)

    def result(self, outcome: Outcome | None, *, ended_at: int) -> Result:
        """*outcome* as what the collector is told; None gives the lease back."""
        return Result(self.lease, self.worker, self.started_at, ended_at, outcome, self.notes)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an attempt; *outcome* None gives the lease back."""

    lease: Lease
    worker: int
    started_at: int
    ended_at: int
    outcome: Outcome | None
    notes: Notes | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """One of the places where attempts run. Idle while it has no ``attempt``, ``since_at`` then.

    ``rest`` is there while it waits for a lease; to cancel it ends the worker.
    """

    number: int
    since_at: int
    attempt: Attempt | None = None
    rest: trio.CancelScope | None = None


class Why(StrEnum):
    """Why the number of workers changed."""

    WORK = "work"
    IDLE = "idle"
    ASKED = "asked"


class Pool:
    """The workers of a server, what they do now, and how much more may be handed to them.

    From ``minimum`` to ``maximum`` ``workers``, by number; ``running`` their attempts; ``handed`` when each
    lease in the channel was put there, oldest first; ``room`` rings when there may be room again,
    ``stirred`` when an attempt begins or the pool is resized, ``noted`` when an attempt can tell something.

    It grows when leases lie in the channel that no worker is free to take. Room is counted for all the
    workers that there could be, so that a claim shows whether work waits. It shrinks by what was not
    needed for SHRINK_AFTER_S, whichever of the workers did the work: leases go round, so under light load
    none of them is idle for long.
    """

    def __init__(self, minimum: int, maximum: int, *, buffer: int, clock: Clock) -> None:
        assert WorkerRange(minimum, maximum).is_allowed
        self.minimum = minimum
        self.maximum = maximum
        self.buffer = buffer
        self.workers: dict[int, Worker] = {}
        self.running: set[Attempt] = set()
        self.handed: deque[float] = deque()
        self.room = Bell()
        self.stirred = Bell()
        self.noted = Bell()
        self.mean_ms: float | None = None
        self.lease_until = math.inf
        """The monotonic time until which the server's right to run tasks is sure: nothing begins after it."""
        self.told: Callable[[Why], None] = lambda why: None
        """Called after the number of workers has changed."""
        self._clock = clock
        self._ahead = 0
        self._expected: dict[TaskId, bool] = {}
        """The tasks whose leases are between their claim and a worker, and whether they are to begin."""
        self._paused: set[str] = set()
        """Queues that were paused here: leases of them may be on their way still."""
        self._start: Callable[[Worker], None] | None = None
        self._needed_at: dict[int, float] = {}
        """When so many workers were last busy or taken on. Those that are busy now are never let go."""

    # What comes

    def expect(self, leases: Sequence[Lease]) -> None:
        """*leases* are on their way to the workers. Their queues are not paused: the claim saw to it."""
        for lease in leases:
            self._expected[lease.task_id] = True
            self._paused.discard(lease.queue)

    def refuse(self, task_id: TaskId) -> None:
        """The task is not to begin, if its lease is on its way."""
        if task_id in self._expected:
            self._expected[task_id] = False

    def refuse_all(self) -> None:
        """Nothing whose lease is on its way is to begin: that was lost."""
        self._expected = dict.fromkeys(self._expected, False)

    def pause(self, queue: str, *, paused: bool) -> None:
        """Nothing of *queue* is to begin, or it is again."""
        if paused:
            self._paused.add(queue)
        else:
            self._paused.discard(queue)

    def is_wanted(self, lease: Lease) -> bool:
        """Whether *lease*, which has arrived, is to begin."""
        is_expected = self._expected.pop(lease.task_id, True)
        return is_expected and lease.queue not in self._paused and self.is_leased

    @property
    def is_leased(self) -> bool:
        """Whether the server may begin what it has leases for."""
        return self.lease_until == math.inf or self._clock.monotonic() < self.lease_until

    # What runs

    def find(self, task_id: TaskId) -> Attempt | None:
        """The attempt at this task that has not been concluded, if one runs here."""
        return next((a for a in self.running if a.lease.task_id == task_id and not a.concluded), None)

    def notes(self) -> list[Notes]:
        """What the attempts tell that run and have not been concluded."""
        return [a.notes for a in self.running if a.notes is not None and not a.concluded]

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing runs and no worker is to be let go, now or later."""
        return not self.running and len(self.workers) <= self.minimum

    def took(self) -> None:
        """A worker took the oldest lease from the channel."""
        self.handed.popleft()
        if not self.handed:
            # With more workers than the channel holds leases, the next claim waits for this.
            self.room.ring()

    def began(self, worker: Worker, attempt: Attempt) -> None:
        """*worker* makes *attempt* now."""
        worker.attempt = attempt
        self.running.add(attempt)
        self.stirred.ring()

    def ended(self, worker: Worker, attempt: Attempt) -> None:
        """*attempt* has ended; *worker* is idle. How long it took tells how much to hand over."""
        now = self._clock.monotonic()
        self._needed_at[len(self.running)] = now
        self.running.discard(attempt)
        worker.attempt, worker.since_at = None, self._clock.now_ms()
        self.measured((now - attempt.started) * 1000)
        if self.is_worth_claiming():
            self.room.ring()

    # How much to hand over

    def room_for(self) -> int:
        """How many leases may be handed over now: as many as workers are or can be free, and some ahead."""
        free = self.maximum - len(self.running)
        return min(free + self._ahead - len(self.handed), self.buffer - len(self.handed))

    def is_worth_claiming(self) -> bool:
        """Whether there is room for enough leases that a claim pays: half of what may lie ahead."""
        return self.room_for() > self._ahead // 2 and self.is_leased

    def measured(self, duration_ms: float) -> None:
        """An attempt took *duration_ms*: the moving mean is what the workers' speed is known by."""
        if self.mean_ms is None:
            self.mean_ms = duration_ms
        else:
            self.mean_ms += _MEAN_WEIGHT * (duration_ms - self.mean_ms)
        self._look_ahead(self.mean_ms)

    def _look_ahead(self, mean_ms: float) -> None:
        """What all workers together get through in HAND_OVER_MS may lie ahead."""
        self._ahead = min(self.buffer, int(self.maximum * HAND_OVER_MS / max(mean_ms, 0.01)))

    def handed_over(self, count: int) -> None:
        """*count* leases were put into the channel: take on workers for those that nobody is free for."""
        now = self._clock.monotonic()
        self.handed.extend([now] * count)
        self._grow(Why.WORK)

    def recalled(self, leases: Sequence[Lease]) -> None:
        """The newest *leases* went back: nothing ahead again until attempts turn out short."""
        for lease in leases:
            self.handed.pop()
            self._expected.pop(lease.task_id, None)
        if leases:
            self.mean_ms = max(self.mean_ms or 0.0, float(self.maximum * HAND_OVER_MS + 1))
            self._look_ahead(self.mean_ms)

    # How many workers there are

    def open(self, start: Callable[[Worker], None]) -> None:
        """Take on the first workers, and all later ones, by *start*."""
        self._start = start
        self._grow(None)

    def resize(self, minimum: int, maximum: int) -> None:
        """Have so many workers from now on.

        Idle ones above the maximum end at once, busy ones with their attempt: nothing is interrupted.
        """
        assert WorkerRange(minimum, maximum).is_allowed
        self.minimum, self.maximum = minimum, maximum
        if self.mean_ms is not None:
            self._look_ahead(self.mean_ms)
        self.shrink(Why.ASKED)
        self._grow(Why.ASKED)
        self.stirred.ring()
        self.room.ring()

    def _grow(self, why: Why | None) -> None:
        taken = len(self.running) + len(self.handed)
        wanted = max(self.minimum, min(self.maximum, taken))
        if self._start is None or len(self.workers) >= wanted:
            return
        while len(self.workers) < wanted:
            number = next(number for number in count(1) if number not in self.workers)
            worker = self.workers[number] = Worker(number, since_at=self._clock.now_ms())
            self._needed_at[len(self.workers)] = self._clock.monotonic()
            self._start(worker)
        if why is not None:
            self.told(why)

    def shrink(self, why: Why = Why.IDLE) -> None:
        """Let go of the idle workers that are above the maximum, or above the minimum and not needed."""
        if self.handed or not self._is_surplus():
            # An idle worker may have been handed a lease that it has not taken yet.
            return
        idle = [worker for worker in self.workers.values() if worker.rest is not None]
        idle.sort(key=lambda worker: worker.number)
        before = len(self.workers)
        while idle and self._is_surplus():
            self._let_go(idle.pop())
        if len(self.workers) < before:
            self.told(why)

    def _is_surplus(self) -> bool:
        size = len(self.workers)
        if size <= self.minimum:
            return False
        return size > self.maximum or self._clock.monotonic() - self._needed_at[size] >= SHRINK_AFTER_S

    def _let_go(self, worker: Worker) -> None:
        del self.workers[worker.number]
        if worker.rest is not None:
            worker.rest.cancel()

    def keeps(self, worker: Worker) -> bool:
        """Whether *worker*, which has no attempt, is to take another lease. If not, it is let go."""
        if len(self.workers) <= self.maximum:
            return True
        self._let_go(worker)
        self.told(Why.ASKED)
        return False

    def left(self, worker: Worker) -> None:
        """*worker* has ended, let go or not. Its number may belong to another by now."""
        if self.workers.get(worker.number) is worker:
            del self.workers[worker.number]
