"""How the SQLite store takes new tasks. What is against one is looked at as `tq.storage.memory_submit` does.

Tasks that nothing but their id can be against go together: one select of those that are there, one insert of
those that are not. All others go one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Final

import apsw
import msgspec
from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.errors import DuplicateTask, TqError
from tq.core.ops import RequestKey
from tq.core.task import (
    FINAL,
    NO_OPTIONS,
    WAITING,
    Json,
    NewTask,
    OnConflict,
    OnFailure,
    Options,
    Reason,
    State,
    TaskId,
    initial_state,
)
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book, LaneName
from tq.storage.holders import name_of
from tq.storage.moves import Moves
from tq.storage.records import STATE_CODE, STATE_OF, STORE_LANE, SUBMITTED, policy_text, to_json
from tq.storage.runs import Answer, reply_or_refusal
from tq.storage.sqlite_rows import load_rows, write_rows

# Of those tasks that have any, after they are inserted.
SET_OPTIONS: Final = """
UPDATE tasks SET options = value ->> 1, stop_at = value ->> 2, parent_id = value ->> 3, blockers = value ->> 4
FROM jsonb_each(?1) AS fresh
WHERE tasks.seq = fresh.value ->> 0
"""
INSERT_TAGS: Final = (
    "INSERT OR IGNORE INTO tags (tag, seq) SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)"
)
INSERT_DEPENDENCIES: Final = """
INSERT INTO dependencies (dependency, dependent) SELECT value, ?2 FROM json_each(?1)
"""
UPDATE_WATCHED: Final = """
UPDATE tasks SET watched = 1 WHERE watched = 0 AND seq IN (SELECT value FROM json_each(?1))
"""
SELECT_REFERENCES: Final = """
SELECT tasks.id, seq, state, cancel_reason IS NOT NULL
FROM json_each(?1) AS wanted CROSS JOIN tasks ON tasks.id = wanted.value
"""
SELECT_HOLDER: Final = """
SELECT tasks.id, state FROM holders CROSS JOIN tasks ON tasks.id = holders.task_id WHERE name = ?1
"""
INSERT_HOLDER: Final = "INSERT INTO holders (name, task_id) VALUES (?1, ?2)"
SELECT_REQUEST: Final = """
SELECT digest, task_id, state
FROM requests LEFT JOIN tasks ON tasks.id = requests.task_id
WHERE key = ?1 AND until > ?2
"""
UPSERT_REQUEST: Final = (
    "INSERT OR REPLACE INTO requests (key, digest, task_id, until) VALUES (?1, ?2, ?3, ?4)"
)


def _is_plain(options: Options) -> bool:
    """Whether nothing but its id can be against a task with *options*."""
    return options is NO_OPTIONS or (
        options.unique is None and options.parent_id is None and not options.depends_on
    )


def _is_plain_submit(op: ops.Submit) -> bool:
    return op.request is None and _is_plain(op.task.options)


class Known(msgspec.Struct):
    """A stored task as far as a submit of its id is answered from it."""

    state: State
    type: str
    payload: Json

    def answer(self, new: NewTask) -> ops.Submitted:
        return refusals.answer_known(self.state, self.type, self.payload, new)


class Reference(msgspec.Struct):
    """A stored task that a new one names."""

    seq: int
    state: State
    is_asked_to_stop: bool


class Submits:
    """Submits at *now* in the transaction that is under way on *db*; *count* keeps the counters."""

    def __init__(
        self, db: apsw.Connection, book: Book, now: int, count: Callable[[int, int, int], None]
    ) -> None:
        self._db = db
        self._book = book
        self._now = now
        self._keep_count = count
        self._counted: Counter[tuple[int, int]] = Counter()

    def run(self, group: list[ops.Submit]) -> list[Answer]:
        """A reply or refusal for each of *group*, in order."""
        tasks = [op.task for op in group if op.request is None and op.task.options is NO_OPTIONS]
        if len(tasks) == len(group):
            return self._store(tasks, self._known(tasks))
        answers: list[Answer] = []
        for is_plain, alike in groupby(group, key=_is_plain_submit):
            if is_plain:
                tasks = [op.task for op in alike]
                answers += self._store(tasks, self._known(tasks))
            else:
                answers += [reply_or_refusal(self._submit, op) for op in alike]
        return answers

    def many(self, op: ops.SubmitMany) -> Answer:
        """All of its tasks, or none and the refusal of the first bad one."""
        if all(_is_plain(new.options) for new in op.tasks):
            return self._many_plain(op.tasks)
        return self._many_in_turn(op.tasks)

    def one(self, new: NewTask) -> ops.Submitted:
        """See Submit. Raises its refusals, and then has changed nothing."""
        known = self._known([new]).get(new.id)
        if known is not None:
            return known.answer(new)
        references = self._references(new.options)
        name = name_of(new.type, new.options)
        holder = None if name is None else self._db.execute(SELECT_HOLDER, (name,)).get
        if name is None or holder is None:
            return self._admit(new, name, references)
        holder_id, code = holder
        unique = new.options.unique
        assert unique is not None
        if unique.on_conflict is OnConflict.EXISTING:
            return ops.Submitted(holder_id, STATE_OF[code], duplicate=True)
        if unique.on_conflict is OnConflict.REJECT or STATE_OF[code] not in WAITING:
            raise refusals.unique_taken(new, holder_id)
        if new.options.parent_id == holder_id:
            raise refusals.parent_cancelled(holder_id)
        self._cancel(holder_id, Reason.REPLACED)
        if holder_id in references:
            references[holder_id].state = State.CANCELLED
        return replace(self._admit(new, name, references), replaced=holder_id)

    def _count(self, lane: int, state: int, change: int) -> None:
        self._counted[lane, state] += change
        self._keep_count(lane, state, change)

    # Those that nothing but their id can be against

    def _many_plain(self, tasks: Sequence[NewTask]) -> Answer:
        known = self._known(tasks)
        arriving: dict[TaskId, NewTask] = {}
        for index, new in enumerate(tasks):
            twin = known.get(new.id) or arriving.setdefault(new.id, new)
            if twin is not new:
                try:
                    refusals.answer_known(State.PENDING, twin.type, twin.payload, new)
                except DuplicateTask as refusal:
                    return DuplicateTask(refusal.message, **refusal.fields, index=index)
        replies = self._store(tasks, known)
        return tuple(reply for reply in replies if isinstance(reply, ops.Submitted))

    def _known(self, tasks: Iterable[NewTask]) -> dict[TaskId, Known]:
        """Those of *tasks* whose id is taken, by whom."""
        ids = to_json([new.id for new in tasks])
        return {
            task_id: Known(STATE_OF[state], type, payload)
            for task_id, state, type, payload in self._db.execute(sql.SELECT_KNOWN, (ids,))
        }

    def _store(self, tasks: Iterable[NewTask], known: dict[TaskId, Known]) -> list[Answer]:
        """Insert the *tasks* that are not in *known*, and answer all."""
        fresh: dict[TaskId, tuple[NewTask, State]] = {}
        answers: list[Answer] = []
        for new in tasks:
            twin = known.get(new.id)
            if twin is None and new.id in fresh:
                first, state = fresh[new.id]
                twin = Known(state, first.type, first.payload)
            if twin is not None:
                answers.append(reply_or_refusal(twin.answer, new))
                continue
            state = initial_state(new.run_at, self._now)
            fresh[new.id] = (new, state)
            answers.append(ops.Submitted(new.id, state))
        if fresh:
            self._insert(fresh.values())
        return answers

    def _insert(self, fresh: Collection[tuple[NewTask, State]], *, blockers: int = 0) -> None:
        rows = []
        counts: Counter[tuple[int, int]] = Counter()
        options: list[tuple[int, Options]] = []
        seq, lanes = self._book.arrived, self._book.lanes
        for new, state in fresh:
            seq += 1
            name = (new.queue, new.type, new.key)
            lane = lanes.get(name) or self._add_lane(name)
            code = STATE_CODE[state]
            payload: str | None = new.payload
            if len(new.payload) > sql.INLINE_MAX:
                self._db.execute(sql.INSERT_TEXT, (seq, sql.PAYLOAD, payload))
                payload = None
            rows.append(
                (
                    seq,
                    new.id,
                    lane,
                    code,
                    new.priority,
                    new.run_at,
                    new.max_attempts,
                    new.timeout_ms,
                    new.result_ttl_ms,
                    policy_text(new.retry),
                    payload,
                )
            )
            counts[lane, code] += 1
            if new.options is not NO_OPTIONS and new.options != NO_OPTIONS:
                options.append((seq, new.options))
        self._book.arrived = seq
        counts[STORE_LANE, SUBMITTED] = len(fresh)
        for (lane, code), count in counts.items():
            self._count(lane, code, count)
        self._db.execute(sql.INSERT_TASKS, (to_json(rows), self._now))
        if options:
            self._set_options(options, blockers)

    def _set_options(self, options: list[tuple[int, Options]], blockers: int) -> None:
        rows = [(seq, to_json(each), each.stop_at, each.parent_id, blockers) for seq, each in options]
        self._db.execute(SET_OPTIONS, (to_json(rows),))
        tags = [(tag, seq) for seq, each in options for tag in each.tags]
        if tags:
            self._db.execute(INSERT_TAGS, (to_json(tags),))

    def _add_lane(self, name: LaneName) -> int:
        lane = self._book.next_lane
        self._db.execute(sql.INSERT_LANE, (lane, *name))
        self._book.learn(lane, name)
        return lane

    # All others

    def _submit(self, op: ops.Submit) -> ops.Submitted:
        request = op.request
        if request is None:
            return self.one(op.task)
        found = self._db.execute(SELECT_REQUEST, (request.key, self._now)).get
        if found is not None:
            digest, task_id, code = found
            state = None if code is None else STATE_OF[code]
            return refusals.answer_repeated(RequestKey(request.key, digest), request, task_id, state)
        submitted = self.one(op.task)
        until = self._now + ops.REQUEST_KEPT_MS
        self._db.execute(UPSERT_REQUEST, (request.key, request.digest, submitted.task_id, until))
        return submitted

    def _many_in_turn(self, tasks: Sequence[NewTask]) -> Answer:
        arrived, first_lane = self._book.arrived, self._book.next_lane
        self._counted.clear()
        self._db.execute("SAVEPOINT many")
        replies = []
        for index, new in enumerate(tasks):
            try:
                replies.append(self.one(new))
            except TqError as refusal:
                self._db.execute("ROLLBACK TO many")
                self._db.execute("RELEASE many")
                self._take_back(arrived, first_lane)
                return type(refusal)(refusal.message, **(refusal.fields | {"index": index}))
        self._db.execute("RELEASE many")
        return tuple(replies)

    def _take_back(self, arrived: int, first_lane: int) -> None:
        """Make book and counters say again what they said before this batch."""
        for (lane, state), change in self._counted.items():
            self._keep_count(lane, state, -change)
        for lane in range(first_lane, self._book.next_lane):
            self._book.forget(lane)
        self._book.arrived, self._book.next_lane = arrived, first_lane

    def _references(self, options: Options) -> dict[TaskId, Reference]:
        """The tasks that *options* name. Raises InvalidInput, Conflict."""
        named = set(options.depends_on) | ({options.parent_id} if options.parent_id is not None else set())
        if not named:
            return {}
        found = {
            task_id: Reference(seq, STATE_OF[state], bool(is_asked))
            for task_id, seq, state, is_asked in self._db.execute(SELECT_REFERENCES, (to_json(list(named)),))
        }
        for depended_on in options.depends_on:
            if depended_on not in found:
                raise refusals.unknown_reference("depends_on", depended_on)
        if options.parent_id is not None:
            parent = found.get(options.parent_id)
            if parent is None:
                raise refusals.unknown_reference("parent_id", options.parent_id)
            if parent.state is State.CANCELLED or parent.is_asked_to_stop:
                raise refusals.parent_cancelled(options.parent_id)
        return found

    def _admit(self, new: NewTask, name: str | None, references: dict[TaskId, Reference]) -> ops.Submitted:
        """Insert *new*, whose unique *name* is free."""
        depends_on = [references[each] for each in dict.fromkeys(new.options.depends_on)]
        waits_for = [each.seq for each in depends_on if each.state not in FINAL]
        is_doomed = new.options.on_dependency_failure is OnFailure.CANCEL and any(
            each.state in (State.FAILED, State.CANCELLED) for each in depends_on
        )
        state = State.BLOCKED if waits_for or is_doomed else initial_state(new.run_at, self._now)
        if is_doomed:
            waits_for = []
        self._insert([(new, state)], blockers=len(waits_for))
        parent_id = new.options.parent_id
        self._watch(waits_for, None if parent_id is None else references[parent_id].seq)
        if is_doomed:
            self._cancel(new.id, Reason.DEPENDENCY)
            return ops.Submitted(new.id, State.CANCELLED)
        if name is not None:
            self._db.execute(INSERT_HOLDER, (name, new.id))
        return ops.Submitted(new.id, state)

    def _watch(self, waits_for: list[int], parent: int | None) -> None:
        """The last arrival waits for those tasks, and has that parent."""
        if waits_for:
            self._db.execute(INSERT_DEPENDENCIES, (to_json(waits_for), self._book.arrived))
        watched = waits_for if parent is None else [*waits_for, parent]
        if watched:
            self._db.execute(UPDATE_WATCHED, (to_json(watched),))

    def _cancel(self, task_id: TaskId, reason: Reason) -> None:
        rows = load_rows(self._db, self._book, [task_id], self._now)
        Moves(rows, self._now).end_waiting(rows.by_id[task_id], reason)
        write_rows(self._db, self._book, rows, self._count)
