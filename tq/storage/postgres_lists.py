"""Reading the PostgreSQL store: tasks, lists of them, counters; a list at a cost that is bounded.

The candidates of a page come, newest first, from one index: of those that have all that is meant, the one
with the fewest entries. What is left of the filter is looked at row by row, of SCAN_MAX candidates at most;
then the page ends, however short, and says where the next one goes on. Payloads are looked into here, not in
the database, which reads numbers, escapes and doubled names of JSON in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

from tq.core.queries import FailureGroup, LaneCount, ListTasks, Stats, TaskFilter, TaskPage
from tq.core.task import FINAL, HISTORY_MAX, AttemptError, State, Task, TaskId, brief
from tq.storage.matching import is_in, is_told, lowered
from tq.storage.postgres_link import Row, Talk
from tq.storage.postgres_sql import numbers
from tq.storage.records import PENDING, RUNNING, STATE_CODE, STATE_OF, SUBMITTED, task_of

SCAN_MAX: Final = 10_000
"""Candidates that one page looks at."""
PARSED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of payloads that one page looks into."""
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of texts after which a page ends."""
LOOKED_INTO: Final = 500
"""Candidates whose payloads are fetched at a time."""
LANES_MERGED_MAX: Final = 128
"""Lanes that one statement merges; where there are more, another source is taken."""

OPEN: Final = frozenset(STATE_CODE[state] for state in State if state not in FINAL)
FAILED: Final = STATE_CODE[State.FAILED]
CANCELLED: Final = STATE_CODE[State.CANCELLED]
SUCCEEDED: Final = STATE_CODE[State.SUCCEEDED]

_LAST_ERROR = f"errors.seq = lives.seq AND errors.slot = (lives.failures - 1) % {HISTORY_MAX}"
# A row of it is what records.task_of reads.
_SELECT_TASKS = """
SELECT tasks.id, lanes.type, lanes.queue, lanes.key, lives.state, lives.reason, {payload}, -lives.urgency,
       lives.attempt, lives.max_attempts, lives.crashes, lives.generation, lives.timeout_ms, tasks.retry,
       lives.result_ttl_ms, tasks.created_at, lives.run_at, lives.started_at, lives.finished_at, lives.worker,
       lives.server, lives.cancel_reason, {result},
       CASE WHEN lives.failures > 0 THEN {errors} END,
       lives.blockers, lives.fingerprint, lives.progress, {logs}, lives.options
"""
SELECT_TASKS: Final = _SELECT_TASKS.format(
    payload="tasks.payload",
    result="lives.result",
    errors="""
           (SELECT '[' || string_agg(entry, ',' ORDER BY n) || ']'
            FROM errors WHERE errors.seq = tasks.seq)""",
    logs="""
       CASE WHEN lives.logged > 0 THEN
           (SELECT '[' || string_agg(line, ',' ORDER BY n) || ']'
            FROM logs WHERE logs.seq = tasks.seq) END""",
)
SELECT_BRIEFLY: Final = _SELECT_TASKS.format(
    payload="'null'",
    result="NULL",
    errors=f"(SELECT '[' || entry || ']' FROM errors WHERE {_LAST_ERROR})",
    logs="NULL",
)
_FROM_TASKS = "FROM tasks JOIN lives ON lives.seq = tasks.seq JOIN lanes ON lanes.id = tasks.lane"
SELECT_TASK: Final = f"{SELECT_TASKS} {_FROM_TASKS} WHERE tasks.id = $1"
SELECT_ALL_TASKS: Final = f"{SELECT_TASKS} {_FROM_TASKS} ORDER BY tasks.seq"
_LISTED = """
FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (seq, place)
JOIN tasks ON tasks.seq = wanted.seq JOIN lives ON lives.seq = tasks.seq JOIN lanes ON lanes.id = tasks.lane
ORDER BY wanted.place
"""
SELECT_LISTED: Final = SELECT_TASKS + _LISTED
SELECT_LISTED_BRIEFLY: Final = SELECT_BRIEFLY + _LISTED
SELECT_ALL_HOLDERS: Final = """
SELECT unique_name, tasks.id FROM lives JOIN tasks ON tasks.seq = lives.seq WHERE holds ORDER BY unique_name
"""
SELECT_ALL_UNSETTLED: Final = """
SELECT tasks.id FROM unsettled JOIN tasks ON tasks.seq = unsettled.seq ORDER BY unsettled.seq
"""
SELECT_SERVERS: Final = "SELECT server, seen_at FROM servers ORDER BY server"
SELECT_COUNTS: Final = """
SELECT lanes.queue, lanes.type, counted.state, sum(counted.count)::bigint
FROM (SELECT lane, state, sum(count) AS count FROM counters GROUP BY lane, state) AS counted
LEFT JOIN lanes ON lanes.id = counted.lane
GROUP BY lanes.queue, lanes.type, counted.state
"""
# Within a lane and a priority the index has the earliest first: two steps into it for each of these pairs.
_NEXT_LEVEL = f"""
SELECT lane, urgency, run_at FROM lives
WHERE state = {PENDING} AND {{}} ORDER BY lane, urgency, run_at, seq LIMIT 1
"""
SELECT_OLDEST_PENDING: Final = f"""
WITH RECURSIVE levels AS (
    ({_NEXT_LEVEL.format("lane > 0")})
    UNION ALL
    SELECT following.* FROM levels CROSS JOIN LATERAL (
        SELECT * FROM (
            ({_NEXT_LEVEL.format("lives.lane = levels.lane AND lives.urgency > levels.urgency")})
            UNION ALL
            ({_NEXT_LEVEL.format("lives.lane > levels.lane")})
        ) AS either ORDER BY lane, urgency LIMIT 1
    ) AS following
)
SELECT lanes.queue, min(levels.run_at) FROM levels JOIN lanes ON lanes.id = levels.lane
GROUP BY lanes.queue ORDER BY lanes.queue
"""
SELECT_NEXT_DUE: Final = """
SELECT least(
    (SELECT run_at FROM lives WHERE state IN (1, 4) ORDER BY run_at, seq LIMIT 1),
    (SELECT stop_at FROM lives WHERE stop_at IS NOT NULL AND state IN (0, 1, 2, 4)
     ORDER BY stop_at, seq LIMIT 1),
    (SELECT next_at FROM schedules WHERE next_at IS NOT NULL ORDER BY next_at, name LIMIT 1)
)
"""
SELECT_GROUPS: Final = f"""
SELECT causes.fingerprint, lanes.type, causes.count, tasks.id,
    (SELECT entry FROM errors WHERE {_LAST_ERROR})
FROM (
    SELECT fingerprint, count(*) AS count, max(seq) AS latest
    FROM lives WHERE fingerprint IS NOT NULL
    GROUP BY fingerprint ORDER BY count(*) DESC, fingerprint LIMIT $1
) AS causes
JOIN lives ON lives.seq = causes.latest
JOIN tasks ON tasks.seq = lives.seq
JOIN lanes ON lanes.id = tasks.lane
ORDER BY causes.count DESC, causes.fingerprint
"""

_BY_STATE = {
    frozenset({RUNNING}): f"SELECT seq FROM lives WHERE state = {RUNNING}",
    OPEN - {RUNNING}: "SELECT seq FROM lives WHERE state + 0 IN (0, 1, 2, 4)",
    frozenset({FAILED}): f"SELECT seq FROM lives WHERE state = {FAILED}",
    frozenset({CANCELLED}): f"SELECT seq FROM lives WHERE state = {CANCELLED}",
}
"""Each index of states, and what finds by it; none has those that succeeded."""
_BY_VALUE: Final = {
    "parent_id": "SELECT seq FROM tasks WHERE parent_id = {parent_id}",
    "fingerprint": "SELECT seq FROM lives WHERE fingerprint = {fingerprint}",
    "schedule": "SELECT seq FROM tasks WHERE schedule = {schedule}",
    "tag": "SELECT seq FROM tags WHERE tag = {tag}",
}
_BY_LANE: Final = "SELECT seq FROM tasks WHERE lane = {}"
_EVERY: Final = "SELECT seq FROM tasks WHERE true"
_IN_LANE: Final = {
    "queue": "lanes.queue = {queue}",
    "type": "lanes.type = {type}",
    "key": "lanes.key = {key}",
}
_CONDITIONS: Final = _IN_LANE | {
    "tag": "EXISTS (SELECT 1 FROM tags WHERE tags.tag = {tag} AND tags.seq = tasks.seq)",
    "parent_id": "tasks.parent_id = {parent_id}",
    "schedule": "tasks.schedule = {schedule}",
    "fingerprint": "lives.fingerprint = {fingerprint}",
    "created_after": "tasks.created_at >= {created_after}",
    "created_before": "tasks.created_at < {created_before}",
    "error": f"""EXISTS (
        SELECT 1 FROM errors WHERE {_LAST_ERROR} AND strpos(told, {{error}}) > 0)""",
}
SELECT_SIZES: Final = """
SELECT state, sum(count)::bigint FROM counters WHERE lane > 0 GROUP BY state
"""
SELECT_SIZE_OF_LANES: Final = """
SELECT coalesce(sum(count), 0)::bigint FROM counters WHERE lane = ANY ($1::bigint[])
"""

Source: TypeAlias = tuple[int, tuple[str, ...]]
"""How many candidates there are at most, and the statements that give them, newest first, to be merged."""

_error_decoder: Final = msgspec.json.Decoder(AttemptError)


def get_task(talk: Talk, task_id: TaskId) -> Task | None:
    """See GetTask."""
    if "\0" in task_id:
        return None  # PostgreSQL cannot even be asked for what it cannot keep.
    found = talk.ask(SELECT_TASK, task_id)
    return task_of(found[0]) if found else None


def stats(talk: Talk) -> Stats:
    """See GetStats."""
    lanes: list[LaneCount] = []
    totals: dict[int, int] = {}
    for queue, type, state, count in talk.ask(SELECT_COUNTS):
        if queue is None:
            totals[state] = count
        elif count > 0:
            lanes.append(LaneCount(queue, type, STATE_OF[state], count))
    return Stats(
        lanes=tuple(sorted(lanes)),
        submitted=totals.get(SUBMITTED, 0),
        succeeded=totals.get(SUCCEEDED, 0),
        failed=totals.get(FAILED, 0),
        cancelled=totals.get(CANCELLED, 0),
    )


def failure_groups(talk: Talk, limit: int) -> tuple[FailureGroup, ...]:
    """See GetFailureGroups."""
    return tuple(
        FailureGroup(
            fingerprint=fingerprint, type=type, count=count, latest=latest, error=_error_decoder.decode(entry)
        )
        for fingerprint, type, count, latest, entry in talk.ask(SELECT_GROUPS, limit)
    )


def page(talk: Talk, query: ListTasks) -> TaskPage:
    """See ListTasks. To be asked in a transaction in which all that is read is of one moment."""
    return _Search(talk, query).page() if query.limit > 0 else TaskPage((), None)


class _Search:
    """One page."""

    def __init__(self, talk: Talk, query: ListTasks) -> None:
        self._talk = talk
        self._limit = query.limit
        self._brief = query.brief
        self._wanted = wanted = query.filter
        self._states = frozenset(STATE_CODE[state] for state in wanted.states)
        self._given: dict[str, Any] = {
            name: getattr(wanted, name) for name in _CONDITIONS if getattr(wanted, name) is not None
        }
        if wanted.error is not None:
            self._given["error"] = lowered(wanted.error).replace("\0", "\ufffd")
        self._before = query.before
        self._lanes = self._find_lanes()
        self._size, self._parts = min(self._sources())

    def page(self) -> TaskPage:
        """The tasks that are meant, from where it begins."""
        if self._wanted.payload is None:
            seqs, floor = self._seqs(self._limit + 1), self._floor()
        else:
            seqs, floor = self._look_into_payloads()
        following: int | None = floor
        if len(seqs) > self._limit:
            seqs = seqs[: self._limit]
            following = seqs[-1]
        tasks, cut_at = self._tasks(seqs)
        return TaskPage(tuple(tasks), cut_at or following)

    # Candidates

    def _find_lanes(self) -> list[int] | None:
        """The lanes that the filter names, if it names any and they are few."""
        named = [rule for name, rule in _IN_LANE.items() if name in self._given]
        if not named:
            return None
        statement = f"SELECT id FROM lanes WHERE {' AND '.join(named)} LIMIT {LANES_MERGED_MAX + 1}"
        lanes = [lane for (lane,) in self._ask(statement)]
        return lanes if len(lanes) <= LANES_MERGED_MAX else None

    def _sources(self) -> Iterator[Source]:
        """The ways to find candidates. All that is meant is among those of each."""
        sizes: dict[int, int] = dict(self._talk.ask(SELECT_SIZES))
        yield sum(sizes.values()), (_EVERY,)
        if self._states and SUCCEEDED not in self._states:
            parts = [(states, part) for states, part in _BY_STATE.items() if states & self._states]
            size = sum(sizes.get(state, 0) for states, _ in parts for state in states)
            yield size, tuple(part for _, part in parts)
        if self._lanes is not None:
            [(size,)] = self._talk.ask(SELECT_SIZE_OF_LANES, numbers(self._lanes))
            yield size, tuple(_BY_LANE.format(lane) for lane in self._lanes or [0])
        for name, part in _BY_VALUE.items():
            if name in self._given:
                [(size,)] = self._ask(f"SELECT count(*) FROM ({part} LIMIT {SCAN_MAX + 1}) AS counted")
                yield size, (part,)

    def _candidates(self, limit: int, after: int | None = None) -> str:
        """What gives the first *limit* candidates, those after the task *after*."""
        bound = f" AND seq < {after}" if after is not None else ""
        bound += f" AND seq < {self._before}" if self._before is not None else ""
        merged = " UNION ALL ".join(f"({part}{bound})" for part in self._parts)
        return f"SELECT seq FROM ({merged}) AS merged ORDER BY seq DESC LIMIT {limit}"

    def _floor(self) -> int | None:
        """The last candidate that this page looks at, if there are more."""
        if self._size <= SCAN_MAX:
            return None
        statement = (
            f"SELECT seq FROM ({self._candidates(SCAN_MAX + 1)}) AS all_of_it LIMIT 2 OFFSET {SCAN_MAX - 1}"
        )
        last = [seq for (seq,) in self._ask(statement)]
        return last[0] if len(last) == 2 else None

    # What is meant among them

    def _seqs(self, limit: int) -> list[int]:
        """The first *limit* candidates that are meant."""
        return [
            seq
            for (seq,) in self._ask(
                self._statement("tasks.seq", self._candidates(SCAN_MAX)) + f" LIMIT {limit}"
            )
        ]

    def _look_into_payloads(self) -> tuple[list[int], int | None]:
        """The candidates whose payload is meant, up to one too many; and where to go on, if it stopped."""
        found: list[int] = []
        looked_at = size = 0
        last: int | None = None
        while True:
            candidates = self._candidates(LOOKED_INTO, last)
            seqs = [seq for (seq,) in self._ask(candidates)]
            for seq, payload in self._ask(self._statement("tasks.seq, tasks.payload", candidates)):
                size += len(payload)
                if self._is_meant(payload):
                    found.append(seq)
                    if len(found) > self._limit:
                        return found, None
                if size > PARSED_BYTES_MAX:
                    return found, seq
            looked_at += len(seqs)
            if len(seqs) < LOOKED_INTO:
                return found, None
            last = seqs[-1]
            if looked_at >= SCAN_MAX:
                return found, last

    def _is_meant(self, payload: Any) -> bool:
        return self._wanted.payload is not None and is_in(self._wanted.payload, payload)

    def _statement(self, columns: str, candidates: str) -> str:
        return f"""
SELECT {columns}
FROM ({candidates}) AS candidates
JOIN tasks ON tasks.seq = candidates.seq
JOIN lives ON lives.seq = tasks.seq
JOIN lanes ON lanes.id = tasks.lane
WHERE {" AND ".join(self._conditions())}
ORDER BY candidates.seq DESC"""

    def _conditions(self) -> Iterator[str]:
        yield "true"
        if self._states:
            yield f"lives.state IN ({', '.join(map(str, sorted(self._states)))})"
        for name, condition in _CONDITIONS.items():
            if name in self._given:
                yield condition

    def _ask(self, statement: str) -> list[Row]:
        """The rows that *statement* gives, each ``{name}`` in it being what the filter says of that."""
        names = [name for name in self._given if "{" + name + "}" in statement]
        places = {name: f"${index}" for index, name in enumerate(names, 1)}
        return self._talk.ask(statement.format(**places), *(self._given[name] for name in names))

    def _tasks(self, seqs: list[int]) -> tuple[list[Task], int | None]:
        """The tasks *seqs*, and where the page is cut if their texts are too much for one."""
        tasks: list[Task] = []
        size = 0
        statement = SELECT_LISTED_BRIEFLY if self._brief else SELECT_LISTED
        for seq, row in zip(seqs, self._talk.ask(statement, numbers(seqs)), strict=True):
            task = task_of(row)
            if _is_told(self._wanted, task):
                tasks.append(brief(task) if self._brief else task)
            size += sum(len(value) for value in row if isinstance(value, str))
            if size > PAGE_BYTES_MAX and seq != seqs[-1]:
                return tasks, seq
        return tasks, None


def _is_told(wanted: TaskFilter, task: Task) -> bool:
    """Whether *task* tells of the error meant: what is searched has marks for what PostgreSQL cannot keep."""
    return wanted.error is None or is_told(wanted.error, task.errors)
