"""Every store: servers and what they say, the leader, letters, and the news that a server asks for."""

from __future__ import annotations

from collections.abc import Sequence

from storage_kit import HERE, NOW, claim, do, finish, new, put, running, start, submit, succeed, task

from tq.core import ops
from tq.core.errors import TqError
from tq.core.limits import Limits
from tq.core.ops import Beaten, Led, Letter, Reply, Swept
from tq.core.queries import GetNews, GetServers, Held, News, Seat, ServerRow, Sweeper
from tq.core.task import Json, ServerId, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

US = ServerId("us")
THEM = ServerId("them")
LAST = ServerId("~last")


def write(store: Store, letter: Letter | None, *batch: ops.AnyOp, now: int = NOW) -> list[Reply | TqError]:
    """Apply *batch* with a letter; the replies that it could have told of."""
    heard: list[Reply | TqError] = []

    def news(replies: Sequence[Reply | TqError]) -> Letter | None:
        heard[:] = replies
        return letter

    assert store.apply(batch, now, news=news) == heard
    return heard


def letters(store: Store, *read: tuple[ServerId, int]) -> list[tuple[str, int]]:
    return [(each.server, each.number) for each in store.read(GetNews(types=None, read=read)).letters]


def news(store: Store, *held: Held, types: tuple[str, ...] | None = None, due: bool = False) -> News:
    return store.read(GetNews(types=types, held=held, due=due))


# What servers say


def test_a_server_is_listed_with_what_it_said_when_it_was_last_seen(store: Store) -> None:
    assert do(store, ops.Beat(US, said=Json('{"host":"ñ"}'), edition=3)) == Beaten(known=False)
    assert do(store, ops.Beat(THEM), NOW + 1) == Beaten(known=False)
    assert do(store, ops.Beat(US), NOW + 5) == Beaten(known=True)

    assert store.read(GetServers()) == (
        ServerRow(THEM, NOW + 1, None, 0),
        ServerRow(US, NOW + 5, Json('{"host":"ñ"}'), 3),
    )
    assert news(store).seats == (Seat(THEM, 0, 0), Seat(US, 3, 0))


def test_a_heartbeat_that_was_long_under_way_makes_no_server_older(store: Store) -> None:
    do(store, ops.Beat(US), NOW + 5)
    do(store, ops.Beat(US, said=Json("1")), NOW)
    assert store.read(GetServers()) == (ServerRow(US, NOW + 5, Json("1"), 0),)


def test_an_edition_goes_with_what_is_said(store: Store) -> None:
    do(store, ops.Beat(US, said=Json("1"), edition=3))
    do(store, ops.Beat(US, edition=9))
    assert store.read(GetServers()) == (ServerRow(US, NOW, Json("1"), 3),)
    do(store, ops.Beat(US, said=Json("2"), edition=1))
    assert store.read(GetServers()) == (ServerRow(US, NOW, Json("2"), 1),)


def test_a_server_that_is_gone_is_known_no_more(store: Store) -> None:
    do(store, ops.Beat(US, said=Json("1"), edition=3))
    assert do(store, ops.Beat(US, gone=True)) == Beaten(known=True)
    assert do(store, ops.Beat(US, gone=True)) == Beaten(known=False)
    assert store.read(GetServers()) == ()
    do(store, ops.Beat(US))
    assert store.read(GetServers()) == (ServerRow(US, NOW, None, 0),)


def test_one_that_was_thought_dead_learns_so_from_its_next_beat(store: Store) -> None:
    do(store, ops.Beat(THEM))
    do(store, ops.Beat(US), NOW + 15_001)
    do(store, ops.Recover(US, NOW + 1), NOW + 15_001)
    assert do(store, ops.Beat(THEM), NOW + 15_002) == Beaten(known=False)


# Who leads


def test_one_server_leads_and_the_others_hear_for_how_long(store: Store) -> None:
    assert do(store, ops.Lead(US)) == Led(is_leader=True, left_ms=12_000)
    assert do(store, ops.Lead(THEM), NOW + 1_000) == Led(is_leader=False, left_ms=11_000)
    assert do(store, ops.Lead(US), NOW + 5_000) == Led(is_leader=True, left_ms=12_000)
    assert do(store, ops.Lead(THEM), NOW + 16_999) == Led(is_leader=False, left_ms=1)
    assert store.snapshot().leader == (US, NOW + 17_000)


def test_a_leader_that_is_silent_is_replaced(store: Store) -> None:
    do(store, ops.Lead(US))
    assert do(store, ops.Lead(THEM), NOW + 12_000) == Led(is_leader=True, left_ms=12_000)
    assert do(store, ops.Lead(US), NOW + 12_001) == Led(is_leader=False, left_ms=11_999)


def test_a_leader_that_goes_is_replaced_at_once(store: Store) -> None:
    do(store, ops.Lead(US))
    assert do(store, ops.Lead(THEM, gone=True)) == Led(is_leader=False, left_ms=12_000)
    assert do(store, ops.Lead(US, gone=True)) == Led(is_leader=False, left_ms=0)
    assert store.snapshot().leader is None
    assert do(store, ops.Lead(THEM)) == Led(is_leader=True, left_ms=12_000)


# Announcing


def test_a_store_that_only_servers_write_to_has_nothing_to_announce(store: Store) -> None:
    submit(store, "a")
    assert not news(store).unannounced
    assert do(store, ops.Announce()) == ops.Announced()


# Letters


def test_a_letter_is_told_the_replies_and_kept_with_the_batch(store: Store) -> None:
    heard = write(store, Letter(US, 1, b"\x00\xff"), ops.Beat(US), ops.Cancel(TaskId("nobody")))
    assert heard[0] == Beaten(known=False)
    assert isinstance(heard[1], TqError)
    [letter] = store.read(GetNews(types=None, read=((US, 0),))).letters
    assert letter == Letter(US, 1, b"\x00\xff")


def test_a_batch_may_tell_nothing_and_a_letter_may_come_alone(store: Store) -> None:
    write(store, None, ops.Beat(US))
    write(store, Letter(US, 1, b""))
    assert letters(store, (US, 0)) == [("us", 1)]


def test_letters_are_read_from_where_one_is_and_only_of_those_one_reads(store: Store) -> None:
    do(store, ops.Beat(US))
    for server, number in ((US, 1), (THEM, 7), (US, 2), (US, 3), (LAST, 1)):
        write(store, Letter(server, number, b"x"))

    assert letters(store, (US, 1), (THEM, 0)) == [("them", 7), ("us", 2), ("us", 3)]
    assert letters(store, (LAST, 0), (US, 2)) == [("us", 3), ("~last", 1)]
    assert letters(store, (US, 3)) == letters(store) == []
    assert news(store).seats == (Seat(US, 0, 3),)


def test_so_many_letters_are_read_at_once(store: Store) -> None:
    for number in range(1, 103):
        write(store, Letter(US, number, b"x"))
    write(store, Letter(THEM, 1, b"x"))
    first = [("us", number) for number in range(2, 102)]
    assert letters(store, (US, 1), (THEM, 0)) == first
    assert letters(store, (US, 101), (THEM, 0)) == [("us", 102), ("them", 1)]


def test_letters_are_kept_for_a_minute(store: Store) -> None:
    for number in (1, 2, 3):
        write(store, Letter(US, number, b"x"), now=NOW + number)
    assert do(store, ops.PruneLetters(), NOW + 60_000) == Swept(0)
    assert do(store, ops.PruneLetters(limit=1), NOW + 60_002) == Swept(1, more=True)
    assert store.snapshot().letters == ((US, 2), (US, 3))
    assert do(store, ops.PruneLetters(), NOW + 60_002) == Swept(1)
    assert letters(store, (US, 0)) == [("us", 3)]


# News


def test_pending_tasks_are_news_for_who_does_their_type(store: Store) -> None:
    assert not news(store).pending
    put(store, "a", run_at=NOW + 1)
    assert not news(store).pending
    put(store, "a2")
    assert news(store).pending
    assert news(store, types=("b", "a2")).pending
    assert not news(store, types=("b", "a")).pending
    assert not news(store, types=()).pending
    start(store, "a2")
    assert not news(store).pending


def test_tasks_with_keys_and_in_other_queues_are_pending_too(store: Store) -> None:
    put(store, "a", queue="other", key="k")
    assert news(store, types=("a",)).pending


def test_a_lease_is_lost_once_the_task_is_not_run_under_it(store: Store) -> None:
    first, second, third = (running(store, name) for name in ("a", "b", "c"))
    mine = tuple(Held(each.task_id, each.generation) for each in (third, first, second))
    assert (news(store, *mine).lost, news(store, *mine).stop) == ((), ())

    do(store, finish(first))
    do(store, ops.Release(second.task_id, second.generation))
    claim(store, by="other")
    gone = Held(TaskId("gone"), 1)
    found = news(store, *mine, gone)
    assert found.lost == (mine[1], mine[2], gone)
    assert found.stop == ()
    assert task(store, "b").generation == 2


def test_a_task_that_was_asked_to_cancel_is_to_stop(store: Store) -> None:
    leases = [running(store, name) for name in ("a", "b")]
    mine = tuple(Held(each.task_id, each.generation) for each in leases)
    do(store, ops.Cancel(TaskId("b")))
    assert (news(store, *mine).stop, news(store, *mine).lost) == ((mine[1],), ())
    assert news(store, Held(TaskId("b"), 9)).lost == (Held(TaskId("b"), 9),)


def test_the_next_instant_is_news_where_it_is_asked_for(store: Store) -> None:
    put(store, "a", run_at=NOW + 50)
    assert news(store).next_due is None
    assert news(store, due=True).next_due == NOW + 50


# Whether there is something to sweep


def is_to_sweep(store: Store, now: int, *, dead_before: int | None = NOW, by: ServerId = US) -> bool:
    return store.read(GetNews(types=None, sweeper=Sweeper(by, now, dead_before))).to_sweep


def sweep(store: Store, now: int, *, dead_before: int = NOW, by: ServerId = US) -> None:
    store.apply([ops.Recover(by, dead_before), ops.Prune(), ops.PruneLetters()], now)


def test_nothing_is_to_sweep_where_all_is_well_or_nobody_asks(store: Store) -> None:
    do(store, ops.Beat(US))
    assert not is_to_sweep(store, NOW)
    running(store, "a", by="us")
    put(store, "b", run_at=NOW - 1)
    assert not is_to_sweep(store, NOW)
    assert not news(store).to_sweep


def test_a_server_that_is_dead_is_to_sweep_by_the_others(store: Store) -> None:
    do(store, ops.Beat(US))
    do(store, ops.Beat(THEM))
    assert not is_to_sweep(store, NOW, dead_before=NOW)
    assert is_to_sweep(store, NOW, dead_before=NOW + 1)
    assert not is_to_sweep(store, NOW, dead_before=None)
    sweep(store, NOW, dead_before=NOW + 1)
    assert not is_to_sweep(store, NOW, dead_before=NOW + 1)
    assert store.snapshot().servers == ((US, NOW),)


def test_what_a_server_runs_that_is_not_there_is_to_sweep(store: Store) -> None:
    running(store, "a", by="them")
    assert is_to_sweep(store, NOW)
    assert not is_to_sweep(store, NOW, dead_before=None)
    assert not is_to_sweep(store, NOW, by=THEM)
    sweep(store, NOW)
    assert not is_to_sweep(store, NOW)
    assert task(store, "a").state is State.PENDING


def test_what_has_been_kept_long_enough_is_to_sweep(store: Store) -> None:
    put(store, "a", result_ttl_ms=500)
    succeed(store, "a")
    assert not is_to_sweep(store, NOW + 499)
    assert is_to_sweep(store, NOW + 500)
    assert is_to_sweep(store, NOW + 500, dead_before=None)
    sweep(store, NOW + 500)
    assert not is_to_sweep(store, NOW + 500)
    assert store.snapshot().tasks == ()


def test_an_idempotency_key_past_its_time_is_to_sweep(store: Store) -> None:
    do(store, ops.Submit(new("a"), ops.RequestKey("key", "hash")))
    assert not is_to_sweep(store, NOW + ops.REQUEST_KEPT_MS - 1)
    assert is_to_sweep(store, NOW + ops.REQUEST_KEPT_MS)
    sweep(store, NOW + ops.REQUEST_KEPT_MS)
    assert not is_to_sweep(store, NOW + ops.REQUEST_KEPT_MS)


def test_an_old_letter_is_to_sweep(store: Store) -> None:
    write(store, Letter(US, 1, b"x"))
    assert not is_to_sweep(store, NOW + 59_999)
    assert is_to_sweep(store, NOW + 60_000)
    sweep(store, NOW + 60_000)
    assert not is_to_sweep(store, NOW + 60_000)


def test_an_end_that_nobody_was_told_of_is_to_sweep(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=(TaskId("a"),))
    succeed(store, "a")
    assert is_to_sweep(store, NOW)
    do(store, ops.Settle())
    assert not is_to_sweep(store, NOW)


# Caps across servers


def test_no_more_run_than_a_queue_allows_whoever_claims(store: Store) -> None:
    do(store, ops.SetQueue(queue="default", limits=Limits(concurrency=2)))
    submit(store, "a", "b", "c")
    first = claim(store, 1, by=HERE)
    assert len(claim(store, 5, by="other")) == 1
    assert claim(store, 5, by="third") == ()
    do(store, finish(first[0]))
    assert [lease.task_id for lease in claim(store, 5, by="third")] == ["c"]
    assert task(store, "b").state is State.RUNNING
