"""A server on a file that another has left, with work in every state."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio
import trio.testing

from tq.core import ops
from tq.core.events import Event, LeaseExpired
from tq.core.task import Reason, State, Task
from tq.handlers import TaskQueue
from tq.storage.store import open_store
from tq.testing import finished, open_server, submit


async def test_work_in_every_state_is_there_after_a_crash(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, tmp_path: Path, seen: list[Event]
) -> None:
    @queue.task("sleep", timeout=100)
    async def sleep(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @queue.task("fail")
    async def fail() -> None:
        raise ValueError("no")

    left, copy = tmp_path / "left.db", tmp_path / "copy.db"
    async with open_server(queue, store=open_store(f"sqlite:///{left}")) as server:
        ids = {
            State.SUCCEEDED: await submit(server, type="sleep", payload={"seconds": 0}),
            State.FAILED: await submit(server, type="fail", max_attempts=1),
            State.RETRYING: await submit(
                server, type="fail", max_attempts=2, retry={"kind": "fixed", "base": 100, "jitter": 0}
            ),
            State.SCHEDULED: await submit(server, type="sleep", payload={"seconds": 1}, delay=50),
            State.CANCELLED: await submit(server, type="sleep", payload={"seconds": 1}, delay=5),
        }
        await server.ledger.ask(ops.Cancel(ids[State.CANCELLED]))
        await trio.sleep(1)
        for _ in range(5):
            ids[State.RUNNING] = await submit(server, type="sleep", payload={"seconds": 30})
        await trio.sleep(1)
        ids[State.PENDING] = await submit(server, type="sleep", payload={"seconds": 1})
        await trio.sleep(1)
        # A crash leaves the file as it is now.
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{left}{suffix}", f"{copy}{suffix}")
        before = {task.id: task for task in server.store.snapshot().tasks}
    assert {state: before[task_id].state for state, task_id in ids.items()} == {state: state for state in ids}

    store = open_store(f"sqlite:///{copy}")
    async with open_server(queue, store=store, seed=1, emit=seen.append) as server:
        after = {task.id: task for task in server.store.snapshot().tasks}
        same = [State.SUCCEEDED, State.FAILED, State.RETRYING, State.SCHEDULED, State.CANCELLED]
        assert [after[ids[state]] for state in same] == [before[ids[state]] for state in same]
        assert [event for event in seen if isinstance(event, LeaseExpired)] == [
            LeaseExpired(at=server.clock.now_ms(), pending=5, failed=0, cancelled=0)
        ]
        await trio.testing.wait_all_tasks_blocked()
        recovered = await server.find(ids[State.RUNNING])
        assert recovered is not None
        assert (recovered.state, recovered.attempt, recovered.generation, recovered.crashes) == (
            State.RUNNING,
            1,
            2,
            1,
        )
        assert [(error.reason, error.type) for error in recovered.errors] == [
            (Reason.INTERRUPTED, "ServerLost")
        ]
        ended = {state: await finished(server, task_id) for state, task_id in ids.items()}
        assert {state: task.state for state, task in ended.items()} == {
            State.SUCCEEDED: State.SUCCEEDED,
            State.FAILED: State.FAILED,
            State.RETRYING: State.FAILED,
            State.SCHEDULED: State.SUCCEEDED,
            State.CANCELLED: State.CANCELLED,
            State.RUNNING: State.SUCCEEDED,
            State.PENDING: State.SUCCEEDED,
        }
        stats = await server.stats()
        assert (stats.submitted, stats.succeeded, stats.failed, stats.cancelled) == (11, 8, 2, 1)


async def test_task_under_which_servers_die_three_times_is_poison(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    @queue.task("it", timeout=100)
    async def it() -> None:
        await trio.sleep(50)

    path = tmp_path / "0.db"
    task: Task | None = None
    for crash in range(4):
        async with open_server(queue, store=open_store(f"sqlite:///{path}"), seed=crash) as server:
            if crash == 0:
                task_id = await submit(server, type="it")
            await trio.sleep(1)
            task = await server.find(task_id)
            after = tmp_path / f"{crash + 1}.db"
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{after}{suffix}")
            path = after
    assert task is not None
    assert (task.state, task.reason, task.crashes, task.generation) == (State.FAILED, Reason.POISON, 3, 3)
