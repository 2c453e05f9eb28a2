"""The ring: numbers, what it forgets, and what is wanted of it."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import fields

from tq.core import views
from tq.core.events import (
    AttemptOverran,
    Event,
    QueueChanged,
    TaskDeleted,
    TaskRetried,
    TasksPruned,
    TaskSubmitted,
)
from tq.core.task import State, TaskId
from tq.engine.ring import Entry, Logged, Ring, Told, Wanted

ONE = TaskId("one")


def retried(id: str = "one") -> TaskRetried:
    return TaskRetried(at=0, task_id=TaskId(id))


def logged(text: str = "x") -> Logged:
    return Logged(at=0, task_id=ONE, type="nap", queue="beds", attempt=1, text=text)


def numbers(entries: list[Entry]) -> list[int]:
    return [entry.number for entry in entries]


def test_numbers_grow_and_a_number_may_belong_to_no_event() -> None:
    ring = Ring()
    assert ring.add(retried()).number == 1
    assert ring.next_number() == 2
    assert ring.add(retried()).number == 3
    assert numbers(ring.after(0, Wanted())) == [1, 3]
    assert numbers(ring.after(1, Wanted())) == [3]
    assert numbers(ring.after(2, Wanted())) == [3]
    assert numbers(ring.after(3, Wanted())) == []
    assert [getattr(ring.get(number), "number", None) for number in range(5)] == [None, 1, None, 3, None]


def test_it_reaches_back_to_the_number_before_its_oldest_event() -> None:
    ring = Ring(count_max=2)
    for _ in range(4):
        ring.add(retried())
    assert [number for number in range(-1, 7) if ring.reaches(number)] == [2, 3, 4]
    assert numbers(ring.after(2, Wanted())) == [3, 4]


def test_long_lines_push_out_what_is_old() -> None:
    ring = Ring(bytes_max=10_000)
    for _ in range(100):
        ring.add(logged("x" * 1024))
    # 512 + 4 * 1024 each.
    assert (len(ring), ring.since) == (2, 98)


def test_after_it_forgot_no_older_number_reaches() -> None:
    ring = Ring()
    ring.add(retried())
    ring.forget()
    assert len(ring) == 0
    assert not ring.reaches(1)
    assert ring.reaches(ring.last)
    assert ring.add(retried()).number == 3


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(ONE), [True, True, True, False, False]),
        (Wanted(), [True, True, False, True, True]),
        (Wanted(queue="beds"), [True, None, False, True, False]),
        (Wanted(type="nap"), [True, None, False, False, False]),
        (Wanted(queue="beds", type="nap"), [True, None, False, False, False]),
        (Wanted(queue="other"), [False, None, False, False, False]),
        (Wanted(type="other"), [False, None, False, False, False]),
    ],
)
def test_what_is_wanted_is_taken(wanted: Wanted, takes: list[bool | None]) -> None:
    happened: list[Event | Told] = [
        TaskSubmitted(at=0, task_id=ONE, type="nap", queue="beds", state=State.PENDING),
        TaskDeleted(at=0, task_id=ONE),
        logged(),
        QueueChanged(at=0, queue="beds", paused=True),
        TasksPruned(at=0, count=3),
    ]
    assert [wanted.takes(Entry(1, event)) for event in happened] == takes


def test_an_event_is_made_json_once_and_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def encode(event: Event) -> dict[str, object]:
        made.append(event)
        return views.event_view(event)

    monkeypatch.setattr("tq.engine.ring.event_view", encode)
    entry = Ring().add(AttemptOverran(at=5, task_id=ONE, type="nap", queue="beds", worker=2))
    assert made == []
    assert [json.loads(entry.json) for _ in range(2)] == [
        {"at": "1970-01-01T00:00:00.005Z", "task_id": "one", "type": "nap", "queue": "beds", "worker": 2}
    ] * 2
    assert len(made) == 1


def test_every_instant_of_an_event_is_shown_as_one() -> None:
    instants = {
        field.name
        for kind in Event.__subclasses__()
        for field in fields(kind)
        if field.name == "at" or field.name.endswith("_at")
    }
    assert instants == views._INSTANTS
