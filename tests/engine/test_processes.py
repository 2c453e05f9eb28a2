"""Handlers in child processes: what they say comes back, and nothing of them outlives its time.

On the real clock, since processes have no other. Nothing sleeps where an event can be waited for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from lease import run_of
from process_app import app
from real_time import PATIENCE_S, open_real_server, run_one, wait_until
from tiers import slow, tiered

from tq.core.task import Reason, State, Success
from tq.engine import processes
from tq.engine.pool import Stop
from tq.engine.processes import Children, python_child
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import finished, open_server, submit

HERE = Path(__file__).parent
MIB = 1024 * 1024
spawn = python_child("process_app:app")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with open_real_server(app, spawn=spawn) as opened:
        yield opened


async def wait_text(path: Path) -> str:
    """What a handler has written to *path*, once it has."""
    await wait_until(path.exists)
    return await trio.Path(path).read_text()


def is_alive(pid: int) -> bool:
    """Whether the process runs: a zombie, which nobody has waited for, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def wait_gone(*pids: int, within_s: float) -> None:
    await wait_until(lambda: not any(is_alive(pid) for pid in pids), within_s=within_s)


# What comes back


async def test_result_of_a_process_comes_back(server: Server) -> None:
    assert (await run_one(server, "echo", {"a": [1, None, "ü\u2028"]})).result == '{"a":[1,null,"ü\u2028"]}'
    assert (await run_one(server, "trio", {"n": 1})).result == "2"
    assert (await run_one(server, "asyncio", {"n": 1})).result == "3"


async def test_context_in_a_process_knows_its_attempt(server: Server) -> None:
    task = await run_one(server, "where", timeout=9)
    found = json.loads(task.result or "")
    assert 8 < found.pop("left") <= 9
    assert found == {"task": task.id, "attempt": 1, "leads_group": True}


@pytest.mark.parametrize("type", tiered(["raises", "raises_async"]))
async def test_exception_of_a_process_comes_back_with_the_handlers_own_traceback(
    server: Server, type: str
) -> None:
    task = await run_one(server, type)
    assert (task.state, task.reason) == (State.FAILED, Reason.ERROR)
    (error,) = task.errors
    assert (error.type, error.message) == ("ValueError", "no such address")
    assert error.traceback is not None
    first, *lines = error.traceback.splitlines()
    assert first == "Traceback (most recent call last):"
    assert lines[0].endswith(f", in {type}")
    assert lines[0].strip().startswith(f'File "{HERE / "process_app.py"}"')


async def test_retry_snooze_cancel_and_exit_mean_the_same_in_a_process(server: Server) -> None:
    retried = await run_one(server, "retry", max_attempts=3)
    assert (retried.result, [error.message for error in retried.errors]) == ("2", ["the rate limit"])
    snoozed = await run_one(server, "snooze")
    assert (snoozed.result, snoozed.errors) == ("2", ())
    cancelled = await run_one(server, "cancel")
    assert (cancelled.state, cancelled.errors[0].message) == (State.CANCELLED, "the order was withdrawn")
    exited = await run_one(server, "exits")
    assert (exited.errors[0].type, exited.errors[0].message) == ("SystemExit", "enough")


async def test_result_of_a_process_that_is_not_json_fails_without_retry(server: Server) -> None:
    task = await run_one(server, "not_json", max_attempts=5)
    assert (task.state, task.attempt, task.errors[0].type) == (State.FAILED, 1, "ResultNotJson")


@pytest.mark.parametrize("character", tiered(["x", '"', "\\"]))
async def test_a_mebibyte_goes_both_ways(server: Server, character: str) -> None:
    payload = character * ((MIB - 2) // len(json.dumps(character)[1:-1]))
    task = await run_one(server, "echo", payload)
    assert task.result == json.dumps(payload)


async def test_result_of_a_process_over_a_mebibyte_is_refused(server: Server) -> None:
    assert (await run_one(server, "large", {"size": MIB - 2})).state is State.SUCCEEDED
    task = await run_one(server, "large", {"size": MIB - 1})
    assert task.errors[0].type == "ResultTooLarge"


async def test_prints_and_rubbish_corrupt_no_frame(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    pid = await run_one(server, "pid")
    for _ in range(3):
        assert (await run_one(server, "prints")).result == '"undisturbed"'
    assert (await run_one(server, "pid")).result == pid.result
    out, err = capfd.readouterr()
    assert out.count("a line of a command") == 3
    assert err.count("a line\n") == 3


# Being killed


async def test_process_is_killed_at_the_time_limit(server: Server, tmp_path: Path) -> None:
    await run_one(server, "pid")
    for type in ("sleeps", "deaf"):
        file = tmp_path / type
        task_id = await submit(server, type=type, payload={"file": str(file)}, timeout=0.3, max_attempts=1)
        pid = int(await wait_text(file))
        (attempt,) = server.pool.running
        deadline = attempt.scope.deadline
        await wait_gone(pid, within_s=PATIENCE_S)
        assert -0.01 < trio.current_time() - deadline < 0.4
        task = await finished(server, task_id, within_s=PATIENCE_S)
        assert (task.reason, task.errors[0].message) == (Reason.TIMEOUT, "timed out after 0.3 s")


async def test_what_a_process_started_is_killed_with_it(server: Server, tmp_path: Path) -> None:
    await run_one(server, "pid")
    file = tmp_path / "pid"
    task = await run_one(server, "family", {"file": str(file)}, timeout=0.5)
    assert task.reason is Reason.TIMEOUT
    await wait_gone(int(file.read_text()), within_s=1)


async def test_cancelling_a_running_task_kills_its_process_group(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    task_id = await submit(server, type="family", payload={"file": str(file)})
    pid = int(await wait_text(file))
    attempt = server.pool.find(task_id)
    assert attempt is not None
    attempt.cancel(Stop.USER, now=server.clock.monotonic())
    task = await finished(server, task_id, within_s=PATIENCE_S)
    assert (task.state, task.reason) == (State.CANCELLED, Reason.USER)
    await wait_gone(pid, within_s=1)


async def test_a_child_is_used_again_and_replaced_after_a_kill(server: Server, tmp_path: Path) -> None:
    pids = [(await run_one(server, "pid")).result for _ in range(3)]
    assert len(set(pids)) == 1
    await run_one(server, "sleeps", {"file": str(tmp_path / "pid")}, timeout=0.1)
    after = (await run_one(server, "pid")).result
    assert after not in pids
    assert not is_alive(int(pids[0] or ""))


async def test_shutdown_kills_what_runs_and_what_is_idle(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    settings = Settings(workers=2, grace_s=0.0)
    async with open_real_server(app, spawn=spawn, settings=settings) as server:
        task_id = await submit(server, type="deaf", payload={"file": str(file)})
        running = int(await wait_text(file))
        idle = int((await run_one(server, "pid")).result or "")
        left = int((await run_one(server, "leaves")).result or "")
        assert all(is_alive(pid) for pid in (running, idle, left))
        store = server.store
        assert isinstance(store, MemoryStore)
    await wait_gone(running, idle, left, within_s=1)
    (task,) = (task for task in store.snapshot().tasks if task.id == task_id)
    assert (task.state, task.attempt) == (State.PENDING, 0)


# Dying by itself


@pytest.mark.parametrize("number", tiered([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
async def test_task_whose_process_dies_three_times_is_poison_with_no_attempt_burnt(
    server: Server, number: signal.Signals
) -> None:
    task = await run_one(server, "dies", {"number": int(number)})
    assert (task.state, task.reason, task.crashes, task.attempt) == (State.FAILED, Reason.POISON, 3, 0)
    assert [(error.type, error.message) for error in task.errors] == [
        ("ProcessDied", f"the process of this attempt died (signal {int(number)})")
    ] * 3
    assert (await run_one(server, "echo", 1)).result == "1"


async def test_what_a_dead_process_left_is_killed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    task = await run_one(server, "leaves_and_dies", {"file": str(file)})
    assert task.errors[0].message == "the process of this attempt died (exit code 3)"
    await wait_gone(int(file.read_text()), within_s=1)


@slow
async def test_forked_copy_of_a_child_neither_speaks_for_it_nor_hides_its_death(server: Server) -> None:
    pid = (await run_one(server, "pid")).result
    assert (await run_one(server, "forks")).result == '"undisturbed"'
    assert (await run_one(server, "pid")).result == pid
    task = await run_one(server, "forks_and_dies")
    assert task.errors[0].type == "ProcessDied"


@pytest.mark.parametrize("type", tiered(["closes", "rubbish"]))
async def test_child_that_cannot_be_understood_is_killed(server: Server, type: str) -> None:
    pid = int((await run_one(server, "pid")).result or "")
    assert (await run_one(server, type)).errors[0].type == "ProcessDied"
    assert not is_alive(pid)
    assert (await run_one(server, "echo", 1)).result == "1"


@slow
async def test_idle_child_that_died_is_not_used(server: Server) -> None:
    pid = int((await run_one(server, "pid")).result or "")
    os.kill(pid, signal.SIGKILL)
    await wait_gone(pid, within_s=PATIENCE_S)
    assert (await run_one(server, "echo", 1)).result == "1"


async def test_children_hold_no_descriptors_of_each_other(server: Server, tmp_path: Path) -> None:
    until = tmp_path / "until"
    ids = []
    for number in range(3):
        file = tmp_path / str(number)
        payload = {"file": str(file), "until": str(until)}
        ids.append(await submit(server, type="descriptors", payload=payload, max_attempts=1))
    for number in range(3):
        await wait_text(tmp_path / str(number))
    until.touch()
    held = [json.loads((await finished(server, each)).result or "") for each in ids]
    assert [len(each) for each in held] == [2, 2, 2], "a socket and the lifeline"
    assert len(set().union(*held)) == 6


# Starting


def test_server_refuses_processes_without_an_app_to_import() -> None:
    queue = TaskQueue()

    @queue.task("crunch", isolation="process")
    def crunch() -> None: ...

    async def start() -> None:
        async with open_real_server(queue):
            raise AssertionError("it has started")

    with pytest.raises(
        ValueError, match=r"type crunch: isolation=process needs an app that a child can import"
    ):
        trio.run(start)


async def test_kit_runs_a_handler_of_a_process_inline_on_virtual_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    queue = TaskQueue()

    @queue.task("plain", isolation="process")
    def plain() -> int:
        return os.getpid()

    @queue.task("*", isolation="process")
    async def sleeper() -> int:
        await trio.sleep(1000)
        return os.getpid()

    async with open_server(queue) as server:
        for type in ("plain", "any"):
            task_id = await submit(server, type=type, timeout=2000)
            assert (await finished(server, task_id)).result == str(os.getpid())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:app", "importing no_such_module:app raised ModuleNotFoundError: No module named"),
        pytest.param(
            "process_app:nothing",
            "importing process_app:nothing raised AttributeError: module 'process_app'",
            marks=slow,
        ),
        pytest.param(
            "process_app:tell",
            "importing process_app:tell raised TypeError: process_app:tell is a function,",
            marks=slow,
        ),
    ],
)
async def test_app_that_a_child_cannot_import_fails_the_attempt(reference: str, message: str) -> None:
    async with open_real_server(app, spawn=python_child(reference)) as server:
        (error,) = (await run_one(server, "pid")).errors
    assert error.type == "ProcessNotStarted"
    assert error.message.startswith(message)
    assert error.traceback is not None
    assert "engine/child.py" not in error.traceback


async def spawn_other(code: str, connection: int, lifeline: int, /) -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, "-c", code], pass_fds=(connection, lifeline), start_new_session=True
    )


async def test_process_that_ends_or_hangs_before_it_is_ready_fails_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_real_server(app, spawn=partial(spawn_other, "raise SystemExit(7)")) as server:
        (error,) = (await run_one(server, "pid")).errors
    assert (error.type, error.message) == (
        "ProcessNotStarted",
        "the process died before it was ready (exit code 7): see the server's stderr",
    )
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.2)
    async with open_real_server(app, spawn=partial(spawn_other, "import time; time.sleep(1000)")) as server:
        (error,) = (await run_one(server, "pid")).errors
    assert (error.type, error.message) == (
        "ProcessNotStarted",
        "the process did not get ready within 0.2 s",
    )


@slow
async def test_child_refuses_to_share_the_group_of_others() -> None:
    """It would take them along."""

    async def share(connection: int, lifeline: int, /) -> trio.Process:
        command = [
            sys.executable,
            "-m",
            "tq.engine.child",
            str(connection),
            str(lifeline),
            "process_app:app",
            "[]",
        ]
        return await trio.lowlevel.open_process(command, pass_fds=(connection, lifeline))

    async with open_real_server(app, spawn=share) as server:
        (error,) = (await run_one(server, "pid")).errors
    assert "died before it was ready (exit code 1)" in error.message


async def test_process_that_the_machine_refuses_fails_the_attempt() -> None:
    async def refuse(connection: int, lifeline: int, /) -> trio.Process:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with open_real_server(app, spawn=refuse) as server:
        (error,) = (await run_one(server, "pid")).errors
    assert error.type == "ProcessNotStarted"
    assert error.message.startswith("the process could not be started: ")


async def test_start_of_the_child_takes_no_time_of_the_attempt() -> None:
    async def slowly(connection: int, lifeline: int, /) -> trio.Process:
        await trio.sleep(0.5)
        return await spawn(connection, lifeline)

    async with open_real_server(app, spawn=slowly) as server:
        assert (await run_one(server, "pid", timeout=0.3)).state is State.SUCCEEDED


async def test_task_cancelled_while_its_child_starts_leaves_no_child() -> None:
    started: list[trio.Process] = []

    async def hang(connection: int, lifeline: int, /) -> trio.Process:
        started.append(await spawn_other("import time; time.sleep(1000)", connection, lifeline))
        return started[-1]

    async with open_real_server(app, spawn=hang) as server:
        task_id = await submit(server, type="pid")
        await wait_until(lambda: bool(started))
        attempt = server.pool.find(task_id)
        assert attempt is not None
        attempt.cancel(Stop.USER, now=server.clock.monotonic())
        assert (await finished(server, task_id, within_s=PATIENCE_S)).state is State.CANCELLED
    assert started[0].returncode == -signal.SIGKILL


# The death of the server


@pytest.mark.parametrize(
    ("type", "guard"),
    [
        ("deaf", "die_by_kernel"),
        pytest.param("family", "die_by_kernel", marks=slow),
        pytest.param("sleeps", "die_by_thread", marks=slow),
        ("family", "die_by_thread"),
    ],
)
async def test_child_whose_server_dies_is_gone_within_a_second(tmp_path: Path, type: str, guard: str) -> None:
    file = tmp_path / "pid"
    command = [sys.executable, str(HERE / "dying_server.py"), type, str(file), guard]
    server = await trio.lowlevel.open_process(command)
    pid = int(await wait_text(file))
    group = os.getpgid(pid)
    assert is_alive(pid)
    assert is_alive(group)
    server.kill()
    await wait_gone(pid, group, within_s=1)
    await server.wait()


async def test_child_that_ends_its_work_after_the_server_is_not_kept() -> None:
    children = Children(spawn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(children.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    outcome = await children.make(lambda: run_of("pid"))
    assert isinstance(outcome, Success)
    assert not is_alive(int(outcome.result))
