"""Sweeping in the PostgreSQL store: what is due, late, lost, ended or past its time.

Rows that another transaction has in hand are passed over, so that servers sweep beside each other.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tq.core import ops
from tq.core.ops import SWEEP_LIMIT_MAX, Change
from tq.core.task import FINAL, State, TaskId
from tq.storage import postgres_sql as sql
from tq.storage.holders import Holders, name_of
from tq.storage.moves import Moves
from tq.storage.postgres_claim import write_holders
from tq.storage.postgres_sql import numbers, texts
from tq.storage.postgres_work import Work
from tq.storage.records import PENDING, STATE_OF, Row, options_of
from tq.storage.rows import Rows

WRITER_KEPT_MS: Final = 3600 * 1000
"""A writer that has written nothing for so long has its counters added to those of another."""
TYPE_KEPT_MS: Final = 90 * 24 * 3600 * 1000
"""A type that no server has handled for so long is not known any more to who submits in SQL."""


def promote(work: Work, op: ops.Promote) -> ops.Swept:
    """See ops.Promote."""
    found = work.talk.ask(sql.SELECT_DUE, work.now, op.limit + 1)
    due = found[: op.limit]
    if due:
        work.talk.tell(sql.UPDATE_PROMOTED, (numbers(seq for seq, *_ in due),))
    for _, lane, state, *_ in due:
        work.count(lane, state, -1)
        work.count(lane, PENDING, +1)
    _hold(work, [seq for seq, _, _, is_unique, _ in due if is_unique])
    return ops.Swept(len(due), more=len(found) > op.limit)


def _hold(work: Work, seqs: list[int]) -> None:
    """Let the tasks *seqs*, in this order, take or let go their unique keys as their states now say."""
    if not seqs:
        return
    moved = [
        (row[0], row[-1], row[3], options_of(row[15]))
        for row in work.talk.ask(sql.SELECT_MOVED, numbers(seqs))
    ]
    names = {name_of(type, options) for _, type, _, options in moved}
    holders = Holders(work.holders_of([name for name in names if name is not None]))
    for task_id, type, state, options in moved:
        holders.hold(task_id, type, options, STATE_OF[state])
    write_holders(work, holders)


def expire(work: Work, op: ops.Expire) -> ops.Changed:
    """See ops.Expire."""
    rows = work.rows(sql.SELECT_STOPPED, op.limit + 1, work.now)
    late, more = _first(rows, op.limit)
    moves = Moves(rows, work.now)
    changes = tuple([moves.expire(row) for row in late])
    work.write(rows)
    return ops.Changed(changes, more=more)


def recover(work: Work, op: ops.Recover, *, skew_ms: int) -> ops.Recovered:
    """See ops.Recover. *skew_ms* is how far the clock that judges is ahead of that of the asker."""
    found = work.talk.ask(sql.SELECT_DEAD_SERVERS, op.server, op.dead_before + skew_ms)
    dead = texts(server for (server,) in found)
    rows = work.rows(sql.SELECT_LOST, op.limit + 1, op.server, dead)
    lost, more = _first(rows, op.limit)
    moves = Moves(rows, work.now)
    fates = Counter(moves.recover(row) for row in lost)
    work.write(rows)
    if found and not more:
        work.talk.tell(sql.DELETE_SERVERS, (dead,))
    # Whoever has died or stopped may have left something for Settle.
    [(work.has_unsettled,)] = work.talk.ask(sql.HAS_UNSETTLED)
    return ops.Recovered(
        pending=fates[State.PENDING], failed=fates[State.FAILED], cancelled=fates[State.CANCELLED], more=more
    )


def _first(rows: Rows, limit: int) -> tuple[list[Row], bool]:
    """The first *limit* of *rows*, and whether there are more."""
    found = list(rows.by_id.values())
    return found[:limit], len(found) > limit


def prune(work: Work, op: ops.Prune) -> ops.Swept:
    """See ops.Prune."""
    [(requests,)] = work.talk.change(sql.DELETE_OLD_REQUESTS, work.now, SWEEP_LIMIT_MAX)
    found = work.talk.ask(sql.SELECT_OUTLIVED, work.now, op.limit + 1)
    old = found[: op.limit]
    for _, lane, state, *_ in old:
        work.count(lane, state, -1)
    if old:
        not_plain = [seq for seq, _, _, is_not_plain, _ in old if is_not_plain]
        failed = [seq for seq, _, _, _, has_failed in old if has_failed]
        work.delete([seq for seq, *_ in old], not_plain, failed)
        work.thin({lane for _, lane, *_ in old})
    work.talk.tell(sql.DELETE_OLD_RATES, (work.now * 1000,))
    silent_since = work.now - WRITER_KEPT_MS
    [(counts,)] = work.talk.change(sql.FOLD_COUNTS, work.writer, silent_since, SWEEP_LIMIT_MAX)
    work.talk.tell(sql.DELETE_OLD_WRITERS, (work.writer, silent_since))
    work.talk.tell(sql.DELETE_OLD_TYPES, (work.now - TYPE_KEPT_MS,))
    return ops.Swept(len(old), more=len(found) > op.limit or SWEEP_LIMIT_MAX in (requests, counts))


def settle(work: Work, op: ops.Settle) -> ops.Changed:
    """See ops.Settle."""
    changes: list[Change] = []
    room = op.limit
    while found := work.talk.ask(sql.SELECT_UNSETTLED):
        [(seq, task_id, code, cascade)] = found
        if STATE_OF[code] in FINAL:
            room -= _tell_dependents(work, changes, seq, STATE_OF[code], room)
        if cascade:
            room -= _tell_children(work, changes, task_id, room)
        if not room:
            work.has_unsettled = True
            return ops.Changed(tuple(changes), more=True)
        work.talk.tell(sql.DELETE_UNSETTLED, (seq,))
    work.has_unsettled = False
    return ops.Changed(tuple(changes))


def _tell_dependents(work: Work, changes: list[Change], seq: int, ended: State, room: int) -> int:
    """Tell the first *room* that wait for task *seq*, which has *ended*; how many that were."""
    rows = work.rows(sql.SELECT_DEPENDENTS, seq, room)
    told = list(rows.by_id.values())
    if told:
        moves = Moves(rows, work.now)
        for row in told:
            changes += moves.tell_dependent(row, ended)
        work.write(rows)
        work.talk.tell(sql.DELETE_TOLD, (seq, numbers(row.seq for row in told)))
    return len(told)


def _tell_children(work: Work, changes: list[Change], task_id: TaskId, room: int) -> int:
    """Tell the first *room* children of *task_id* that are to stop; how many that were."""
    rows = work.rows(sql.SELECT_CHILDREN, task_id, room)
    told = list(rows.by_id.values())
    if told:
        moves = Moves(rows, work.now)
        changes += [moves.tell_child(row) for row in told]
        work.write(rows)
    return len(told)
