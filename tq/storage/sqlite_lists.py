"""Lists of tasks out of the SQLite store: what `tq.storage.memory_lists` says, at a cost that is bounded.

The candidates of a page come, newest first, from one index: of those that have all that is meant, the one
with the fewest entries. What is left of the filter is looked at row by row, of SCAN_MAX candidates at most;
then the page ends, however short, and says where the next one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import apsw
import msgspec

from tq.core.queries import FailureGroup, ListTasks, PayloadMatch, TaskPage
from tq.core.task import FINAL, AttemptError, Json, State, Task, brief
from tq.storage import sqlite_sql as sql
from tq.storage.matching import is_in
from tq.storage.records import RUNNING, STATE_CODE, STORE_LANE, task_of, to_json

SCAN_MAX: Final = 10_000
"""Candidates that one page looks at."""
PARSED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of long payloads that one page looks into."""
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of texts after which a page ends."""
LANES_MERGED_MAX: Final = 128
"""Lanes that one statement merges; where there are more, another source is taken."""

OPEN: Final = frozenset(STATE_CODE[state] for state in State if state not in FINAL)
FAILED: Final = STATE_CODE[State.FAILED]
CANCELLED: Final = STATE_CODE[State.CANCELLED]
SUCCEEDED: Final = STATE_CODE[State.SUCCEEDED]

BY_RUNNING: Final = f"SELECT seq FROM tasks INDEXED BY tasks_running WHERE state = {RUNNING}"
BY_OPEN: Final = "SELECT seq FROM tasks INDEXED BY tasks_open WHERE state < 5"
BY_FAILED: Final = f"SELECT seq FROM tasks INDEXED BY tasks_failed WHERE state = {FAILED}"
BY_CANCELLED: Final = f"SELECT seq FROM tasks INDEXED BY tasks_cancelled WHERE state = {CANCELLED}"
BY_PARENT: Final = "SELECT seq FROM tasks INDEXED BY tasks_by_parent WHERE parent_id = :parent_id"
BY_CAUSE: Final = "SELECT seq FROM tasks INDEXED BY tasks_by_cause WHERE fingerprint = :fingerprint"
BY_SCHEDULE: Final = (
    "SELECT seq FROM tasks INDEXED BY tasks_by_schedule WHERE tasks.options ->> 'schedule' = :schedule"
)
BY_TAG: Final = "SELECT seq FROM tags WHERE tag = :tag"
BY_VALUE: Final = {
    "parent_id": BY_PARENT,
    "fingerprint": BY_CAUSE,
    "schedule": BY_SCHEDULE,
    "tag": BY_TAG,
}
BY_LANE: Final = "SELECT seq FROM tasks INDEXED BY tasks_by_lane WHERE lane = {}"
EVERY: Final = "SELECT seq FROM tasks WHERE true"

_PAYLOAD = "ifnull(tasks.payload, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 0))"
_IS_IN_LANE = "EXISTS (SELECT 1 FROM lanes WHERE lanes.id = tasks.lane AND {})"
_CONDITIONS: Final = {
    "tag": "EXISTS (SELECT 1 FROM tags WHERE tags.tag = :tag AND tags.seq = tasks.seq)",
    "parent_id": "tasks.parent_id = :parent_id",
    "schedule": "tasks.options ->> 'schedule' = :schedule",
    "fingerprint": "tasks.fingerprint = :fingerprint",
    "created_after": "tasks.created_at >= :created_after",
    "created_before": "tasks.created_at < :created_before",
    "error": f"""(
        SELECT instr(lower((entry ->> 'type') || ': ' || (entry ->> 'message')), lower(:error))
        FROM errors WHERE {sql.LAST_ERROR})""",
}

SELECT_SIZES: Final = """
SELECT json_group_array(json_array(state, count)) FROM (
    SELECT state, sum(count) AS count FROM counters WHERE lane > 0 GROUP BY state
)
"""
SELECT_SIZE_OF_LANES: Final = """
SELECT ifnull(sum(count), 0) FROM counters WHERE lane IN (SELECT value FROM json_each(?1))
"""
# Where the bytes of long payloads, from the first candidate on, come to too many.
_FLOOR_BY_BYTES: Final = """
SELECT seq FROM (
    SELECT candidates.seq, sum(octet_length(text)) OVER (
        ORDER BY candidates.seq DESC ROWS UNBOUNDED PRECEDING
    ) AS total
    FROM ({}) AS candidates
    CROSS JOIN texts ON texts.seq = candidates.seq AND texts.part = 0
) WHERE total > :parsed_bytes_max ORDER BY seq DESC LIMIT 1
"""
_LISTED = "WHERE tasks.seq IN (SELECT value FROM json_each(?1)) ORDER BY tasks.seq DESC"
SELECT_LISTED: Final = sql.SELECT_TASKS + _LISTED
SELECT_LISTED_BRIEFLY: Final = sql.SELECT_BRIEFLY + _LISTED
SELECT_GROUPS: Final = f"""
SELECT causes.fingerprint, lanes.type, causes.count, tasks.id,
    (SELECT entry FROM errors WHERE {sql.LAST_ERROR})
FROM (
    SELECT fingerprint, count(*) AS count, max(seq) AS latest
    FROM tasks INDEXED BY tasks_by_cause WHERE fingerprint IS NOT NULL
    GROUP BY fingerprint ORDER BY count(*) DESC, fingerprint LIMIT ?1
) AS causes
CROSS JOIN tasks ON tasks.seq = causes.latest
CROSS JOIN lanes ON lanes.id = tasks.lane
ORDER BY causes.count DESC, causes.fingerprint
"""

Source: TypeAlias = tuple[int, tuple[str, ...]]
"""How many candidates there are at most, and the statements that give them, newest first, to be merged."""

_seqs_decoder: Final = msgspec.json.Decoder(list[int])
_sizes_decoder: Final = msgspec.json.Decoder(list[tuple[int, int]])
_error_decoder: Final = msgspec.json.Decoder(AttemptError)


def failure_groups(db: apsw.Connection, limit: int) -> tuple[FailureGroup, ...]:
    """See GetFailureGroups."""
    return tuple(
        FailureGroup(
            fingerprint=fingerprint, type=type, count=count, latest=latest, error=_error_decoder.decode(entry)
        )
        for fingerprint, type, count, latest, entry in db.execute(SELECT_GROUPS, (limit,))
    )


def page(db: apsw.Connection, query: ListTasks) -> TaskPage:
    """See ListTasks. All that is read is of one moment."""
    db.execute("BEGIN")
    answer = _Search(db, query).page() if query.limit > 0 else TaskPage((), None)
    db.execute("COMMIT")
    return answer


class _Search:
    """One page, inside a transaction."""

    def __init__(self, db: apsw.Connection, query: ListTasks) -> None:
        self._db = db
        self._limit = query.limit
        self._brief = query.brief
        self._wanted = wanted = query.filter
        self._states = frozenset(STATE_CODE[state] for state in wanted.states)
        self._bindings: dict[str, Any] = {
            name: getattr(wanted, name)
            for name in (*_CONDITIONS, "queue", "type", "key")
            if getattr(wanted, name) is not None
        }
        self._lanes = self._find_lanes()
        self._size, self._parts = min(self._sources())
        if query.before is not None:
            self._bound("seq < :before", before=query.before)

    def page(self) -> TaskPage:
        """The tasks that are meant, from where it begins."""
        floor = None
        if self._wanted.payload is not None:
            floor = self._floor_by_bytes()
            if floor is not None:
                self._bound("seq >= :floor", floor=floor)
        seqs = self._seqs()
        if len(seqs) > self._limit:
            seqs = seqs[: self._limit]
            following: int | None = seqs[-1]
        else:
            following = self._floor() or floor
        tasks, cut_at = self._tasks(seqs)
        if self._wanted.payload is not None:
            tasks = [task for task in tasks if is_in(self._wanted.payload, task.payload)]
        if self._brief:
            tasks = [brief(task) for task in tasks]
        return TaskPage(tuple(tasks), cut_at or following)

    # Candidates

    def _find_lanes(self) -> list[int] | None:
        """The lanes that the filter names, if it names any and they are few."""
        named = self._names_of_lane()
        if not named:
            return None
        statement = f"SELECT id FROM lanes WHERE {named} LIMIT {LANES_MERGED_MAX + 1}"
        lanes = [lane for (lane,) in self._db.execute(statement, self._bindings)]
        return lanes if len(lanes) <= LANES_MERGED_MAX else None

    def _names_of_lane(self) -> str:
        names = [name for name in ("queue", "type", "key") if name in self._bindings]
        return " AND ".join(f"lanes.{name} = :{name}" for name in names)

    def _sources(self) -> Iterator[Source]:
        """The ways to find candidates. All that is meant is among those of each."""
        sizes = dict(_sizes_decoder.decode(self._db.execute(SELECT_SIZES).get))
        yield sum(sizes.values()), (EVERY,)
        if self._states and SUCCEEDED not in self._states:
            yield self._by_states(sizes)
        if self._lanes is not None:
            size = self._db.execute(SELECT_SIZE_OF_LANES, (to_json(self._lanes),)).get
            yield size, tuple(BY_LANE.format(lane) for lane in self._lanes or [STORE_LANE])
        for name, statement in BY_VALUE.items():
            if name in self._bindings:
                counted = f"SELECT count(*) FROM ({statement} LIMIT {SCAN_MAX + 1})"
                yield self._db.execute(counted, self._bindings).get, (statement,)

    def _by_states(self, sizes: dict[int, int]) -> Source:
        """The tasks of the states that are meant, and maybe others; no index has those that succeeded."""
        states = self._states
        parts: list[tuple[frozenset[int], str]] = []
        if states & OPEN == {RUNNING}:
            parts.append((frozenset({RUNNING}), BY_RUNNING))
        elif states & OPEN:
            parts.append((OPEN, BY_OPEN))
        for state, statement in ((FAILED, BY_FAILED), (CANCELLED, BY_CANCELLED)):
            if state in states:
                parts.append((frozenset({state}), statement))
        size = sum(sizes.get(state, 0) for covered, _ in parts for state in covered)
        return size, tuple(statement for _, statement in parts)

    def _bound(self, condition: str, **bindings: int) -> None:
        """Let only candidates be that *condition* holds for."""
        self._parts = tuple(f"{part} AND {condition}" for part in self._parts)
        self._bindings |= bindings

    def _candidates(self, limit: int) -> str:
        return " UNION ALL ".join(self._parts) + f" ORDER BY seq DESC LIMIT {limit}"

    def _floor(self) -> int | None:
        """The last candidate that this page looks at, if there are more."""
        if self._size <= SCAN_MAX:
            return None
        statement = f"SELECT seq FROM ({self._candidates(SCAN_MAX + 1)}) LIMIT 2 OFFSET {SCAN_MAX - 1}"
        last = [seq for (seq,) in self._db.execute(statement, self._bindings)]
        return last[0] if len(last) == 2 else None

    def _floor_by_bytes(self) -> int | None:
        statement = _FLOOR_BY_BYTES.format(self._candidates(SCAN_MAX))
        found: int | None = self._db.execute(
            statement, self._bindings | {"parsed_bytes_max": PARSED_BYTES_MAX}
        ).get
        return found

    # What is meant among them

    def _seqs(self) -> list[int]:
        """The first candidates that are meant, one more than the page is to have."""
        found = self._db.execute(self._statement(), self._bindings | {"limit": self._limit + 1}).get
        return _seqs_decoder.decode(found)

    def _statement(self) -> str:
        return f"""
SELECT json_group_array(seq) FROM (
    SELECT tasks.seq
    FROM ({self._candidates(SCAN_MAX)}) AS candidates
    CROSS JOIN tasks ON tasks.seq = candidates.seq
    WHERE {" AND ".join(self._conditions())}
    LIMIT :limit
)"""

    def _conditions(self) -> Iterator[str]:
        yield "true"
        if self._states:
            yield f"tasks.state IN ({', '.join(map(str, sorted(self._states)))})"
        if self._lanes is not None:
            yield f"tasks.lane IN ({', '.join(map(str, self._lanes))})"
        elif self._names_of_lane():
            yield _IS_IN_LANE.format(self._names_of_lane())
        for name, condition in _CONDITIONS.items():
            if name in self._bindings:
                yield condition
        if self._wanted.payload is not None:
            yield self._payload_condition(self._wanted.payload)

    def _payload_condition(self, match: PayloadMatch) -> str:
        """What must be so of a payload that matches; `matching` has the last word."""
        self._bindings["path"] = "$" + "".join(f".{to_json(name)}" for name in match.path)
        rules = ["false"]
        for index, text in enumerate(match.values):
            kind, value = _kind_of(text)
            rule = f"json_type(text, :path) = '{kind}'"
            if value is not None:
                self._bindings[f"value{index}"] = value
                rule += f" AND text ->> :path = :value{index}"
            rules.append(rule)
        return f"EXISTS (SELECT 1 FROM (SELECT {_PAYLOAD} AS text) WHERE {' OR '.join(rules)})"

    def _tasks(self, seqs: list[int]) -> tuple[list[Task], int | None]:
        """The tasks *seqs*, and where the page is cut if their texts are too much for one."""
        tasks: list[Task] = []
        size = 0
        # Where payloads are looked into, they have to be read.
        briefly = self._brief and self._wanted.payload is None
        statement = SELECT_LISTED_BRIEFLY if briefly else SELECT_LISTED
        for seq, row in zip(seqs, self._db.execute(statement, (to_json(seqs),)), strict=False):
            tasks.append(task_of(row))
            size += sum(len(value) for value in row if isinstance(value, str))
            if size > PAGE_BYTES_MAX and seq != seqs[-1]:
                return tasks, seq
        return tasks, None


def _kind_of(text: Json) -> tuple[str, str | int | float | None]:
    """The type that SQLite gives a JSON value, and the value, if that can be compared."""
    value = msgspec.json.decode(text)
    match value:
        case None:
            return "null", None
        case bool():
            return str(value).lower(), None
        case int():
            # SQLite has what 64 bits do not hold as a float.
            return "integer", value if -(2**63) <= value < 2**63 else float(value)
        case float():
            return "real", value
        case str():
            return "text", value
        case list():
            return "array", None
        case _:
            return "object", None
