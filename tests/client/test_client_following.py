"""Following events, without a server: pieces of bytes in, events out, and when to come back."""

from __future__ import annotations

import json

import pytest
from talks import LOST, REFUSED, Stage, ok, problem, short

from tq.client.errors import NotTq, Unreachable
from tq.client.following import Following
from tq.client.retrying import Answer, RetryRules
from tq.core.errors import NotFound
from tq.core.task import State


def block(name: str, data: object, id: str | None = None) -> bytes:
    head = "" if id is None else f"id: {id}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def follow(stage: Stage | None = None) -> Following:
    stage = stage or Stage()
    return Following("a", stage.rules, stage.seams)


SNAPSHOT = block("snapshot", short(state="running"), "s-1")
STARTED = block("task.started", {"task_id": "a", "attempt": 1}, "s-2")
END = block("end", short(state="succeeded", result=7), "s-3")


def test_a_stream_is_read_to_its_end() -> None:
    following = follow()
    events = following.take(SNAPSHOT + STARTED)
    assert [event.name for event in events] == ["snapshot", "task.started"]
    assert events[0].record is not None
    assert (events[0].record.state, events[1].record) == (State.RUNNING, None)
    assert events[1].data == {"task_id": "a", "attempt": 1}
    assert not following.is_over
    (end,) = following.take(END)
    assert end.record is not None
    assert (end.record.result, following.is_over) == (7, True)


def test_bytes_may_come_one_by_one() -> None:
    following = follow()
    whole = SNAPSHOT + b":\nid: s-1\n\n" + STARTED + END
    events = [event for at in range(len(whole)) for event in following.take(whole[at : at + 1])]
    assert [event.name for event in events] == ["snapshot", "task.started", "end"]


def test_a_snapshot_of_an_ended_task_is_all() -> None:
    following = follow()
    following.take(block("snapshot", short(state="failed"), "s-1"))
    assert following.is_over


def test_the_end_of_a_deleted_task_has_no_record() -> None:
    following = follow()
    (end,) = following.take(block("end", None, "s-1"))
    assert (end.data, end.record, following.is_over) == (None, None, True)


def test_who_comes_back_names_the_last_id_that_of_a_heartbeat_too() -> None:
    following = follow()
    assert following.call().headers == {"accept": "text/event-stream"}
    following.take(SNAPSHOT)
    assert following.call().headers == {"accept": "text/event-stream", "last-event-id": "s-1"}
    following.take(b":\nid: s-9\n\n")
    assert following.call().headers == {"accept": "text/event-stream", "last-event-id": "s-9"}


def test_half_an_event_of_a_lost_connection_is_forgotten() -> None:
    following = follow()
    # Half a name of a field, which would spoil the one that comes next.
    following.take(SNAPSHOT + STARTED[:1])
    following.pause(LOST)
    assert following.call().headers == {"accept": "text/event-stream", "last-event-id": "s-1"}
    assert [event.name for event in following.take(STARTED)] == ["task.started"]
    assert following.call().headers == {"accept": "text/event-stream", "last-event-id": "s-2"}


def test_a_server_that_drains_is_come_back_to_and_told_of_to_nobody() -> None:
    following = follow()
    assert following.take(block("server.draining", {"server": "s"})) == []
    assert following.take(block("dropped", {"why": "slow"})) == []
    assert not following.is_over
    assert following.pause(None) == 0.2


def test_pauses_grow_until_something_is_said_again() -> None:
    following = follow()
    assert [following.pause(REFUSED) for _ in range(3)] == [0.2, 0.4, 0.8]
    following.take(SNAPSHOT)
    assert following.pause(LOST) == 0.2
    assert following.pause(problem(503, "shutting_down", retry_after="2")) == 2.4


def test_the_time_that_a_stream_went_well_does_not_count_as_silence() -> None:
    stage = Stage(rules=RetryRules(total=10))
    following = follow(stage)
    following.take(SNAPSHOT)
    stage.now += 3600
    assert following.pause(LOST) == 0.2
    stage.now += 10
    with pytest.raises(Unreachable):
        following.pause(REFUSED)


def test_one_gives_up_after_the_last_attempt() -> None:
    following = follow(Stage(rules=RetryRules(attempts=2)))
    following.pause(None)
    with pytest.raises(Unreachable, match="ended early"):
        following.pause(None)


def test_a_refusal_is_raised_as_its_class() -> None:
    with pytest.raises(NotFound):
        follow().pause(problem(404, "not_found"))


def test_what_is_no_stream_is_not_taken_for_one() -> None:
    with pytest.raises(NotTq):
        follow().opened(Answer(200, {"content-type": "text/html"}, b""))
    with pytest.raises(NotTq):
        follow().pause(ok(short()))
    with pytest.raises(NotTq):
        follow().pause(Answer(404, {"content-type": "text/html"}, b"x"))


def test_no_content_means_that_the_end_was_had() -> None:
    following = follow()
    following.opened(Answer(204, {}, b""))
    assert following.is_over
