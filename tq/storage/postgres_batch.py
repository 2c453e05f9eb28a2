"""One batch of ops inside one PostgreSQL transaction. What it does is what `tq.storage.memory` does.

Consecutive ops of a kind go together: a run of submits is one draft; a run of ops that name a task is one
select that locks their rows, moves made on those in order, and one update. A move checks before it changes,
so a refused op leaves its row as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import msgspec
from msgspec.structs import replace

from tq.core import ops
from tq.core.keys import Key
from tq.core.limits import DEFAULT_RULES, QUEUES_MAX, QueueRules
from tq.core.ops import AnyOp, Lead
from tq.core.refusals import too_many
from tq.storage import postgres_sql as sql
from tq.storage.moves import ByIdOp, Moves
from tq.storage.postgres_claim import claim, queue_lock
from tq.storage.postgres_fleet import announce, beat, lead, prune_letters
from tq.storage.postgres_keys import put_key, revoke_key
from tq.storage.postgres_schedules import delete_schedule, fire, pause_schedule, put_schedule
from tq.storage.postgres_submit import submit_many, submit_many_apart, submit_run, submit_run_apart
from tq.storage.postgres_sweep import expire, promote, prune, recover, settle
from tq.storage.postgres_work import Work
from tq.storage.records import to_json
from tq.storage.runs import Answer, Kind, ScheduleOp, reply_or_refusal, runs_of

_rules_decoder: Final = msgspec.json.Decoder(QueueRules)


class Batch:
    """The ops of the transaction *work*, which were asked for at *asked_at* by the clock of who asks.

    Where it goes *apart*, outside of a pipeline, a submit of what others hold is refused, not waited for.
    """

    def __init__(self, work: Work, *, asked_at: int, apart: bool = False) -> None:
        self._work = work
        self._asked_at = asked_at
        self._submit_run = submit_run_apart if apart else submit_run
        self._submit_many = submit_many_apart if apart else submit_many

    def run(self, ops: Sequence[AnyOp]) -> list[Answer]:
        """Apply *ops* in order; one reply or refusal for each. Beginning and commit are the caller's.

        But for who leads, which touches nothing else and comes last: two batches that lock the leader's row
        and a queue, each first what the other locks then, would wait for each other.
        """
        answers = iter(self._run([op for op in ops if not isinstance(op, Lead)]))
        led = iter([lead(self._work, op) for op in ops if isinstance(op, Lead)])
        return [next(led if isinstance(op, Lead) else answers) for op in ops]

    def _run(self, ops: Sequence[AnyOp]) -> list[Answer]:
        answers: list[Answer] = []
        for kind, group in runs_of(ops):
            answers += self._run_of(kind, group)
        self._work.write_counts()
        return answers

    def _run_of(self, kind: Kind, group: list[AnyOp]) -> list[Answer]:
        match kind:
            case Kind.SUBMIT:
                return self._submit_run(self._work, [op for op in group if isinstance(op, ops.Submit)])
            case Kind.BY_ID:
                return self._moves([op for op in group if isinstance(op, ByIdOp)])
            case Kind.OTHER:
                return [self._answer(op) for op in group]
            case _:
                assert_never(kind)

    def _answer(self, op: AnyOp) -> Answer:
        match op:
            case ops.SubmitMany():
                return self._submit_many(self._work, op)
            case ops.Claim():
                return claim(self._work, op)
            case ops.Promote():
                return promote(self._work, op)
            case ops.Expire():
                return expire(self._work, op)
            case ops.Settle():
                return settle(self._work, op)
            case ops.Recover():
                return recover(self._work, op, skew_ms=self._work.now - self._asked_at)
            case ops.Prune():
                return prune(self._work, op)
            case ops.Beat():
                return beat(self._work, op)
            case ops.PruneLetters():
                return prune_letters(self._work, op)
            case ops.Announce():
                return announce(self._work, op)
            case ops.SetQueue() | ops.PauseQueue():
                return reply_or_refusal(self._set_rules, op)
            case ops.PutSchedule() | ops.DeleteSchedule() | ops.PauseSchedule() | ops.Fire():
                return reply_or_refusal(self._schedule, op)
            case ops.PutKey() | ops.RevokeKey():
                return reply_or_refusal(self._key, op)
            case _:
                raise AssertionError(f"{op} goes in a run")

    def _schedule(self, op: ScheduleOp) -> ops.Schedule | ops.Deleted | ops.Fired:
        match op:
            case ops.PutSchedule():
                return put_schedule(self._work, op)
            case ops.DeleteSchedule(name=name):
                return delete_schedule(self._work, name)
            case ops.PauseSchedule():
                return pause_schedule(self._work, op)
            case ops.Fire():
                return fire(self._work, op)
            case _:
                assert_never(op)

    def _key(self, op: ops.PutKey | ops.RevokeKey) -> Key:
        return put_key(self._work, op) if isinstance(op, ops.PutKey) else revoke_key(self._work, op)

    def _moves(self, group: list[ByIdOp]) -> list[Answer]:
        rows = self._work.rows_of({op.task_id for op in group})
        moves = Moves(rows, self._work.now)
        answers: list[Answer] = [reply_or_refusal(moves.move, op) for op in group]
        self._work.write(rows)
        return answers

    def _set_rules(self, op: ops.SetQueue | ops.PauseQueue) -> QueueRules:
        talk = self._work.talk
        # One at a time, and no claim of the queue meanwhile.
        talk.lock(sql.LOCK, sql.RULES_LOCK)
        talk.lock(sql.LOCK, queue_lock(op.queue))
        found = talk.ask(sql.SELECT_RULES, op.queue)
        before = _rules_decoder.decode(found[0][0]) if found else DEFAULT_RULES
        if isinstance(op, ops.PauseQueue):
            after = replace(before, paused=op.paused)
        else:
            after = replace(before, order=op.order, limits=op.limits, per_key=op.per_key)
        if after == DEFAULT_RULES:
            talk.tell(sql.DELETE_RULES, (op.queue,))
        elif found or talk.ask(sql.COUNT_RULES)[0][0] < QUEUES_MAX:
            talk.tell(sql.UPSERT_RULES, (op.queue, to_json(after)))
        else:
            raise too_many("queues with rules", QUEUES_MAX)
        # A rate that is changed begins anew.
        if before.limits.rate != after.limits.rate:
            talk.tell(sql.DELETE_RATES, (op.queue, False))
        if before.per_key.rate != after.per_key.rate:
            talk.tell(sql.DELETE_RATES, (op.queue, True))
        return after
