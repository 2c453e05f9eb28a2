"""What one server commits reaches those who watch at another, with no gap, also while one of them joins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import msgspec
import pytest
import trio
from fleet_kit import Deaf, Freezer, crashing, open_fleet, shared
from trio.testing import MockClock

from tq.api.live import Message, all_messages, task_messages
from tq.context import Context
from tq.core.errors import StorageUnavailable
from tq.core.events import TaskSubmitted
from tq.core.ops import Cancel, Letter
from tq.core.task import ServerId, State, TaskId
from tq.engine.letters import WAITING_MAX, Body, Outbox, read_body, write_body
from tq.engine.ring import Logged, Progressed, Wanted
from tq.engine.server import Server
from tq.handlers import TaskQueue
from tq.testing.faults import FaultyStore
from tq.testing.kit import finished, open_server, submit


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("tell", timeout=600)
    async def tell(ctx: Context, seconds: float = 1) -> str:
        ctx.log("begins")
        await trio.sleep(seconds)
        ctx.progress(0.5, "half")
        await trio.sleep(seconds)
        return "told"

    return queue


async def follow(server: Server, id: str, seen: list[Message], last_id: str | None = None) -> None:
    async with aclosing(task_messages(server, TaskId(id), last_id)) as messages:
        async for batch in messages:
            seen += [each for each in batch if each.event is not None]


def names(seen: Sequence[Message]) -> list[str]:
    return [str(each.event) for each in seen]


def state_in(message: Message) -> str:
    return str(msgspec.json.decode(message.data)["state"])


async def test_a_watcher_hears_all_of_a_task_that_runs_elsewhere(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_fleet(shared(), queue, TaskQueue()) as (_, other):
        await trio.sleep(3)
        await submit(other, type="tell", id="t", delay=1)
        seen: list[Message] = []
        with trio.fail_after(10):
            await follow(other, "t", seen)
    assert names(seen) == [
        "snapshot",
        "task.started",
        "task.logged",
        "task.progressed",
        "attempt.finished",
        "end",
    ]
    assert state_in(seen[-1]) == "succeeded"
    assert [each.id for each in seen] == sorted(each.id or "" for each in seen)
    assert {(each.id or "").rpartition("-")[0] for each in seen} == {other.id}


async def test_who_comes_back_goes_on_where_it_was_and_elsewhere_begins_anew(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_fleet(shared(), queue, TaskQueue()) as (works, other):
        await trio.sleep(3)
        await submit(other, type="tell", id="t", delay=1)
        seen: list[Message] = []
        with trio.move_on_after(1.5):
            await follow(other, "t", seen)
        assert names(seen) == ["snapshot", "task.started", "task.logged"]
        again: list[Message] = []
        moved: list[Message] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, other, "t", again, seen[-1].id)
            nursery.start_soon(follow, works, "t", moved, seen[-1].id)
    assert names(again) == ["task.progressed", "attempt.finished", "end"]
    assert names(moved) == ["snapshot", "task.progressed", "attempt.finished", "end"]


async def test_who_watches_everything_hears_of_all_servers_in_their_order(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_fleet(shared(), queue, queue, TaskQueue()) as servers:
        await trio.sleep(3)
        seen: list[Message] = []

        async def watch() -> None:
            async with aclosing(all_messages(servers[2], Wanted(), None)) as messages:
                async for batch in messages:
                    seen.extend(each for each in batch if each.event is not None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.sleep(0.1)
            ids = [await submit(servers[n % 3], type="tell", payload={"seconds": 0.1}) for n in range(30)]
            for id in ids:
                await finished(servers[0], id)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
    fields = [(each.event, msgspec.json.decode(each.data)) for each in seen[1:]]
    for id in ids:
        of_task = [event for event, data in fields if data.get("task_id") == id]
        # A lease that lay too long goes back, and another server may have it.
        of_task = [event for event in of_task if event != "task.released"]
        assert of_task == ["task.submitted", "task.started", "attempt.finished"], id


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.3, 0.9, 1.0, 1.01, 1.5])
async def test_nothing_is_missed_by_who_watches_at_a_server_that_has_just_begun(
    queue: TaskQueue, autojump_clock: MockClock, moment: float
) -> None:
    """The first was alone till now, and wrote no letters: what it still commits without one is seen anew."""
    store = shared()
    # It is not rung for, so that it finds out about the newcomer by its next question, at 3.
    async with open_server(queue, store=Deaf(store), seed=1) as alone:
        await trio.sleep(2.5)
        for n in range(20):
            await submit(alone, type="tell", id=f"t{n}", delay=0.2 * n, payload={"seconds": 0.1})
        assert store.snapshot().letters == ()
        async with open_server(TaskQueue(), store=store, seed=2) as newcomer:
            await trio.sleep(moment)
            seen: dict[str, list[Message]] = {f"t{n}": [] for n in range(20)}
            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    for id, messages in seen.items():
                        nursery.start_soon(follow, newcomer, id, messages)
    for id, messages in seen.items():
        ends = [each for each in messages if each.event == "end" or state_in_if(each) == "succeeded"]
        assert ends, (id, names(messages))


def state_in_if(message: Message) -> str:
    return state_in(message) if message.event == "snapshot" else ""


async def test_a_snapshot_never_shows_what_is_told_once_more(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    """A watcher that opens while another server commits: the snapshot and the events fit."""
    async with open_fleet(shared(), queue, TaskQueue()) as (_, other):
        await trio.sleep(3)
        seen: dict[str, list[Message]] = {}
        async with trio.open_nursery() as nursery:
            for n in range(200):
                id: str = await submit(other, type="tell", payload={"seconds": 0.001 * (n % 7)})
                nursery.start_soon(follow, other, id, seen.setdefault(id, []))
                await trio.sleep(0.003)
    order = ["snapshot", "task.started", "attempt.finished", "end"]
    for id, messages in seen.items():
        told = [each for each in names(messages) if each in order]
        begins = {"pending": 0, "running": 1, "succeeded": 3}[state_in(messages[0])]
        wanted = ["snapshot", *order[1 + begins :]] if begins < 3 else ["snapshot"]
        # A start is told when it happens, not when it is committed.
        assert told in (wanted, ["snapshot", *order[1:]]), (id, told)


async def test_a_crash_between_a_commit_and_its_news_loses_none(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_server(TaskQueue(), store=store, seed=2) as other:
        await trio.sleep(1)
        seen: list[Message] = []
        async with trio.open_nursery() as nursery, crashing(queue, store) as dying:
            await trio.sleep(2)
            await submit(dying, type="tell", id="t", delay=60)
            nursery.start_soon(follow, other, "t", seen)
            await trio.sleep(1)
            await dying.change(Cancel(TaskId("t")))
            # Killed in the same instant: nobody was rung for.
    assert names(seen) == ["snapshot", "task.cancelled", "end"]


async def test_what_becomes_of_the_tasks_of_a_dead_server_is_seen(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_server(TaskQueue(), store=store, seed=2) as other:
        await trio.sleep(1)
        seen: list[Message] = []
        async with trio.open_nursery() as nursery, crashing(queue, store) as dying:
            await trio.sleep(2)
            await submit(dying, type="tell", id="t", payload={"seconds": 100})
            nursery.start_soon(follow, other, "t", seen)
            await trio.sleep(1)
            await dying.change(Cancel(TaskId("t")))
            nursery.cancel_scope.deadline = trio.current_time() + 40
    assert names(seen)[-1] == "end"
    assert state_in(seen[-1]) == "cancelled"


async def test_who_is_too_far_behind_what_is_kept_begins_anew(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    store, freezer = shared(), Freezer()
    async with (
        open_server(queue, store=store, seed=1) as works,
        open_server(TaskQueue(), store=store, seed=2, run_sync=freezer.run_sync) as other,
    ):
        await trio.sleep(3)
        await submit(works, type="tell", id="t", payload={"seconds": 45})
        seen: list[Message] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, other, "t", seen)
            await trio.sleep(1)
            freezer.freeze()
            await trio.sleep(170)
            assert all(number > 3 for _, number in store.snapshot().letters)
            freezer.thaw()
    assert names(seen) == ["snapshot", "task.started", "task.logged", "end"]
    assert state_in(seen[-1]) == "succeeded"


async def test_what_could_not_be_committed_is_told_with_what_can(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    base = shared()
    faulty = FaultyStore(base)
    async with (
        open_server(queue, store=faulty, seed=1) as works,
        open_server(TaskQueue(), store=base, seed=2) as other,
    ):
        await trio.sleep(3)
        await submit(works, type="tell", id="t", delay=0.5, payload={"seconds": 1})
        seen: list[Message] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, other, "t", seen)
            await trio.sleep(0.6)
            faulty.failing = StorageUnavailable
            await trio.sleep(4)
            faulty.failing = None
    assert names(seen) == [
        "snapshot",
        "task.started",
        "task.logged",
        "task.progressed",
        "attempt.finished",
        "end",
    ]


async def test_a_server_alone_writes_no_letters(queue: TaskQueue, autojump_clock: MockClock) -> None:
    store = shared()
    async with open_server(queue, store=store) as alone:
        for _ in range(10):
            await finished(alone, await submit(alone, type="tell", payload={"seconds": 0.1}))
        assert store.snapshot().letters == ()
        assert alone.watchers.outbox.number == 0


# Letters themselves

US = ServerId("us")
SUBMITTED = TaskSubmitted(at=1, task_id=TaskId("t"), type="a", queue="q", state=State.PENDING)
LOGGED = Logged(at=2, task_id=TaskId("t"), type="a", queue="q", attempt=1, text="ñ" * 2_000)
PROGRESSED = Progressed(at=2, task_id=TaskId("t"), type="a", queue="q", attempt=1, fraction=0.5, message="")


@pytest.mark.parametrize(
    "body", [Body([]), Body([SUBMITTED], stirs=True), Body([LOGGED, PROGRESSED], cut=True)]
)
def test_a_letter_says_what_was_written(body: Body) -> None:
    assert read_body(write_body(body)) == body


@pytest.mark.parametrize("data", [b"", b"\0", b"\0nonsense", b"\1nonsense", b"\1", b"\2"])
def test_a_letter_that_cannot_be_read_says_that_something_is_missing(data: bytes) -> None:
    assert read_body(data) == Body([], cut=True)


def test_a_long_letter_is_packed() -> None:
    assert len(write_body(Body([SUBMITTED] * 1_000))) < 5_000


def outbox() -> Outbox:
    made = Outbox(US)
    made.is_open = True
    return made


def letter(box: Outbox) -> Letter:
    draft = box.draft([], lambda replies: [])
    assert draft is not None
    written = draft.write([])
    assert written is not None
    draft.sent()
    return written


def test_letters_are_numbered_and_what_waits_goes_with_the_next() -> None:
    box = outbox()
    box.put(LOGGED)
    assert letter(box).number == 1
    box.put(SUBMITTED)
    assert letter(box) == Letter(US, 2, write_body(Body([SUBMITTED])))
    draft = box.draft([], lambda replies: [])
    assert draft is not None
    assert draft.write([]) is None


def test_a_letter_that_was_not_committed_is_written_again_under_its_number() -> None:
    box = outbox()
    box.put(SUBMITTED)
    draft = box.draft([], lambda replies: [])
    assert draft is not None
    assert draft.write([]) == draft.write([]) == Letter(US, 1, write_body(Body([SUBMITTED])))
    draft.put_back()
    assert letter(box) == Letter(US, 1, write_body(Body([SUBMITTED])))


def test_where_too_much_waits_the_oldest_goes_and_only_events_are_missed() -> None:
    box = outbox()
    for _ in range(WAITING_MAX + 5):
        box.put(LOGGED)
    body = read_body(letter(box).body)
    assert (len(body.told), body.cut) == (WAITING_MAX, False)
    for _ in range(WAITING_MAX + 1):
        box.put(SUBMITTED)
    assert read_body(letter(box).body).cut


def test_a_batch_of_too_many_events_tells_only_that_there_were() -> None:
    box = outbox()
    draft = box.draft([], lambda replies: [SUBMITTED] * 10_001)
    assert draft is not None
    written = draft.write([])
    assert written is not None
    assert read_body(written.body) == Body([], stirs=True, cut=True)
