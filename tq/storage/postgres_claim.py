"""Leasing pending tasks of the PostgreSQL store. Which is the next is what `tq.storage.memory_lanes` says.

Where no queue that is asked for has rules or keys, claims of several servers pass each other: each takes what
no other has in hand. Where one has, its claims come one after another, by a lock that is kept to the commit,
so that limits and turns hold over the whole fleet: what runs in a queue is only added to under its lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final
from zlib import crc32

import msgspec

from tq.core import ops
from tq.core.limits import Order, QueueRules
from tq.core.task import NO_OPTIONS, Json, Lease, Options, TaskId
from tq.storage import postgres_sql as sql
from tq.storage.book import Book, Group
from tq.storage.holders import Holders, name_of
from tq.storage.pick import Found, Picker, Stream
from tq.storage.postgres_sql import numbers, texts
from tq.storage.postgres_work import Work, write_taken
from tq.storage.records import PENDING, RUNNING, STATE_OF, options_of, policy_of
from tq.storage.room import Room, rates_of

ROUNDS: Final = 3
"""How often a claim looks again, and further, where others took what it saw."""
WIDER: Final = 4
"""By what it then looks further."""

_rules_decoder: Final = msgspec.json.Decoder(QueueRules)


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A lane in which tasks wait, and the first of them by priority, run_at and arrival."""

    lane: int
    queue: str
    type: str
    key: str | None
    served: int
    urgency: int
    run_at: int
    seq: int
    rules: str | None
    is_keyed: bool
    """Whether any lane of the queue has a key."""

    @property
    def is_ruled(self) -> bool:
        """Whether rules or turns have a say in its queue."""
        return self.rules is not None or self.is_keyed


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A task that has been leased, as CLAIM_* give it."""

    seq: int
    lane: int
    id: TaskId
    generation: int
    attempt: int
    max_attempts: int
    timeout_ms: int
    retry: str
    result_ttl_ms: int | None
    created_at: int
    run_at: int
    payload: Json
    options: str | None
    urgency: int


def queue_lock(queue: str) -> int:
    """The lock of *queue*, which it may share with others."""
    return crc32(queue.encode()) % sql.QUEUE_LOCKS


class _Pending:
    """What a Picker asks."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def heads(self, order: Order, lanes: list[int]) -> Iterable[Found]:
        """See PendingTasks."""
        statement = sql.SELECT_AGING_HEADS if order is Order.AGING else sql.SELECT_LANE_HEADS
        found = self._work.talk.ask(statement, numbers(lanes))
        return [(lane, -urgency, run_at, seq) for lane, urgency, run_at, seq in found]

    def streams(self, streams: list[Stream], limit: int) -> Iterable[list[Found]]:
        """See PendingTasks."""
        lanes = numbers(lane for lane, _ in streams)
        urgencies = numbers(None if priority is None else -priority for _, priority in streams)
        found: list[list[Found]] = [[] for _ in streams]
        for place, lane, urgency, run_at, seq in self._work.talk.ask(
            sql.SELECT_STREAMS, lanes, urgencies, limit
        ):
            found[place - 1].append((lane, -urgency, run_at, seq))
        return found


def claim(work: Work, op: ops.Claim) -> ops.Claimed:
    """See ops.Claim."""
    heads = _heads(work, op.types)
    ruled = {head.queue for head in heads if head.is_ruled}
    if ruled:
        return _RuledClaim(work, op, ruled).claim()
    started = _first(work, op, heads)
    if started:
        _note_first_turns(work, heads, {task.lane for task in started})
    return ops.Claimed(_leases(work, started, {head.lane: head for head in heads}))


def _heads(work: Work, types: tuple[str, ...] | None) -> list[Head]:
    """The lanes of *types* in which tasks wait, but for those of paused queues."""
    if types == ():
        return []
    wanted = None if types is None else frozenset(types)
    heads = [Head(*row) for row in work.talk.ask(sql.SELECT_HEADS)]
    return [
        head
        for head in heads
        if (wanted is None or head.type in wanted)
        and (head.rules is None or not _rules_of(head.rules).paused)
    ]


def _rules_of(text: str) -> QueueRules:
    return _rules_decoder.decode(text)


# Where nothing but priority and age has a say


def _first(work: Work, op: ops.Claim, heads: list[Head]) -> list[Started]:
    if not heads or op.limit <= 0:
        return []
    # No more lanes than the limit can have a task among its first.
    heads = sorted(heads, key=lambda head: (head.urgency, head.run_at, head.seq))[: op.limit]
    if len(heads) == 1:
        [head] = heads
        place = (head.urgency, head.run_at, head.seq)
        found = work.talk.change(sql.CLAIM_LANE, head.lane, op.limit, work.now, op.server, *place)
        return _in_order(work, [Started(*row) for row in found])
    lanes = numbers(head.lane for head in heads)
    places = [numbers(column) for column in zip(*((h.urgency, h.run_at, h.seq) for h in heads), strict=True)]
    started: list[Started] = []
    window = op.limit
    for _ in range(ROUNDS):
        left = op.limit - len(started)
        found = work.talk.change(sql.CLAIM_LANES, lanes, window, work.now, op.server, left, *places)
        started += [Started(*row[:-1]) for row in found]
        is_all = bool(found) and found[0][-1] < window
        if len(started) == op.limit or is_all:
            break
        window *= WIDER
    return _in_order(work, started)


def _in_order(work: Work, started: list[Started]) -> list[Started]:
    """*started* in the order of claims, counted."""
    work.started += len(started)
    for lane, count in Counter(task.lane for task in started).items():
        work.count(lane, PENDING, -count)
        work.count(lane, RUNNING, +count)
    return sorted(started, key=lambda task: (task.urgency, task.run_at, task.seq))


def _note_first_turns(work: Work, heads: list[Head], lanes: set[int]) -> None:
    """Whichever key comes into a queue that had none, what was there has been served before it."""
    new = [head.lane for head in heads if head.lane in lanes and not head.served]
    if new:
        work.talk.tell(sql.UPDATE_SERVED, (numbers(new), numbers([1] * len(new))))


def _leases(work: Work, started: list[Started], lanes: dict[int, Head]) -> tuple[Lease, ...]:
    _hold(work, started, lanes)
    return tuple([_lease(work.now, task, lanes[task.lane]) for task in started])


def _lease(now: int, task: Started, lane: Head) -> Lease:
    return Lease(
        task.id,
        task.generation,
        lane.type,
        lane.queue,
        task.payload,
        task.attempt,
        task.max_attempts,
        task.timeout_ms,
        policy_of(task.retry),
        task.result_ttl_ms,
        task.created_at,
        task.run_at,
        now,
        lane.key,
        NO_OPTIONS if task.options is None else options_of(task.options),
    )


def _hold(work: Work, started: list[Started], lanes: dict[int, Head]) -> None:
    """Unique keys that keep others out only until now are free; others are taken, if they are free."""
    wanting: list[tuple[Started, str, Options]] = []
    for task in started:
        if task.options is not None and options_of(task.options).unique is not None:
            wanting.append((task, lanes[task.lane].type, options_of(task.options)))
    if not wanting:
        return
    names = {name_of(type, options) for _, type, options in wanting}
    holders = Holders(work.holders_of([name for name in names if name is not None]))
    for task, type, options in wanting:
        holders.hold(task.id, type, options, STATE_OF[RUNNING])
    write_holders(work, holders)


def write_holders(work: Work, holders: Holders) -> None:
    """Write how *holders* have changed."""
    if holders.gone:
        work.talk.tell(sql.LET_GO, (texts(name for name, _ in holders.gone),))
    write_taken(work.talk, holders)


# Where rules or keys have a say


class _RuledClaim:
    """A claim that locks the queues *ruled*, which have rules or keys."""

    def __init__(self, work: Work, op: ops.Claim, ruled: set[str]) -> None:
        self._work = work
        self._op = op
        self._ruled = ruled
        self._rated: set[Group] = set()
        locks = sorted({queue_lock(queue) for queue in ruled})
        work.talk.lock(sql.LOCKS, numbers(locks))
        # Only what is read from now on can be relied on.
        self._lanes = {head.lane: head for head in self._open_heads()}
        self._book = self._make_book()

    def claim(self) -> ops.Claimed:
        """See ops.Claim."""
        started: list[Started] = []
        for _ in range(ROUNDS):
            limit = self._op.limit - len(started)
            wanted = self._pick(limit) if limit > 0 and self._lanes else []
            if not wanted:
                break
            started += self._start(wanted)
            if len(started) == self._op.limit or len(wanted) < limit:
                break
        self._write_rates()
        waiting = {head.lane: head for head in self._open_heads()}
        self._book.waiting = dict.fromkeys(waiting, 1)
        known = self._lanes | waiting
        leases = _leases(self._work, started, known)
        for lane, head in waiting.items():
            self._book.names[lane] = (head.queue, head.type, head.key)
        return ops.Claimed(leases, *Room(self._book, self._work.now).held_back(list(waiting)))

    def _open_heads(self) -> list[Head]:
        """The lanes to claim from. A queue that has its first rule or key only now is not locked."""
        heads = _heads(self._work, self._op.types)
        return [head for head in heads if head.queue in self._ruled or not head.is_ruled]

    def _make_book(self) -> Book:
        talk, book, ruled = self._work.talk, Book(), self._ruled
        for head in self._lanes.values():
            book.learn(head.lane, (head.queue, head.type, head.key))
            book.waiting[head.lane] = 1
            if head.rules is not None:
                book.rules[head.queue] = _rules_of(head.rules)
        keyed = {(head.queue, head.key) for head in self._lanes.values() if head.is_keyed}
        pairs = [(queue, key) for queue, key in keyed if key is not None]
        for queue, key, turn in talk.ask(
            sql.SELECT_TURNS,
            texts(queue for queue, _ in pairs),
            texts(key for _, key in pairs),
            texts(queue for queue, key in keyed if key is None),
        ):
            book.turns[queue, key] = turn
        [(book.turn,)] = talk.ask(sql.SELECT_LAST_TURN, texts(ruled))
        if book.rules:
            queues = texts(book.rules)
            for lane, queue, type, key, count in talk.ask(sql.SELECT_RUNNING, queues):
                book.learn(lane, (queue, type, key))
                book.count(lane, RUNNING, count)
            for queue, is_key, key, tat_us in talk.ask(sql.SELECT_RATES, queues):
                book.tats[queue, key if is_key else None] = tat_us
        return book

    def _pick(self, limit: int) -> list[int]:
        lanes = sorted(self._lanes, key=lambda lane: self._lanes[lane].queue)
        return Picker(_Pending(self._work), self._book, self._work.now, lanes, limit).pick()

    def _start(self, seqs: list[int]) -> list[Started]:
        """Lease the tasks *seqs*, those that are still pending, and count that in turns and rates."""
        work = self._work
        found = work.talk.change(sql.CLAIM_PICKED, numbers(seqs), len(seqs), work.now, self._op.server)
        by_seq = {row[0]: Started(*row) for row in found}
        started = [by_seq[seq] for seq in seqs if seq in by_seq]
        _in_order(work, started)
        turns: dict[int, int] = {}
        for task in started:
            self._book.count(task.lane, RUNNING, +1)
            self._book.turn += 1
            head = self._lanes[task.lane]
            if head.is_keyed or not head.served:
                turns[task.lane] = self._book.turn
            self._serve(task.lane)
        if turns:
            work.talk.tell(sql.UPDATE_SERVED, (numbers(turns), numbers(turns.values())))
        return started

    def _serve(self, lane: int) -> None:
        book = self._book
        book.serve(lane, book.turn)
        queue, _, key = book.names[lane]
        for name, rate in rates_of(book, (queue, key)):
            book.tats[name] = rate.after(book.tats.get(name, 0), self._work.now, 1)
            self._rated.add(name)

    def _write_rates(self) -> None:
        """Keep what the rates have let through."""
        names = sorted(self._rated, key=lambda name: (name[0], name[1] or ""))
        if names:
            self._work.talk.tell(
                sql.UPSERT_RATES,
                (
                    texts(queue for queue, _ in names),
                    numbers(key is not None for _, key in names),
                    texts(key or "" for _, key in names),
                    numbers(self._book.tats[name] for name in names),
                ),
            )
