"""The demo is the original server's work, told in its words."""

from __future__ import annotations

import re
from random import Random

import trio
from trio.testing import MockClock

from tq.core.task import Reason, State
from tq.demo import DemoError, make_demo
from tq.testing.kit import finished, open_server, submit


async def test_any_type_is_done_and_told_in_the_words_of_the_original(autojump_clock: MockClock) -> None:
    results, errors = set(), set()
    async with open_server(make_demo(Random(7))) as server:
        ids = [await submit(server, type=f"type-{i}", payload="text") for i in range(200)]
        for task_id in ids:
            task = await finished(server, task_id)
            if task.state is State.SUCCEEDED:
                results.add(task.result)
            else:
                assert (task.state, task.reason) == (State.FAILED, Reason.ERROR)
                assert task.attempt == 1, "no retry"
                errors.add(task.errors[-1].message)
        took = trio.current_time()
    assert all(
        re.fullmatch(r'"Task \'type-\d+\' processed by worker [1-5] in [01]\.\d\ds"', str(r)) for r in results
    )
    assert errors == {f"Worker {number} failed to process task" for number in range(1, 6)}
    # 200 tasks of one second on average, five at a time.
    assert 35 < took < 45


async def test_one_in_five_fails_and_the_work_takes_half_to_one_and_a_half_seconds(
    autojump_clock: MockClock,
) -> None:
    handler = make_demo(Random(1)).handler("anything").function
    said, durations = [], []

    class Attempt:
        worker, type = 3, "email"

    for _ in range(1_000):
        begun = trio.current_time()
        try:
            said.append(await handler(payload=None, ctx=Attempt))
        except DemoError as error:
            said.append(str(error))
        durations.append(trio.current_time() - begun)
    failed = said.count("Worker 3 failed to process task")
    assert 150 < failed < 250
    told = [f"Task 'email' processed by worker 3 in {seconds:.2f}s" for seconds in durations]
    assert sum(one == other for one, other in zip(said, told, strict=True)) == 1_000 - failed
    assert 0.5 <= min(durations) < 0.51
    assert 1.49 < max(durations) <= 1.51
