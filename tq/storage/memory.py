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

from tq.core import ops, queries, refusals
from tq.core.errors import DuplicateTask, TqError
from tq.core.ops import AnyOp, Change, Reply
from tq.core.queries import Query
from tq.core.task import (
    CRASHES_MAX,
    FINAL,
    HISTORY_MAX,
    LOG_LINES_MAX,
    AttemptError,
    Lease,
    Move,
    OnFailure,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
    check_move,
    deadline_passed,
    expiry,
    fingerprint,
    initial_state,
    server_lost,
    unique_name,
)
from tq.storage.memory_fleet import Fleet
from tq.storage.memory_keys import Keys
from tq.storage.memory_lists import failure_groups, oldest_pending, page
from tq.storage.memory_rows import Rows
from tq.storage.memory_submit import submit, submit_many
from tq.storage.store import Snapshot, Wake, WriteLetter

R = TypeVar("R")


class MemoryStore:
    """The moves of tasks on Rows.

    Args:
        exclusive: False lets many servers of this process share it.
    """

    def __init__(self, *, exclusive: bool = True) -> None:
        self.exclusive = exclusive
        self.judged_at: int | None = None
        # Under threads a question may come while a batch is applied.
        self._lock = threading.Lock()
        self._rows = Rows()
        self._fleet = Fleet()
        self._keys = Keys()

    @property
    def unsettled(self) -> bool:
        """Whether there is something for Settle."""
        return bool(self._rows.unsettled)

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        with self._lock:
            replies = [self._answer(op, now) for op in ops]
            letter = None if news is None else news(replies)
            if letter is not None:
                self._fleet.keep(letter, now)
            return replies

    def _answer(self, op: AnyOp, now: int) -> Reply | TqError:
        try:
            return self._apply_one(op, now)
        except TqError as refusal:
            return refusal

    def _apply_one(self, op: AnyOp, now: int) -> Reply:
        match op:
            case ops.Submit():
                return submit(self._rows, op.task, now, op.request)
            case ops.SubmitMany():
                self._rows, replies = submit_many(self._rows, op.tasks, now)
                return replies
            case ops.Claim():
                return self._claim(op, now)
            case ops.Finish():
                return self._finish(op, now)
            case ops.Crash():
                task = self._leased(op.task_id, op.generation)
                return ops.Finished(self._crashed(task, op.error, Move.RECOVER, now), task.cancel_reason)
            case ops.Release():
                task = self._leased(op.task_id, op.generation)
                return ops.Released(self._give_back(task, Move.RELEASE, now))
            case ops.Note():
                return self._note(op)
            case ops.Cancel():
                return self._cancel(op, now)
            case ops.Retry():
                return self._retry(op, now)
            case ops.Update():
                return self._update(op, now)
            case ops.Delete():
                return self._delete(op)
            case _:
                return self._apply_other(op, now)

    def _apply_other(
        self,
        op: ops.Promote
        | ops.Expire
        | ops.Settle
        | ops.Recover
        | ops.Prune
        | ops.Beat
        | ops.Lead
        | ops.PruneLetters
        | ops.Announce
        | ops.SetQueue
        | ops.PauseQueue
        | ops.PutSchedule
        | ops.DeleteSchedule
        | ops.PauseSchedule
        | ops.Fire
        | ops.PutKey
        | ops.RevokeKey,
        now: int,
    ) -> Reply:
        match op:
            case ops.Promote():
                return self._promote(op, now)
            case ops.Expire():
                return self._expire(op, now)
            case ops.Settle():
                return self._settle(op, now)
            case ops.Recover():
                return self._recover(op, now)
            case ops.Prune():
                return self._prune(op, now)
            case ops.Beat():
                return self._fleet.beat(op, now)
            case ops.Lead():
                return self._fleet.lead(op, now)
            case ops.PruneLetters():
                return self._fleet.prune(op, now)
            case ops.Announce():
                return ops.Announced()
            case ops.SetQueue():
                return self._rows.lanes.set_rules(
                    op.queue, order=op.order, limits=op.limits, per_key=op.per_key
                )
            case ops.PauseQueue():
                return self._rows.lanes.set_rules(op.queue, paused=op.paused)
            case ops.PutSchedule():
                return self._rows.schedules.put(op, now)
            case ops.DeleteSchedule():
                return self._rows.schedules.delete(op.name)
            case ops.PauseSchedule():
                return self._rows.schedules.pause(op, now)
            case ops.Fire():
                return self._fire(op, now)
            case ops.PutKey():
                return self._keys.put(op, now)
            case ops.RevokeKey():
                return self._keys.revoke(op, now)
            case _:
                assert_never(op)

    # The life of a task

    def _claim(self, op: ops.Claim, now: int) -> ops.Claimed:
        leases: list[Lease] = []
        while len(leases) < op.limit:
            task = self._rows.lanes.pick(op.types, now)
            if task is None:
                break
            leases.append(self._lease(task, op.server, now))
        again_at, is_capped = self._rows.lanes.held_back(op.types, now)
        return ops.Claimed(tuple(leases), again_at, is_capped)

    def _lease(self, task: Task, server: ServerId, now: int) -> Lease:
        check_move(task.id, task.state, Move.CLAIM, State.RUNNING)
        task = self._rows.change(
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
            key=task.key,
            options=task.options,
        )

    def _leased(self, task_id: TaskId, generation: int) -> Task:
        task = self._rows.known(task_id)
        if task.state is not State.RUNNING or task.generation != generation:
            raise refusals.lease_lost(task_id, generation)
        return task

    def _finish(self, op: ops.Finish, now: int) -> ops.Finished:
        task = self._leased(op.task_id, op.generation)
        state, reason, result = op.state, op.reason, op.result
        is_asked = task.cancel_reason is not None
        if is_asked:
            state, reason, result = State.CANCELLED, task.cancel_reason, None
        check_move(task.id, task.state, Move.FINISH, state)
        errors = task.errors if op.error is None else (*task.errors, op.error)[-HISTORY_MAX:]
        attempt = task.attempt if op.burns else task.attempt - 1
        if state in FINAL:
            self._rows.end(
                task,
                now,
                # Its children heard of it when it was asked, if they were to.
                cascade=not is_asked,
                fingerprint=fingerprint(task.type, op.error) if state is State.FAILED else None,
                state=state,
                reason=reason,
                result=result,
                errors=errors,
                attempt=attempt,
                started_at=op.started_at,
                worker=op.worker,
                server=None if op.started_at is None else task.server,
            )
        else:
            assert op.run_at is not None
            self._rows.wait(
                task, state=state, reason=reason, errors=errors, attempt=attempt, run_at=op.run_at
            )
        return ops.Finished(state, task.cancel_reason)

    def _give_back(self, task: Task, move: Move, now: int, **changes: object) -> State:
        """A running task that nobody runs any more: pending again, or cancelled if that was asked."""
        attempt = task.attempt - 1
        if task.cancel_reason is not None:
            check_move(task.id, task.state, move, State.CANCELLED)
            self._rows.end(
                task,
                now,
                cascade=False,
                state=State.CANCELLED,
                reason=task.cancel_reason,
                attempt=attempt,
                started_at=None,
                server=None,
                **changes,
            )
            return State.CANCELLED
        check_move(task.id, task.state, move, State.PENDING)
        self._rows.wait(task, state=State.PENDING, attempt=attempt, **changes)
        return State.PENDING

    def _crashed(self, task: Task, error: AttemptError, move: Move, now: int) -> State:
        """The attempt at a running task died with what ran it."""
        crashes = task.crashes + 1
        errors = (*task.errors, error)[-HISTORY_MAX:]
        if crashes < CRASHES_MAX or task.cancel_reason is not None:
            return self._give_back(task, move, now, crashes=crashes, errors=errors)
        check_move(task.id, task.state, move, State.FAILED)
        self._rows.end(
            task,
            now,
            fingerprint=fingerprint(task.type, error),
            state=State.FAILED,
            reason=Reason.POISON,
            attempt=task.attempt - 1,
            crashes=crashes,
            errors=errors,
        )
        return State.FAILED

    def _note(self, op: ops.Note) -> ops.Noted:
        task = self._leased(op.task_id, op.generation)
        logs = (*task.logs, *op.lines)[-LOG_LINES_MAX:]
        self._rows.change(task, progress=op.progress or task.progress, logs=logs)
        return ops.Noted()

    def _cancel(self, op: ops.Cancel, now: int) -> ops.CancelReply:
        task = self._rows.known(op.task_id)
        if task.state is State.RUNNING:
            self._ask_to_stop(task, op.reason, cascade=op.cascade)
            return ops.CancelReply(State.RUNNING)
        check_move(task.id, task.state, Move.CANCEL, State.CANCELLED)
        self._rows.end(task, now, cascade=op.cascade, state=State.CANCELLED, reason=op.reason)
        return ops.CancelReply(State.CANCELLED)

    def _ask_to_stop(self, task: Task, reason: Reason, *, cascade: bool) -> None:
        if task.cancel_reason is None:
            self._rows.change(task, cancel_reason=reason)
        if cascade:
            self._rows.unsettle(task.id, cascade=True)

    def _retry(self, op: ops.Retry, now: int) -> ops.Retried:
        task = self._rows.known(op.task_id)
        check_move(task.id, task.state, Move.RETRY, State.PENDING)
        unique = task.options.unique
        holder = None if unique is None else self._rows.holders.get(unique_name(task.type, unique))
        if holder is not None:
            raise refusals.unique_taken_meanwhile(task.id, holder)
        self._rows.wait(
            task,
            state=State.PENDING,
            reason=None,
            attempt=0,
            crashes=0,
            blockers=0,
            run_at=now,
            result=None,
            finished_at=None,
            fingerprint=None,
            options=replace(task.options, deadline_at=None, expires_at=None),
        )
        return ops.Retried(State.PENDING)

    def _update(self, op: ops.Update, now: int) -> ops.Updated:
        task = self._rows.known(op.task_id)
        is_put_off = task.state is State.PENDING and op.run_at is not None and op.run_at > now
        state = State.SCHEDULED if is_put_off else task.state
        check_move(task.id, task.state, Move.UPDATE, state)
        plain = ("priority", "run_at", "timeout_ms", "max_attempts", "result_ttl_ms")
        given = {name: value for name in plain if (value := getattr(op, name)) is not None}
        times = {
            name: value for name in ("deadline_at", "expires_at") if (value := getattr(op, name)) is not None
        }
        task = self._rows.change(task, state=state, options=replace(task.options, **times), **given)
        self._rows.enqueue(task)
        return ops.Updated(state, task.run_at, task.options.stop_at)

    def _delete(self, op: ops.Delete) -> ops.Deleted:
        task = self._rows.known(op.task_id)
        refusals.check_deletable(task.id, task.state, is_settled=task.id not in self._rows.unsettled)
        self._rows.forget(task)
        return ops.Deleted()

    # Sweeping

    def _promote(self, op: ops.Promote, now: int) -> ops.Swept:
        count = 0
        while self._due(now):
            if count == op.limit:
                return ops.Swept(count, more=True)
            task = self._rows.tasks[heapq.heappop(self._rows.timed)[2]]
            check_move(task.id, task.state, Move.PROMOTE, State.PENDING)
            self._rows.wait(task, state=State.PENDING)
            count += 1
        return ops.Swept(count)

    def _due(self, now: int) -> bool:
        earliest = self._rows.next_timed()
        return earliest is not None and earliest <= now

    def _expire(self, op: ops.Expire, now: int) -> ops.Changed:
        changes: list[Change] = []
        while (earliest := self._rows.next_stop()) is not None and earliest <= now:
            if len(changes) == op.limit:
                return ops.Changed(tuple(changes), more=True)
            task = self._rows.tasks[heapq.heappop(self._rows.stops)[2]]
            fate = expiry(task.options, now)
            check_move(task.id, task.state, Move.EXPIRE, fate.state)
            error = deadline_passed(task.attempt, now) if fate.state is State.FAILED else None
            errors = task.errors if error is None else (*task.errors, error)[-HISTORY_MAX:]
            self._rows.end(
                task,
                now,
                fingerprint=fingerprint(task.type, error),
                state=fate.state,
                reason=fate.reason,
                errors=errors,
            )
            changes.append(Change(task.id, fate.state))
        return ops.Changed(tuple(changes))

    def _settle(self, op: ops.Settle, now: int) -> ops.Changed:
        changes: list[Change] = []
        told = 0
        while self._rows.unsettled:
            task = self._rows.tasks[min(self._rows.unsettled, key=self._rows.arrivals.__getitem__)]
            if task.state in FINAL:
                for other in self._rows.edges.get(task.id, [])[: op.limit - told]:
                    told += 1
                    changes += self._tell_dependent(self._rows.tasks[other], task, now)
            if self._rows.unsettled[task.id]:
                for child in self._children_to_stop(task.id)[: op.limit - told]:
                    told += 1
                    changes += self._tell_child(child, now)
            if told == op.limit:
                return ops.Changed(tuple(changes), more=True)
            del self._rows.unsettled[task.id]
        return ops.Changed(tuple(changes))

    def _children_to_stop(self, parent_id: TaskId) -> list[Task]:
        return [
            task
            for task in self._rows.tasks.values()
            if task.options.parent_id == parent_id and task.state not in FINAL and task.cancel_reason is None
        ]

    def _tell_child(self, child: Task, now: int) -> list[Change]:
        if child.state is State.RUNNING:
            self._ask_to_stop(child, Reason.PARENT, cascade=True)
            return [Change(child.id, State.RUNNING)]
        check_move(child.id, child.state, Move.CANCEL, State.CANCELLED)
        self._rows.end(child, now, state=State.CANCELLED, reason=Reason.PARENT)
        return [Change(child.id, State.CANCELLED)]

    def _tell_dependent(self, task: Task, ended: Task, now: int) -> list[Change]:
        self._rows.edges[ended.id].remove(task.id)
        if task.state is not State.BLOCKED:
            return []
        if ended.state is not State.SUCCEEDED and task.options.on_dependency_failure is OnFailure.CANCEL:
            check_move(task.id, task.state, Move.CANCEL, State.CANCELLED)
            self._rows.end(task, now, state=State.CANCELLED, reason=Reason.DEPENDENCY)
            return [Change(task.id, State.CANCELLED)]
        if task.blockers > 1:
            self._rows.change(task, blockers=task.blockers - 1)
            return []
        state = initial_state(task.run_at, now)
        check_move(task.id, task.state, Move.PROMOTE, state)
        self._rows.wait(task, state=state, blockers=0)
        return [Change(task.id, state)]

    def _recover(self, op: ops.Recover, now: int) -> ops.Recovered:
        lost = self._fleet.lost(self._rows.tasks.values(), op)
        fates = Counter(
            self._crashed(task, server_lost(task.attempt, now), Move.RECOVER, now)
            for task in lost[: op.limit]
        )
        if len(lost) <= op.limit:
            self._fleet.forget_dead(op)
        return ops.Recovered(
            pending=fates[State.PENDING],
            failed=fates[State.FAILED],
            cancelled=fates[State.CANCELLED],
            more=len(lost) > op.limit,
        )

    def _prune(self, op: ops.Prune, now: int) -> ops.Swept:
        for key in [key for key, (_, _, until) in self._rows.requests.items() if until <= now]:
            del self._rows.requests[key]
        count, more = 0, False
        passed_over: list[tuple[int, int, TaskId]] = []
        while self._rows.kept and self._rows.kept[0][0] <= now and not more:
            entry = self._rows.kept[0]
            task = self._rows.tasks.get(entry[2])
            is_current = task is not None and self._rows.kept_entry(task) == entry
            if task is not None and is_current and task.id not in self._rows.unsettled:
                if count == op.limit:
                    more = True
                    break
                self._rows.forget(task)
                count += 1
            elif is_current:
                passed_over.append(entry)
            heapq.heappop(self._rows.kept)
        for entry in passed_over:
            heapq.heappush(self._rows.kept, entry)
        return ops.Swept(count, more)

    def _fire(self, op: ops.Fire, now: int) -> ops.Fired:
        schedule = self._rows.schedules.to_fire(op)
        last = self._rows.tasks.get(schedule.last_task_id) if schedule.last_task_id is not None else None
        overlapped = op.task is not None and not op.overlap and last is not None and last.state not in FINAL
        submitted = None
        if op.task is not None and not overlapped:
            try:
                submitted = submit(self._rows, op.task, now)
            except DuplicateTask:
                overlapped = True
        self._rows.schedules.fired(op, submitted.task_id if submitted else None, overlapped=overlapped)
        return ops.Fired(submitted)

    # Reading

    def read(self, query: Query[R]) -> R:
        with self._lock:
            return self._read(query)

    def _read(self, query: Query[R]) -> R:
        match query:
            case queries.GetTask(task_id=task_id):
                answer: object = self._rows.tasks.get(task_id)
            case queries.ListTasks():
                answer = page(query, reversed(self._rows.tasks.values()), self._rows.arrivals)
            case queries.GetFailureGroups(limit=limit):
                answer = failure_groups(self._rows.tasks.values(), limit)
            case queries.GetStats():
                answer = self._rows.stats()
            case queries.OldestPending():
                answer = oldest_pending(self._rows.tasks.values())
            case queries.GetQueues():
                answer = tuple(sorted(self._rows.lanes.rules.items()))
            case queries.GetSchedules(after=after, limit=limit):
                answer = tuple(each for each in self._rows.schedules.listed() if each.name > after)[:limit]
            case queries.GetSchedule(name=name):
                answer = self._rows.schedules.get(name)
            case queries.DueSchedules(now=now, limit=limit):
                answer = tuple(self._rows.schedules.due(now)[:limit])
            case queries.GetKeys():
                answer = self._keys.listed()
            case queries.NextDue():
                answer = self._next_due()
            case queries.GetServers():
                answer = self._fleet.listed()
            case queries.GetNews():
                answer = self._news(query)
            case _:
                raise TypeError(f"not a query: {query!r}")
        return cast(R, answer)

    def _next_due(self) -> int | None:
        known = (self._rows.next_timed(), self._rows.next_stop(), self._rows.schedules.next_at())
        return min((instant for instant in known if instant is not None), default=None)

    def _news(self, query: queries.GetNews) -> queries.News:
        lost, stop = [], []
        for held in query.held:
            task = self._rows.tasks.get(held.task_id)
            if task is None or task.state is not State.RUNNING or task.generation != held.generation:
                lost.append(held)
            elif task.cancel_reason is not None:
                stop.append(held)
        return queries.News(
            pending=any(
                state is State.PENDING and (query.types is None or type in query.types)
                for _, type, state in self._rows.counts
            ),
            stop=tuple(stop),
            lost=tuple(lost),
            next_due=self._next_due() if query.due else None,
            seats=self._fleet.seats(),
            letters=self._fleet.unread(query.read),
            to_sweep=query.sweeper is not None and self._fleet.is_to_sweep(query.sweeper, self._rows),
        )

    def beat(self, server: ServerId, now: int) -> bool:
        """See Store."""
        return self._fleet.see(server, now)

    def open_wake(self, server: ServerId) -> Wake | None:
        return None if self.exclusive else self._fleet.bells.open(server)

    def snapshot(self) -> Snapshot:
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            tasks=tuple(self._rows.tasks.values()),
            stats=self._rows.stats(),
            servers=tuple((row.server, row.seen_at) for row in self._fleet.listed()),
            queues=tuple(sorted(self._rows.lanes.rules.items())),
            schedules=tuple(self._rows.schedules.listed()),
            holders=tuple(sorted(self._rows.holders.items())),
            unsettled=tuple(sorted(self._rows.unsettled, key=self._rows.arrivals.__getitem__)),
            keys=self._keys.listed(),
            leader=self._fleet.leader,
            letters=self._fleet.numbers(),
        )

    def close(self) -> None:
        pass
