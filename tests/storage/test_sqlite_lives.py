"""What is SQLite's own about whole lives: the older file, what is left behind, plans, what is taken back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace
from sqlite_kit import BY_ID, BY_SEQ, said
from storage_kit import NOW, claim, do, failure, finish, new, recount, submit, task

from tq.core import ops, queries
from tq.core.errors import DuplicateTask
from tq.core.ops import AnyOp, RequestKey
from tq.core.task import (
    NO_OPTIONS,
    During,
    Json,
    LogLine,
    OnConflict,
    Options,
    Progress,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
    Unique,
)
from tq.storage import sqlite_rows, sqlite_schedules, sqlite_settle, sqlite_submit, sqlite_unique
from tq.storage import sqlite_sql as sql
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_file import migrate
from tq.storage.store import Snapshot

ONE = Unique("one")
STATES = ("scheduled", "pending", "running", "retrying", "succeeded", "failed", "cancelled")
"""Those that version 1 knew, numbered from 1."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "tq.db")
    yield opened
    opened.close()


# The file of version 1


def write_version_1(path: Path) -> None:
    """The file that the first tq left, with a task in each state that it knew, each with one failure."""
    db = apsw.Connection(str(path))
    script = (
        files("tq.storage").joinpath("migrations", "sqlite", "0001_tasks.sql").read_text(encoding="utf-8")
    )
    migrate(db, [script], done=0)
    db.execute("INSERT INTO lanes VALUES (3, 'default', 'email')")
    for code, name in enumerate(STATES, 1):
        server = "there" if name == "running" else None
        ended = NOW if code >= 5 else None
        db.execute(
            """INSERT INTO tasks (seq, id, lane, state, priority, run_at, attempt, generation, failures,
                    max_attempts, timeout_ms, created_at, retry, payload, server, finished_at, keep_until)
               VALUES (?1, ?2, 3, ?1, 0, ?3, 1, 1, 1, 3, 5000, ?3, '{}', '{"n":1}', ?4, ?5, ?5 + 1000)""",
            (code, name, NOW, server, ended),
        )
        entry = '{"attempt":1,"at":1,"reason":"error","type":"E","message":"no"}'
        db.execute("INSERT INTO errors VALUES (?1, 0, 0, ?2)", (code, entry))
        db.execute("INSERT INTO counters VALUES (3, ?1, 1)", (code,))
    # One that came between was pruned long ago: more were submitted than there are.
    db.execute("INSERT INTO counters VALUES (0, 100, 9), (0, 5, 1), (0, 6, 1), (0, 7, 1)")
    db.close()


def test_tasks_of_version_1_are_as_they_were_and_plain(tmp_path: Path) -> None:
    write_version_1(tmp_path / "tq.db")

    store = SqliteStore(tmp_path / "tq.db")
    try:
        assert store._writer.pragma("user_version") == 5
        found = store.snapshot()
        assert [each.id for each in found.tasks] == list(STATES)
        assert [each.state.value for each in found.tasks] == list(STATES)
        assert {plain(each) for each in found.tasks} == {True}
        assert (found.queues, found.schedules, found.holders, found.unsettled) == ((), (), (), ())
        assert (found.stats.submitted, found.stats.failed) == (9, 1)
        assert recount(store) == store.read(queries.GetStats()).lanes
        assert store.read(queries.NextDue()) == NOW
    finally:
        store.close()


def plain(task: Task) -> bool:
    """Whether *task* has nothing that version 1 did not know."""
    fresh = (task.key, task.blockers, task.fingerprint, task.progress, task.logs, task.options)
    return fresh == (None, 0, None, None, (), NO_OPTIONS) and len(task.errors) == 1


def test_tasks_of_version_1_live_on(tmp_path: Path) -> None:
    write_version_1(tmp_path / "tq.db")

    store = SqliteStore(tmp_path / "tq.db")
    try:
        do(store, ops.Submit(new("child", parent_id="running", depends_on=(TaskId("running"),))))
        assert do(store, ops.Promote(), NOW).count == 2
        assert [lease.task_id for lease in claim(store, 10)] == ["scheduled", "pending", "retrying"]
        do(store, ops.Note(TaskId("running"), 1, Progress(0.5), (LogLine(NOW, 1, "half"),)))
        do(store, ops.Cancel(TaskId("running")))
        assert do(store, ops.Recover(ServerId("here"), 0)).cancelled == 1
        assert do(store, ops.Settle()).changes == (ops.Change(TaskId("child"), State.CANCELLED),)
        do(store, ops.Retry(TaskId("failed")))
        assert do(store, ops.Delete(TaskId("succeeded"))) == ops.Deleted()
        assert do(store, ops.Prune(), NOW + 2_000).count == 1
        assert recount(store) == store.read(queries.GetStats()).lanes
    finally:
        store.close()


# What is kept, and what is not


def test_everything_of_a_life_is_there_after_a_restart(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "tq.db")
    do(first, ops.Submit(new("a", tags=("x",), unique=ONE, expires_at=NOW + 9), RequestKey("r", "d")))
    do(first, ops.Submit(new("b", depends_on=(TaskId("a"),), parent_id="a")))
    [lease] = claim(first)
    do(first, ops.Note(TaskId("a"), 1, Progress(0.5, "half"), (LogLine(NOW, 1, "line"),)))
    do(first, finish(lease, State.FAILED, Reason.ERROR, error=failure(1)))
    do(first, ops.PutSchedule("s", Json("1"), NOW + 5))
    before = first.snapshot()
    first.close()

    second = SqliteStore(tmp_path / "tq.db")
    try:
        assert second.snapshot() == before
        assert (before.unsettled, before.schedules[0].next_at) == (("a",), NOW + 5)
        assert do(second, ops.Submit(new("z"), RequestKey("r", "d"))).task_id == "a"
        assert second.unsettled
        assert do(second, ops.Settle()).changes == (ops.Change(TaskId("b"), State.CANCELLED),)
        assert not second.unsettled
    finally:
        second.close()


def test_number_of_a_deleted_task_is_not_given_again(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "tq.db")
    submit(first, "a", "b")
    do(first, ops.Cancel(TaskId("b")))
    do(first, ops.Delete(TaskId("b")))
    first.close()

    second = SqliteStore(tmp_path / "tq.db")
    try:
        submit(second, "c")
        assert second._writer.execute("SELECT max(seq) FROM tasks").get == 3
    finally:
        second.close()


@pytest.mark.parametrize("how", ["prune", "delete"])
def test_task_that_is_gone_leaves_nothing_behind(store: SqliteStore, how: str) -> None:
    do(store, ops.Submit(new("a")))
    do(store, ops.Submit(new("b", tags=("x", "y"), unique=ONE, parent_id="a", depends_on=(TaskId("a"),))))
    lease = claim(store)[0]
    do(store, ops.Note(TaskId("a"), 1, Progress(0.5), tuple(LogLine(NOW, 1, str(n)) for n in range(300))))
    do(store, finish(lease, State.FAILED, Reason.ERROR, error=failure(1), result='"' + "x" * 2_000 + '"'))
    assert rows(store) == {
        "tasks": 2,
        "tags": 2,
        "dependencies": 1,
        "unsettled": 1,
        "holders": 1,
        "logs": 200,
        "errors": 1,
        "texts": 1,
    }
    do(store, ops.Settle())

    if how == "prune":
        do(store, ops.Prune(), NOW + 10**10)
    else:
        store.apply([ops.Delete(TaskId("a")), ops.Delete(TaskId("b"))], NOW)

    assert set(rows(store).values()) == {0}


def rows(store: SqliteStore) -> dict[str, int]:
    tables = ("tasks", "tags", "dependencies", "unsettled", "holders", "logs", "errors", "texts")
    return {table: store._writer.execute(f"SELECT count(*) FROM {table}").get for table in tables}


def test_last_lines_of_a_log_are_kept_in_order(store: SqliteStore) -> None:
    submit(store, "a")
    claim(store)
    for start in (0, 150, 300):
        lines = tuple(LogLine(NOW, 1, str(n)) for n in range(start, start + 150))
        do(store, ops.Note(TaskId("a"), 1, None, lines))

    assert [line.text for line in task(store, "a").logs] == [str(n) for n in range(250, 450)]


def test_refused_batch_takes_back_book_and_counters(store: SqliteStore) -> None:
    do(store, ops.Submit(new("held", unique=ONE)))
    do(store, ops.Submit(new("known", unique=Unique("two"))))
    before = store.snapshot()
    assert store._book is not None
    lanes, arrived = dict(store._book.lanes), store._book.arrived
    batch = (
        new("a", queue="elsewhere", tags=("x",)),
        new("b", unique=Unique("one", on_conflict=OnConflict.REPLACE), parent_id="a"),
        new("c", unique=Unique("two", on_conflict=OnConflict.REJECT), depends_on=(TaskId("a"),)),
    )

    refused, reply = store.apply([ops.SubmitMany(batch), ops.Submit(new("after", queue="third"))], NOW)

    assert isinstance(refused, DuplicateTask)
    assert refused.fields["index"] == 2
    assert reply == ops.Submitted(TaskId("after"), State.PENDING)
    assert (store.snapshot().tasks[:-1], store.snapshot().holders) == (before.tasks, before.holders)
    assert (store._book.arrived, len(store._book.lanes)) == (arrived + 1, len(lanes) + 1)
    assert recount(store) == store.read(queries.GetStats()).lanes
    assert rows(store)["tags"] == 0


def test_prune_forgets_the_requests_whose_time_is_over(store: SqliteStore) -> None:
    do(store, ops.Submit(new("a"), RequestKey("old", "d")))
    do(store, ops.Submit(new("b"), RequestKey("young", "d")), NOW + 1)

    do(store, ops.Prune(), NOW + ops.REQUEST_KEPT_MS)

    assert store._writer.execute("SELECT key FROM requests").fetchall() == [("young",)]


# What random runs hardly meet, done as the model does it


def alike(path: Path, *batches: tuple[list[AnyOp], int]) -> Snapshot:
    """What both the model and SQLite say after *batches*, each with its instant; they must agree."""
    model, store = MemoryStore(), SqliteStore(path)
    try:
        for batch, now in batches:
            assert store.apply(batch, now) == model.apply(batch, now)
            assert store.snapshot() == model.snapshot()
    finally:
        store.close()
    return model.snapshot()


QUEUED = Unique("one", During.QUEUED)


def end(name: str, state: State, run_at: int | None = None) -> ops.Finish:
    """The end of the first attempt at task *name*."""
    return ops.Finish(
        task_id=TaskId(name), generation=1, state=state, reason=None, run_at=run_at, started_at=NOW
    )


def test_free_key_goes_to_the_first_that_is_promoted(tmp_path: Path) -> None:
    claim_one = ops.Claim(ServerId("here"), None, 1)

    found = alike(
        tmp_path / "tq.db",
        ([ops.Submit(new("a", unique=QUEUED)), claim_one], NOW),
        ([ops.Submit(new("b", unique=QUEUED)), claim_one], NOW),
        ([ops.Submit(new("c", unique=QUEUED))], NOW),
        ([end("a", State.RETRYING, NOW + 20), end("b", State.RETRYING, NOW + 10)], NOW),
        ([ops.Cancel(TaskId("c"))], NOW),
        ([ops.Promote()], NOW + 30),
    )

    assert found.holders == (("email/one", "b"),)


def test_task_that_replaces_one_it_depends_on_is_cancelled_with_it(tmp_path: Path) -> None:
    replacing = Unique("one", on_conflict=OnConflict.REPLACE)

    found = alike(
        tmp_path / "tq.db",
        ([ops.Submit(new("a", unique=ONE))], NOW),
        ([ops.Submit(new("b", unique=replacing, depends_on=(TaskId("a"),)))], NOW),
    )

    assert [each.state for each in found.tasks] == [State.CANCELLED, State.CANCELLED]
    assert (found.holders, found.unsettled) == ((), ())


def test_children_hear_of_a_cancel_whose_task_ends_in_the_same_run(tmp_path: Path) -> None:
    for start in range(2):
        stop: list[AnyOp] = [ops.Cancel(TaskId("a")), end("a", State.SUCCEEDED)]
        found = alike(
            tmp_path / f"{start}.db",
            ([ops.Submit(new("a")), ops.Claim(ServerId("here"), None, 1)], NOW),
            ([ops.Submit(new("b", parent_id="a", run_at=NOW + 9))], NOW),
            *([(stop, NOW)] if start else [([op], NOW) for op in stop]),
            ([ops.Settle()], NOW),
        )
        assert [each.reason for each in found.tasks] == [Reason.USER, Reason.PARENT]


def test_long_result_is_gone_after_a_retry_in_the_same_run(tmp_path: Path) -> None:
    long = Json('"' + "x" * 2_000 + '"')

    found = alike(
        tmp_path / "tq.db",
        ([ops.Submit(new("a")), ops.Claim(ServerId("here"), None, 1)], NOW),
        ([replace(end("a", State.SUCCEEDED), result=long), ops.Retry(TaskId("a"))], NOW),
    )

    assert found.tasks[0].result is None


def test_two_writers_cannot_both_hold_a_name(store: SqliteStore) -> None:
    do(store, ops.Submit(new("a", unique=ONE)))

    with pytest.raises(apsw.ConstraintError):
        store._writer.execute("INSERT INTO holders VALUES ('email/one', 'b')")


# Speed


EDGE = "SEARCH dependencies USING PRIMARY KEY (dependency=?)"
TOLD = "SEARCH dependencies USING COVERING INDEX dependencies_by_dependent (dependent=? AND dependency=?)"
SORTED = "USE TEMP B-TREE FOR json_group_array(ORDER BY)"
"""The few entries of one task."""
LANE = "SEARCH lanes USING INTEGER PRIMARY KEY (rowid=?)"
NAME = "SEARCH holders USING PRIMARY KEY (name=?)"


@pytest.mark.parametrize(
    ("statement", "steps"),
    [
        (sqlite_submit.SET_OPTIONS, [BY_SEQ]),
        (sqlite_submit.UPDATE_WATCHED, [BY_SEQ]),
        (sqlite_submit.SELECT_REFERENCES, [BY_ID]),
        (sqlite_submit.SELECT_HOLDER, [NAME, BY_ID]),
        (sqlite_submit.SELECT_REQUEST, ["SEARCH requests USING PRIMARY KEY (key=?)", BY_ID + " LEFT-JOIN"]),
        (sqlite_rows.UPDATE_FINGERPRINTS, [BY_SEQ]),
        (sqlite_rows.UPDATE_BLOCKERS, [BY_SEQ]),
        (sqlite_rows.UPDATE_OPTIONS, [BY_SEQ]),
        (sqlite_rows.UPDATE_VALUES, [BY_SEQ]),
        (sqlite_rows.UPDATE_NOTED, [BY_SEQ]),
        (sqlite_rows.IS_UNSETTLED, ["SEARCH unsettled USING INTEGER PRIMARY KEY (rowid=?)"]),
        (sqlite_unique.SELECT_HOLDERS, [NAME]),
        (sqlite_unique.DELETE_HOLDERS, [NAME]),
        # Sorts its few arguments.
        (sqlite_unique.SELECT_MOVED, [BY_SEQ, LANE, "USE TEMP B-TREE FOR ORDER BY"]),
        # Reads one row of the little that is not settled.
        (sqlite_settle.SELECT_UNSETTLED, ["SCAN unsettled", BY_SEQ]),
        (sqlite_settle.SELECT_DEPENDENTS, [EDGE, BY_SEQ]),
        (sqlite_settle.DELETE_TOLD, [TOLD]),
        (sqlite_settle.SELECT_CHILDREN, ["SEARCH tasks USING INDEX tasks_by_parent (parent_id=?)"]),
        (sqlite_schedules.SELECT_SCHEDULE, ["SEARCH schedules USING PRIMARY KEY (name=?)"]),
        (sqlite_schedules.SELECT_SCHEDULES, ["SEARCH schedules USING PRIMARY KEY (name>?)"]),
        (
            sqlite_schedules.SELECT_DUE_SCHEDULES,
            ["SEARCH schedules USING INDEX schedules_due (next_at>? AND next_at<?)"],
        ),
        (sql.SELECT_STOPPED, ["SEARCH tasks USING INDEX tasks_stopping (stop_at>? AND stop_at<?)"]),
        (sql.DELETE_RARE[0], ["SEARCH logs USING PRIMARY KEY (seq=?)"]),
        (sql.DELETE_RARE[1], ["SEARCH tags USING COVERING INDEX tags_by_task (seq=?)"]),
        (sql.DELETE_RARE[2], [EDGE]),
        (sql.DELETE_RARE[3], [TOLD.replace(" AND dependency=?", "")]),
        (sql.DELETE_OLD_REQUESTS, ["SEARCH requests USING INDEX requests_by_age (until<?)"]),
        (sql.SELECT_TASK, [BY_ID, LANE, SORTED, SORTED, "SEARCH logs USING PRIMARY KEY (seq=?)"]),
    ],
)
def test_statement_goes_by_an_index(store: SqliteStore, statement: str, steps: list[str]) -> None:
    assert plan(store, statement) == steps


def plan(store: SqliteStore, statement: str) -> list[str]:
    """The steps of *statement* in tables, but for the texts of tasks; and what it sorts."""
    arguments = max((int(number) for number in re.findall(r"\?(\d+)", statement)), default=0)
    told = store._writer.execute("EXPLAIN QUERY PLAN " + statement, [None] * arguments)
    tables = (
        "tasks|lanes|(SEARCH|SCAN) logs|dependencies|unsettled|holders|requests|schedules|tags|TEMP B-TREE"
    )
    return [str(step[3]) for step in told if re.search(tables, str(step[3]))]


def test_plain_batch_costs_no_more_statements_than_it_did(store: SqliteStore) -> None:
    """Of each op that plain tasks go through; a lane is known, nothing has failed."""
    submit(store, "first")
    with said(store._writer) as words:
        store.apply([ops.Submit(new(f"t{n}")) for n in range(500)], NOW)
    assert words == ["BEGIN", "SELECT", "INSERT", "INSERT", "COMMIT"]

    leases = claim(store, 100)
    with said(store._writer) as words:
        store.apply([finish(lease, result="1") for lease in leases], NOW)
    assert words == ["BEGIN", "SELECT", "UPDATE", "INSERT", "COMMIT"]


def test_tagged_batch_costs_two_statements_more(store: SqliteStore) -> None:
    submit(store, "first")
    with said(store._writer) as words:
        store.apply([ops.Submit(new(f"t{n}", tags=("x",), deadline_at=NOW + n)) for n in range(500)], NOW)

    assert words == ["BEGIN", "SELECT", "INSERT", "UPDATE", "INSERT", "INSERT", "COMMIT"]
    assert task(store, "t7").options == Options(tags=("x",), deadline_at=NOW + 7)


def test_thousand_dependents_are_told_in_a_handful_of_statements(store: SqliteStore) -> None:
    submit(store, "a")
    for start in range(0, 1_000, 500):
        many = [ops.Submit(new(f"t{n}", depends_on=(TaskId("a"),))) for n in range(start, start + 500)]
        store.apply(many, NOW)
    do(store, finish(claim(store)[0]))

    with said(store._writer) as words:
        assert len(do(store, ops.Settle(limit=2_000)).changes) == 1_000

    assert len(words) < 15
