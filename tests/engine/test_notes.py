"""What attempts tell: taken, shown, put back, and in which order."""

from __future__ import annotations

import threading

import msgspec.structs
import trio
from lease import run_of
from real_time import PATIENCE_S, open_real_server

from tq.context import Context
from tq.core.ops import Note, Submit
from tq.core.queries import GetTask
from tq.core.task import Json, LogLine, NewTask, Progress, Task, TaskId
from tq.engine.notes import Notes
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import finished, submit


def notes() -> Notes:
    return Notes(run_of("nap").lease, lambda: 5)


def a_task() -> Task:
    store = MemoryStore()
    new = NewTask(
        id=TaskId("t1"), type="nap", payload=Json("null"), run_at=0, timeout_ms=1000, max_attempts=1
    )
    store.apply([Submit(new)], 0)
    task = store.read(GetTask(TaskId("t1")))
    assert task is not None
    return task


def texts(note: Note | None) -> list[str]:
    return [] if note is None else [line.text for line in note.lines]


def shown(notes: Notes, task: Task) -> list[str]:
    return [line.text for line in notes.added_to(task).logs]


def test_nothing_told_is_nothing_to_store() -> None:
    told = notes()
    assert told.take() is None
    told.progress(Progress(0.5, "half"))
    assert told.take() is not None
    assert told.take() is None


def test_a_line_that_is_on_its_way_into_the_store_is_shown_before_and_after_and_once() -> None:
    told, task = notes(), a_task()
    told.log("one")
    note = told.take()
    assert note is not None
    assert shown(told, task) == ["one"]
    stored = msgspec.structs.replace(task, logs=note.lines)
    assert shown(told, stored) == ["one"]
    told.log("two")
    assert shown(told, stored) == ["one", "two"]


def test_what_is_put_back_goes_before_what_was_told_since() -> None:
    told = notes()
    told.log("one")
    first = told.take()
    told.log("two")
    assert first is not None
    told.put_back(first)
    assert shown(told, a_task()) == ["one", "two"]
    assert texts(told.take()) == ["one", "two"]


def test_two_notes_of_an_ended_attempt_are_put_back_in_order_whichever_comes_first() -> None:
    for last_first in (True, False):
        told = notes()
        told.log("one")
        first = told.take()
        told.log("two")
        told.progress(Progress(1.0, "end"))
        last = told.take()
        assert first is not None
        assert last is not None
        if last_first:
            told.put_back(last, is_last=True)
            told.put_back(first)
        else:
            told.put_back(first)
            told.put_back(last, is_last=True)
        again = told.take()
        assert texts(again) == ["one", "two"]
        assert again is not None
        assert again.progress == Progress(1.0, "end")


def test_of_more_lines_than_are_kept_the_first_are_dropped_when_they_are_put_back() -> None:
    told = notes()
    for number in range(150):
        told.log(f"old {number}")
    note = told.take()
    for number in range(100):
        told.log(f"new {number}")
    assert note is not None
    told.put_back(note)
    kept = texts(told.take())
    assert (len(kept), kept[0], kept[99], kept[100], kept[-1]) == (
        200,
        "old 50",
        "old 149",
        "new 0",
        "new 99",
    )


def test_progress_that_was_told_since_is_not_replaced_by_what_is_put_back() -> None:
    told = notes()
    told.progress(Progress(0.1, "first"))
    first = told.take()
    told.progress(Progress(0.2, "second"))
    assert first is not None
    told.put_back(first)
    note = told.take()
    assert note is not None
    assert note.progress == Progress(0.2, "second")


def test_nothing_that_another_thread_tells_is_lost() -> None:
    told = notes()
    taken: list[LogLine] = []
    progress: list[Progress] = []

    def tell() -> None:
        for number in range(5000):
            told.progress(Progress(number / 5000, str(number)))
            told.log(str(number))

    thread = threading.Thread(target=tell)
    thread.start()
    while thread.is_alive():
        gather(told, taken, progress)
    gather(told, taken, progress)
    numbers = [int(line.text) for line in taken]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 4999
    assert progress[-1].message == "4999"


def gather(told: Notes, taken: list[LogLine], progress: list[Progress]) -> None:
    note = told.take()
    if note is not None:
        taken.extend(note.lines)
        progress += [note.progress] if note.progress is not None else []


async def test_what_a_thread_tells_is_shown_while_it_runs() -> None:
    queue = TaskQueue()
    go_on = threading.Event()

    @queue.task("plain", timeout=60)
    def plain(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        ctx.log("told")
        go_on.wait(PATIENCE_S)

    async with open_real_server(queue) as server:
        task_id = await submit(server, type="plain")
        with trio.fail_after(PATIENCE_S):
            while not (task := await server.find(task_id)) or not task.logs:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert (task.state, task.progress) == ("running", Progress(0.5, "half"))
        go_on.set()
        ended = await finished(server, task_id)
        assert [line.text for line in ended.logs] == ["told"]
