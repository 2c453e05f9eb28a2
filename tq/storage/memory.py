"""The reference model: plain dicts, obviously right. Other stores must do what this one does.

It keeps nothing across a restart. It serves tests, demonstrations and as the measure of the others.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar, assert_never, cast

from msgspec.structs import replace

from tq.core import ops
from tq.core.errors import DuplicateTask, TqError
from tq.core.ops import AnyOp, LaneCount, Query, Reply, Stats
from tq.core.task import (
    CRASHES_MAX,
    FINAL,
    HISTORY_MAX,
    TIMED,
    Lease,
    Move,
    NewTask,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
    check_move,
    initial_state,
    keep_until,
    server_lost,
)
from tq.storage.store import Snapshot

R = TypeVar("R")


class MemoryStore:
    """Tasks in a dict, in arrival order, and heaps of ids whose stale entries are skipped when met."""

    exclusive = True

    def __init__(self) -> None:
        # Under threads a question may come while a batch is applied.
        self._lock = threading.Lock()
        self._tasks: dict[TaskId, Task] = {}
        self._arrivals: dict[TaskId, int] = {}
        self._arrived = 0
        self._servers: dict[ServerId, int] = {}
        self._lanes: Counter[tuple[str, str, State]] = Counter()
        self._totals: Counter[State] = Counter()
        self._submitted = 0
        self._pending: list[tuple[int, int, int, TaskId]] = []
        self._timed: list[tuple[int, int, TaskId]] = []
        self._kept: list[tuple[int, int, TaskId]] = []

    def apply(self, ops: Sequence[AnyOp], now: int) -> list[Reply | TqError]:
        with self._lock:
            return [self._answer(op, now) for op in ops]

    def _answer(self, op: AnyOp, now: int) -> Reply | TqError:
        try:
            return self._apply_one(op, now)
        except TqError as refusal:
            return refusal

    def _apply_one(self, op: AnyOp, now: int) -> Reply:
        match op:
            case ops.Submit():
                return self._submit(op.task, now)
            case ops.SubmitMany():
                return self._submit_many(op, now)
            case ops.Claim():
                return self._claim(op, now)
            case ops.Finish():
                return self._finish(op, now)
            case ops.Release():
                return self._release(op, now)
            case ops.Cancel():
                return self._cancel(op, now)
            case ops.Retry():
                return self._retry(op, now)
            case ops.Promote():
                return self._promote(op, now)
            case ops.Recover():
                return self._recover(op, now)
            case ops.Prune():
                return self._prune(op, now)
            case ops.Beat():
                return self._beat(op, now)
            case _:
                assert_never(op)

    # Submitting

    def _submit(self, new: NewTask, now: int) -> ops.Submitted:
        known = self._tasks.get(new.id)
        if known is None:
            return self._insert(new, now)
        return ops.answer_known(known.state, known.type, known.payload, new)

    def _submit_many(self, op: ops.SubmitMany, now: int) -> tuple[ops.Submitted, ...]:
        arriving: dict[TaskId, NewTask] = {}
        for index, new in enumerate(op.tasks):
            known = self._tasks.get(new.id) or arriving.setdefault(new.id, new)
            if known is not new:
                try:
                    ops.answer_known(State.PENDING, known.type, known.payload, new)
                except DuplicateTask as refusal:
                    raise DuplicateTask(refusal.message, **refusal.fields, index=index) from None
        return tuple(self._submit(new, now) for new in op.tasks)

    def _insert(self, new: NewTask, now: int) -> ops.Submitted:
        state = initial_state(new.run_at, now)
        task = Task(
            id=new.id,
            type=new.type,
            queue=new.queue,
            state=state,
            reason=None,
            payload=new.payload,
            priority=new.priority,
            attempt=0,
            max_attempts=new.max_attempts,
            crashes=0,
            generation=0,
            timeout_ms=new.timeout_ms,
            retry=new.retry,
            result_ttl_ms=new.result_ttl_ms,
            created_at=now,
            run_at=new.run_at,
            started_at=None,
            finished_at=None,
            worker=None,
            server=None,
            cancel_reason=None,
            result=None,
            errors=(),
        )
        self._arrived += 1
        self._arrivals[task.id] = self._arrived
        self._submitted += 1
        self._tasks[task.id] = task
        self._count(task, +1)
        self._enqueue(task)
        return ops.Submitted(task.id, state)

    # The life of a task

    def _claim(self, op: ops.Claim, now: int) -> tuple[Lease, ...]:
        leases: list[Lease] = []
        passed_over: list[tuple[int, int, int, TaskId]] = []
        while self._pending and len(leases) < op.limit:
            entry = heapq.heappop(self._pending)
            task = self._tasks.get(entry[3])
            if task is None or self._pending_entry(task) != entry or task.state is not State.PENDING:
                continue
            if op.types is not None and task.type not in op.types:
                passed_over.append(entry)
                continue
            leases.append(self._lease(task, op.server, now))
        for entry in passed_over:
            heapq.heappush(self._pending, entry)
        return tuple(leases)

    def _lease(self, task: Task, server: ServerId, now: int) -> Lease:
        check_move(task.id, task.state, Move.CLAIM, State.RUNNING)
        task = self._change(
            task,
            state=State.RUNNING,
            attempt=task.attempt + 1,
            generation=task.generation + 1,
            started_at=now,
            server=server,
        )
        return Lease(
            task_id=task.id,
            generation=task.generation,
            type=task.type,
            queue=task.queue,
            payload=task.payload,
            attempt=task.attempt,
            max_attempts=task.max_attempts,
            timeout_ms=task.timeout_ms,
            retry=task.retry,
            result_ttl_ms=task.result_ttl_ms,
            created_at=task.created_at,
            run_at=task.run_at,
            claimed_at=now,
        )

    def _leased(self, task_id: TaskId, generation: int) -> Task:
        task = self._known(task_id)
        if task.state is not State.RUNNING or task.generation != generation:
            raise ops.lease_lost(task_id, generation)
        return task

    def _finish(self, op: ops.Finish, now: int) -> ops.Finished:
        task = self._leased(op.task_id, op.generation)
        state, reason, result = op.state, op.reason, op.result
        if task.cancel_reason is not None:
            state, reason, result = State.CANCELLED, task.cancel_reason, None
        check_move(task.id, task.state, Move.FINISH, state)
        errors = task.errors if op.error is None else (*task.errors, op.error)[-HISTORY_MAX:]
        attempt = task.attempt if op.burns else task.attempt - 1
        if state in FINAL:
            self._end(
                task,
                now,
                state=state,
                reason=reason,
                result=result,
                errors=errors,
                attempt=attempt,
                started_at=op.started_at,
                worker=op.worker,
            )
        else:
            assert op.run_at is not None
            self._wait(task, state=state, reason=reason, errors=errors, attempt=attempt, run_at=op.run_at)
        return ops.Finished(state)

    def _release(self, op: ops.Release, now: int) -> ops.Released:
        task = self._leased(op.task_id, op.generation)
        return ops.Released(self._give_back(task, Move.RELEASE, now))

    def _give_back(self, task: Task, move: Move, now: int, **changes: object) -> State:
        """A running task that nobody runs any more: pending again, or cancelled if that was asked."""
        attempt = task.attempt - 1
        if task.cancel_reason is not None:
            check_move(task.id, task.state, move, State.CANCELLED)
            self._end(task, now, state=State.CANCELLED, reason=task.cancel_reason, attempt=attempt, **changes)
            return State.CANCELLED
        check_move(task.id, task.state, move, State.PENDING)
        self._wait(task, state=State.PENDING, attempt=attempt, **changes)
        return State.PENDING

    def _cancel(self, op: ops.Cancel, now: int) -> ops.CancelReply:
        task = self._known(op.task_id)
        if task.state is State.RUNNING:
            if task.cancel_reason is None:
                self._change(task, cancel_reason=op.reason)
            return ops.CancelReply(State.RUNNING)
        check_move(task.id, task.state, Move.CANCEL, State.CANCELLED)
        self._end(task, now, state=State.CANCELLED, reason=op.reason)
        return ops.CancelReply(State.CANCELLED)

    def _retry(self, op: ops.Retry, now: int) -> ops.Retried:
        task = self._known(op.task_id)
        check_move(task.id, task.state, Move.RETRY, State.PENDING)
        self._wait(
            task,
            state=State.PENDING,
            reason=None,
            attempt=0,
            crashes=0,
            run_at=now,
            result=None,
            finished_at=None,
        )
        return ops.Retried(State.PENDING)

    # Sweeping

    def _promote(self, op: ops.Promote, now: int) -> ops.Swept:
        count = 0
        while self._due(now):
            if count == op.limit:
                return ops.Swept(count, more=True)
            task = self._tasks[heapq.heappop(self._timed)[2]]
            check_move(task.id, task.state, Move.PROMOTE, State.PENDING)
            self._wait(task, state=State.PENDING)
            count += 1
        return ops.Swept(count)

    def _due(self, now: int) -> bool:
        earliest = self._next_due()
        return earliest is not None and earliest <= now

    def _recover(self, op: ops.Recover, now: int) -> ops.Recovered:
        running = [task for task in self._tasks.values() if task.state is State.RUNNING]
        lost = [task for task in running if self._is_lost(task, op)]
        fates = Counter(self._recover_one(task, now) for task in lost[: op.limit])
        for server in [s for s, seen in self._servers.items() if seen < op.dead_before and s != op.server]:
            if len(lost) <= op.limit:
                del self._servers[server]
        return ops.Recovered(
            pending=fates[State.PENDING],
            failed=fates[State.FAILED],
            cancelled=fates[State.CANCELLED],
            more=len(lost) > op.limit,
        )

    def _is_lost(self, task: Task, op: ops.Recover) -> bool:
        assert task.server is not None
        seen = self._servers.get(task.server)
        return task.server != op.server and (seen is None or seen < op.dead_before)

    def _recover_one(self, task: Task, now: int) -> State:
        crashes = task.crashes + 1
        errors = (*task.errors, server_lost(task.attempt, now))[-HISTORY_MAX:]
        if crashes < CRASHES_MAX or task.cancel_reason is not None:
            return self._give_back(task, Move.RECOVER, now, crashes=crashes, errors=errors)
        check_move(task.id, task.state, Move.RECOVER, State.FAILED)
        self._end(
            task,
            now,
            state=State.FAILED,
            reason=Reason.POISON,
            attempt=task.attempt - 1,
            crashes=crashes,
            errors=errors,
        )
        return State.FAILED

    def _prune(self, op: ops.Prune, now: int) -> ops.Swept:
        count = 0
        while self._kept and self._kept[0][0] <= now:
            task = self._tasks.get(self._kept[0][2])
            if task is None or self._kept_entry(task) != self._kept[0]:
                heapq.heappop(self._kept)
                continue
            if count == op.limit:
                return ops.Swept(count, more=True)
            heapq.heappop(self._kept)
            self._count(task, -1)
            del self._tasks[task.id], self._arrivals[task.id]
            count += 1
        return ops.Swept(count)

    def _beat(self, op: ops.Beat, now: int) -> ops.Beaten:
        if op.gone:
            self._servers.pop(op.server, None)
        else:
            self._servers[op.server] = now
        return ops.Beaten()

    # Rows, heaps and counters

    def _known(self, task_id: TaskId) -> Task:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise ops.no_such_task(task_id) from None

    def _change(self, task: Task, **changes: object) -> Task:
        changed = replace(task, **changes)
        self._count(task, -1)
        self._count(changed, +1)
        self._tasks[task.id] = changed
        return changed

    def _wait(self, task: Task, **changes: object) -> None:
        """Put *task* into a state that waits: nobody runs it."""
        idle = {"started_at": None, "worker": None, "server": None, "cancel_reason": None}
        self._enqueue(self._change(task, **idle, **changes))

    def _end(self, task: Task, now: int, **changes: object) -> None:
        """Put *task* into a final state at *now*."""
        ended = self._change(task, finished_at=now, cancel_reason=None, **changes)
        self._totals[ended.state] += 1
        entry = self._kept_entry(ended)
        assert entry is not None
        heapq.heappush(self._kept, entry)

    def _enqueue(self, task: Task) -> None:
        if task.state is State.PENDING:
            heapq.heappush(self._pending, self._pending_entry(task))
        elif task.state in TIMED:
            heapq.heappush(self._timed, self._timed_entry(task))

    def _pending_entry(self, task: Task) -> tuple[int, int, int, TaskId]:
        return (-task.priority, task.run_at, self._arrivals[task.id], task.id)

    def _timed_entry(self, task: Task) -> tuple[int, int, TaskId]:
        return (task.run_at, self._arrivals[task.id], task.id)

    def _kept_entry(self, task: Task) -> tuple[int, int, TaskId] | None:
        if task.state not in FINAL:
            return None
        assert task.finished_at is not None
        until = keep_until(task.state, task.result_ttl_ms, task.finished_at)
        return (until, self._arrivals[task.id], task.id)

    def _count(self, task: Task, change: int) -> None:
        lane = (task.queue, task.type, task.state)
        self._lanes[lane] += change
        if not self._lanes[lane]:
            del self._lanes[lane]

    # Reading

    def read(self, query: Query[R]) -> R:
        with self._lock:
            return self._read(query)

    def _read(self, query: Query[R]) -> R:
        match query:
            case ops.GetTask(task_id=task_id):
                answer: object = self._tasks.get(task_id)
            case ops.GetStats():
                answer = self._stats()
            case ops.NextDue():
                answer = self._next_due()
            case _:
                raise TypeError(f"not a query: {query!r}")
        return cast(R, answer)

    def _stats(self) -> Stats:
        lanes = (LaneCount(*lane, count) for lane, count in self._lanes.items())
        return Stats(
            lanes=tuple(sorted(lanes)),
            submitted=self._submitted,
            succeeded=self._totals[State.SUCCEEDED],
            failed=self._totals[State.FAILED],
            cancelled=self._totals[State.CANCELLED],
        )

    def _next_due(self) -> int | None:
        while self._timed:
            task = self._tasks.get(self._timed[0][2])
            if task is not None and task.state in TIMED and self._timed_entry(task) == self._timed[0]:
                return self._timed[0][0]
            heapq.heappop(self._timed)
        return None

    def snapshot(self) -> Snapshot:
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            tasks=tuple(self._tasks.values()),
            stats=self._stats(),
            servers=tuple(sorted(self._servers.items())),
        )

    def close(self) -> None:
        pass
