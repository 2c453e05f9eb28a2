"""New tasks of the PostgreSQL store: what is against one is looked at as `tq.storage.memory_submit` does.

A run of submits is one draft. All that they name is read, and locked where it must not change until they are
in; each is decided in turn on that and on what those before it have made of it; what comes out is written at
once. A draft of which nothing has been written can simply be dropped: so a refused SubmitMany has never been.

What another transaction stores at the same time is not seen by reading. The unique indexes see it: then the
whole batch is run again, and reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace
from psycopg import errors

from tq.core import ops, refusals
from tq.core.errors import StorageUnavailable, TqError
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
from tq.storage import postgres_sql as sql
from tq.storage.book import LaneName
from tq.storage.holders import Holders, name_of
from tq.storage.moves import Moves
from tq.storage.postgres_sql import numbers, texts
from tq.storage.postgres_work import LOOK_AGAIN_MAX, Raced, Work, write_taken
from tq.storage.records import (
    STATE_CODE,
    STATE_OF,
    STORE_LANE,
    SUBMITTED,
    Row,
    options_text,
    policy_text,
)
from tq.storage.rows import Rows
from tq.storage.runs import Answer

HELD_RETRY_MS: Final = 1_000
CANCELLED: Final = STATE_CODE[State.CANCELLED]


def submit_run(work: Work, group: Sequence[ops.Submit]) -> list[Answer]:
    """A reply or refusal for each of *group*, in order."""
    draft = Draft(work, [op.task for op in group], [op.request for op in group if op.request is not None])
    answers: list[Answer] = []
    for op in group:
        try:
            answers.append(draft.submit(op))
        except TqError as refusal:
            answers.append(refusal)
    draft.write()
    return answers


def submit_run_apart(work: Work, group: Sequence[ops.Submit]) -> list[Answer]:
    """Do as `submit_run`, but refuse those of *group* whose ids others hold, so that the rest need not wait.

    An id is held while a transaction that has stored it lasts, such as that of an application which submits
    in SQL. Which one it is cannot be asked, so it is sought by halves. Not in a pipeline.
    """
    try:
        with work.impatient():
            return submit_run(work, group)
    except errors.LockNotAvailable:
        if len(group) == 1:
            return [_held(f"the id {group[0].task.id!r}")]
    half = len(group) // 2
    return submit_run_apart(work, group[:half]) + submit_run_apart(work, group[half:])


def submit_many_apart(work: Work, op: ops.SubmitMany) -> Answer:
    """Do as `submit_many`, but refuse *op* if others hold one of its ids. Not in a pipeline."""
    try:
        with work.impatient():
            return submit_many(work, op)
    except errors.LockNotAvailable:
        return _held("one of the ids")


def _held(what: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{what} is in a transaction that has not ended, or something that it refers to is: try again",
        retry_after_ms=HELD_RETRY_MS,
    )


def submit_many(work: Work, op: ops.SubmitMany) -> Answer:
    """All of its tasks, or none and the refusal of the first bad one."""
    draft = Draft(work, op.tasks, ())
    replies = []
    for index, new in enumerate(op.tasks):
        try:
            replies.append(draft.one(new))
        except TqError as refusal:
            return type(refusal)(refusal.message, **(refusal.fields | {"index": index}))
    draft.write()
    return tuple(replies)


def submit_one(work: Work, new: NewTask) -> ops.Submitted:
    """See Submit. Raises its refusals, and then has changed nothing."""
    draft = Draft(work, [new], ())
    submitted = draft.one(new)
    draft.write()
    return submitted


class Known(msgspec.Struct):
    """A stored task as far as a submit of its id is answered from it."""

    state: State
    type: str
    payload: Json


class Fresh(msgspec.Struct):
    """A task that is to be stored, and those it waits for."""

    new: NewTask
    row: Row
    waits_for: list[TaskId]


class Draft:
    """What *tasks* and *requests* name, and what submits make of it, in the transaction *work*."""

    def __init__(self, work: Work, tasks: Sequence[NewTask], requests: Sequence[RequestKey]) -> None:
        self._work = work
        self._known: dict[TaskId, Known] = {}
        self._fresh: dict[TaskId, Fresh] = {}
        self._requests: dict[str, tuple[RequestKey, TaskId, State | None]] = {}
        self._new_requests: dict[str, tuple[RequestKey, TaskId]] = {}
        self._watched: dict[TaskId, Row] = {}
        if requests:
            self._load_requests(requests)
        self._lanes = self._load_lanes(tasks)
        self._load_known(tasks)
        self._rows = self._load_rows(tasks)
        self._moves = Moves(self._rows, work.now)

    # What is there

    def _load_requests(self, requests: Iterable[RequestKey]) -> None:
        keys = texts({each.key for each in requests})
        for key, digest, task_id, code in self._work.talk.ask(sql.SELECT_REQUESTS, keys, self._work.now):
            state = None if code is None else STATE_OF[code]
            self._requests[key] = (RequestKey(key, digest), task_id, state)

    def _load_lanes(self, tasks: Iterable[NewTask]) -> dict[LaneName, int]:
        """The lanes of *tasks*. Those that are not there have numbers below 0 until they are written."""
        names = list(dict.fromkeys([(new.queue, new.type, new.key) for new in tasks]))
        queues, types, keys = zip(*names, strict=True) if names else ((), (), ())
        found = self._work.talk.ask(sql.SELECT_LANES, texts(queues), texts(types), texts(keys))
        lanes: dict[LaneName, int] = {(queue, type, key): lane for lane, queue, type, key in found}
        for index, name in enumerate(names):
            lane = lanes.setdefault(name, -1 - index)
            self._work.types[lane] = name[1]
        return lanes

    def _load_known(self, tasks: Iterable[NewTask]) -> None:
        ids = texts(dict.fromkeys([new.id for new in tasks]))
        for task_id, state, type, payload in self._work.talk.ask(sql.SELECT_KNOWN, ids):
            self._known[task_id] = Known(STATE_OF[state], type, payload)

    def _load_rows(self, tasks: Sequence[NewTask]) -> Rows:
        """The rows that *tasks* name, and those of the tasks that have their unique keys, locked."""
        work = self._work
        named: set[TaskId] = set()
        names: set[str] = set()
        for new in tasks:
            if new.options is not NO_OPTIONS:
                named.update(new.options.depends_on)
                if new.options.parent_id is not None:
                    named.add(new.options.parent_id)
                name = name_of(new.type, new.options)
                if name is not None:
                    names.add(name)
        if not names:
            rows = work.rows_of(named)
            rows.holders = Holders({})
            return rows
        for _ in range(LOOK_AGAIN_MAX):
            before = work.holders_of(list(names))
            rows = work.rows_of(named | set(before.values()))
            # Those that have a key and are locked keep it; one that was let go meanwhile is looked up again.
            after = work.holders_of(list(names)) if before else before
            if after == before:
                rows.holders = Holders(before)
                return rows
        raise Raced

    # Deciding

    def submit(self, op: ops.Submit) -> ops.Submitted:
        """See Submit."""
        request = op.request
        if request is None:
            return self.one(op.task)
        known = self._requests.get(request.key)
        if known is not None:
            repeated, task_id, state = known
            return refusals.answer_repeated(repeated, request, task_id, self._state(task_id, state))
        submitted = self.one(op.task)
        self._requests[request.key] = (request, submitted.task_id, submitted.state)
        self._new_requests[request.key] = (request, submitted.task_id)
        return submitted

    def _state(self, task_id: TaskId, stored: State | None) -> State | None:
        """The state of a task by now, which was *stored*."""
        row = self._rows.by_id.get(task_id)
        return stored if row is None else STATE_OF[row.state]

    def one(self, new: NewTask) -> ops.Submitted:
        """See Submit."""
        fresh = self._fresh.get(new.id)
        if fresh is not None:
            return refusals.answer_known(STATE_OF[fresh.row.state], fresh.new.type, fresh.new.payload, new)
        known = self._known.get(new.id)
        if known is not None:
            state = self._state(new.id, known.state) or known.state
            return refusals.answer_known(state, known.type, known.payload, new)
        if new.options is NO_OPTIONS:
            return self._admit(new, None)
        self._check_references(new.options)
        name = name_of(new.type, new.options)
        assert self._rows.holders is not None
        holder = None if name is None else self._rows.holders.get(name)
        if holder is None:
            return self._admit(new, name)
        return self._contend(new, name, holder)

    def _contend(self, new: NewTask, name: str | None, holder: TaskId) -> ops.Submitted:
        """*new* wants the unique *name*, which *holder* has."""
        unique = new.options.unique
        assert unique is not None
        row = self._rows.by_id[holder]
        state = STATE_OF[row.state]
        if unique.on_conflict is OnConflict.EXISTING:
            return ops.Submitted(holder, state, duplicate=True)
        if unique.on_conflict is OnConflict.REJECT or state not in WAITING:
            raise refusals.unique_taken(new, holder)
        if new.options.parent_id == holder:
            raise refusals.parent_cancelled(holder)
        self._moves.end_waiting(row, Reason.REPLACED)
        return replace(self._admit(new, name), replaced=holder)

    def _check_references(self, options: Options) -> None:
        for depended_on in options.depends_on:
            if depended_on not in self._rows.by_id:
                raise refusals.unknown_reference("depends_on", depended_on)
        if options.parent_id is not None:
            parent = self._rows.by_id.get(options.parent_id)
            if parent is None:
                raise refusals.unknown_reference("parent_id", options.parent_id)
            if parent.state == CANCELLED or parent.cancel_reason is not None:
                raise refusals.parent_cancelled(options.parent_id)

    def _admit(self, new: NewTask, name: str | None) -> ops.Submitted:
        """*new* is to be stored; its unique *name* is free."""
        rows, options = self._rows, new.options
        depends_on = [rows.by_id[each] for each in dict.fromkeys(options.depends_on)]
        waits_for = [each for each in depends_on if STATE_OF[each.state] not in FINAL]
        is_doomed = options.on_dependency_failure is OnFailure.CANCEL and any(
            STATE_OF[each.state] in (State.FAILED, State.CANCELLED) for each in depends_on
        )
        state = State.BLOCKED if waits_for or is_doomed else initial_state(new.run_at, self._work.now)
        if is_doomed:
            waits_for = []
        row = self._row(new, state, len(waits_for))
        rows.by_id[new.id] = row
        rows.counts[row.lane, row.state] += 1
        rows.counts[STORE_LANE, SUBMITTED] += 1
        self._fresh[new.id] = Fresh(new, row, [each.id for each in waits_for])
        self._watch(waits_for)
        if options.parent_id is not None:
            self._watch([rows.by_id[options.parent_id]])
        if name is not None and rows.holders is not None:
            rows.holders.hold(row.id, new.type, options, state)
        if is_doomed:
            self._moves.end_waiting(row, Reason.DEPENDENCY)
            return ops.Submitted(new.id, State.CANCELLED)
        return ops.Submitted(new.id, state)

    def _row(self, new: NewTask, state: State, blockers: int) -> Row:
        return Row(
            id=new.id,
            seq=0,
            lane=self._lanes[new.queue, new.type, new.key],
            state=STATE_CODE[state],
            generation=0,
            attempt=0,
            crashes=0,
            failures=0,
            result_ttl_ms=new.result_ttl_ms,
            run_at=new.run_at,
            reason=None,
            started_at=None,
            finished_at=None,
            worker=None,
            server=None,
            cancel_reason=None,
            options=None if new.options is NO_OPTIONS else options_text(new.options),
            watched=0,
            blockers=blockers,
            logged=0,
        )

    def _watch(self, rows: Iterable[Row]) -> None:
        """Others will have to hear of *rows*."""
        for row in rows:
            if not row.watched:
                row.watched = 1
                self._watched[row.id] = row

    # Writing

    def write(self) -> None:
        """Write all that has been decided."""
        work, rows, fresh = self._work, self._rows, list(self._fresh.values())
        if fresh:
            self._add_lanes(fresh)
            seqs = work.draw_seqs(len(fresh))
            for each, seq in zip(fresh, seqs, strict=True):
                each.row.seq = seq
        holders, rows.holders = rows.holders, None
        if holders is not None and holders.gone:
            work.talk.tell(sql.LET_GO, (texts(name for name, _ in holders.gone),))
        if fresh:
            for each in fresh:
                rows.changed.pop(each.new.id, None)
            self._insert(fresh)
        work.write(rows)
        if self._watched:
            work.talk.tell(sql.UPDATE_WATCHED, (numbers(row.seq for row in self._watched.values()),))
        write_taken(work.talk, holders)
        if self._new_requests:
            self._write_requests()

    def _add_lanes(self, fresh: Iterable[Fresh]) -> None:
        """Make the lanes of *fresh* that are not there."""
        missing = {each.row.lane: each.new for each in fresh if each.row.lane < 0}
        if not missing:
            return
        wanted = missing.values()
        found = self._work.talk.change(
            sql.INSERT_LANES,
            texts(new.queue for new in wanted),
            texts(new.type for new in wanted),
            texts(new.key for new in wanted),
        )
        made = {before: lane for before, (lane,) in zip(missing, found, strict=True)}
        for each in fresh:
            each.row.lane = made.get(each.row.lane, each.row.lane)
        for before, lane in made.items():
            self._work.types[lane] = self._work.types.pop(before)
            for name in [name for name in self._rows.counts if name[0] == before]:
                self._rows.counts[lane, name[1]] += self._rows.counts.pop(name)

    def _insert(self, fresh: Sequence[Fresh]) -> None:
        tell = self._work.talk.tell
        new = [each.new for each in fresh]
        rows = [each.row for each in fresh]
        seqs, lanes = numbers([row.seq for row in rows]), numbers([row.lane for row in rows])
        tell(
            sql.INSERT_TASKS,
            (
                seqs,
                lanes,
                texts([each.id for each in new]),
                texts([policy_text(each.retry) for each in new]),
                texts([each.options.parent_id for each in new]),
                texts([each.options.schedule for each in new]),
                texts([each.payload for each in new]),
                self._work.now,
            ),
        )
        tell(
            sql.INSERT_LIVES,
            (
                seqs,
                lanes,
                numbers([row.state for row in rows]),
                numbers([-each.priority for each in new]),
                numbers([each.run_at for each in new]),
                numbers([each.max_attempts for each in new]),
                numbers([each.timeout_ms for each in new]),
                numbers([each.result_ttl_ms for each in new]),
            ),
        )
        self._insert_rare([each for each in fresh if each.new.options is not NO_OPTIONS])

    def _insert_rare(self, fresh: Sequence[Fresh]) -> None:
        """What tasks with options have."""
        tell = self._work.talk.tell
        optional = [(each.row, each.new) for each in fresh if each.row.options is not None]
        if not optional:
            return
        rows = [row for row, _ in optional]
        tell(
            sql.SET_OPTIONS,
            (
                numbers(row.seq for row in rows),
                texts(row.options for row in rows),
                numbers(new.options.stop_at for _, new in optional),
                texts(name_of(new.type, new.options) for _, new in optional),
                numbers(row.blockers for row in rows),
                numbers(row.reason for row in rows),
                numbers(row.finished_at for row in rows),
                numbers(row.keep_until for row in rows),
            ),
        )
        tags = [(tag, row.seq) for row, new in optional for tag in new.options.tags]
        if tags:
            tell(sql.INSERT_TAGS, (texts(tag for tag, _ in tags), numbers(seq for _, seq in tags)))
        waiting = [(self._rows.by_id[one].seq, each.row.seq) for each in fresh for one in each.waits_for]
        if waiting:
            blocking, blocked = zip(*waiting, strict=True)
            tell(sql.INSERT_DEPENDENCIES, (numbers(blocking), numbers(blocked)))

    def _write_requests(self) -> None:
        work, made = self._work, self._new_requests.values()
        keys = texts(request.key for request, _ in made)
        work.talk.tell(sql.DELETE_PAST_REQUESTS, (keys, work.now))
        digests, task_ids = (
            texts(request.digest for request, _ in made),
            texts(task_id for _, task_id in made),
        )
        until = work.now + ops.REQUEST_KEPT_MS
        work.talk.tell(sql.INSERT_REQUESTS, (keys, digests, task_ids, until))
