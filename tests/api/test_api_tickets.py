"""Tickets: once, soon, and never foretold."""

from __future__ import annotations

from random import Random, SystemRandom

import pytest
import trio
import trio.testing
from live_client import sse, websocket
from raw_http import open_api

from tq.api import tickets
from tq.api.tickets import Tickets
from tq.core.errors import NotAllowed, Overloaded
from tq.core.keys import ANONYMOUS
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_ticket_is_good_once_and_for_its_caller(time: Time) -> None:
    out = Tickets(Random(1), time)
    one, two = out.issue("ada"), out.issue("bob")
    assert one.ticket != two.ticket
    assert len(one.ticket) == 64
    assert one.expires_in == 30
    assert out.redeem(two.ticket) == "bob"
    assert out.redeem(one.ticket) == "ada"
    for ticket in (one, two):
        with pytest.raises(NotAllowed):
            out.redeem(ticket.ticket)


@pytest.mark.parametrize(("after_s", "is_good"), [(29.9, True), (30.0, False)])
def test_a_ticket_is_good_for_thirty_seconds(time: Time, after_s: float, is_good: bool) -> None:
    out = Tickets(Random(1), time)
    ticket = out.issue("ada").ticket
    time.now = after_s
    if is_good:
        assert out.redeem(ticket) == "ada"
    else:
        with pytest.raises(NotAllowed):
            out.redeem(ticket)


def test_so_many_are_out_at_a_time_and_no_more(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_MAX", 2)
    out = Tickets(Random(1), time)
    first = out.issue("a")
    time.now = 10
    out.issue("b")
    with pytest.raises(Overloaded):
        out.issue("c")
    assert out.redeem(first.ticket) == "a"
    out.issue("c")
    time.now = 40
    out.issue("d")
    out.issue("e")


def test_an_unknown_ticket_is_refused(time: Time) -> None:
    with pytest.raises(NotAllowed, match="POST /v1/tickets"):
        Tickets(SystemRandom(), time).redeem("x")


async def test_a_ticket_opens_one_stream(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tickets")
        assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
        assert answer.json["expires_in"] == 30
        path = f"/v1/events?ticket={answer.json['ticket']}"
        async with sse(api, path) as stream:
            assert (await stream.next()).event == "opened"
        async with sse(api, path) as stream:
            assert (stream.status, (await stream.problem())["code"]) == (403, "not_allowed")


async def test_a_ticket_opens_one_websocket(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        path = f"/v1/events?ticket={(await api.ask('POST', '/v1/tickets')).json['ticket']}"
        async with websocket(api, path) as socket:
            assert (await socket.next()).event == "opened"
        async with websocket(api, path) as socket:
            assert socket.status == 403


async def test_a_ticket_that_is_old_or_unknown_opens_nothing(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        ticket = (await api.ask("POST", "/v1/tickets")).json["ticket"]
        await trio.sleep(30)
        for bad in (ticket, "x", ""):
            for path in ("/v1/events", "/v1/tasks/t1/events"):
                assert (await api.get(f"{path}?ticket={bad}")).status == 403


async def test_a_ticket_is_no_parameter_of_other_routes(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        assert (await api.get("/v1/stats?ticket=x")).status == 400


def test_who_asks_without_a_ticket_has_a_name_too() -> None:
    assert ANONYMOUS == "anonymous"
