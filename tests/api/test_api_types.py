"""GET /v1/types: what is handled here, and what its payloads are like."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import trio.testing
from raw_http import open_api

from tq.context import Context
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock


class Address(msgspec.Struct):
    street: str
    number: int = 1


def shop() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("email", queue="mail", timeout=30, max_attempts=5, priority="high")
    async def email(to: str, ctx: Context, kind: Literal["text", "html"] = "text") -> None:
        """Send one message.

        And more that is not told of.
        """

    @queue.task("parcel")
    def parcel(to: Address, back: Address | None = None, weight: float = 0.5) -> None: ...

    @queue.task("whole")
    async def whole(payload: list[int]) -> None: ...

    @queue.task("spread")
    async def spread(**names: Any) -> None: ...

    return queue


async def test_a_type_is_shown_with_its_defaults_and_the_schema_of_its_payload(
    autojump_clock: Clock,
) -> None:
    async with open_api(shop()) as api:
        shown = (await api.get("/v1/types")).json
    types = {each["type"]: each for each in shown["types"]}
    assert shown["anything"] is False
    assert types["email"] == {
        "type": "email",
        "queue": "mail",
        "priority": 10,
        "timeout": 30.0,
        "max_attempts": 5,
        "runs": "trio",
        "description": "Send one message.",
        "payload": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "kind": {"enum": ["html", "text"], "default": "text"}},
            "required": ["to"],
            "additionalProperties": False,
        },
    }
    assert types["whole"]["payload"] == {"type": "array", "items": {"type": "integer"}}
    assert types["spread"]["payload"] == {"type": "object"}
    parcel = types["parcel"]
    assert (parcel["runs"], parcel["timeout"], parcel["description"]) == ("thread", 5.0, "")
    assert parcel["payload"]["properties"]["to"] == {"$ref": "#/$defs/Address"}
    assert parcel["payload"]["properties"]["weight"] == {"type": "number", "default": 0.5}
    assert parcel["payload"]["properties"]["back"]["default"] is None
    assert parcel["payload"]["$defs"]["Address"]["required"] == ["street"]


async def test_a_server_that_takes_every_type_says_so(autojump_clock: Clock) -> None:
    queue = TaskQueue()

    @queue.task("*")
    async def work(payload: Any) -> None: ...

    async with open_api(queue) as api:
        assert (await api.get("/v1/types")).json == {"types": [], "anything": True}


class Odd:
    pass


async def test_what_has_no_schema_takes_anything(autojump_clock: Clock) -> None:
    queue = TaskQueue()

    @queue.task("odd")
    async def odd(payload: Odd) -> None: ...

    async with open_api(queue) as api:
        assert (await api.get("/v1/types")).json["types"][0]["payload"] is True
