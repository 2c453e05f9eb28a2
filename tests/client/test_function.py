"""What `@app.task` makes of a function: it is called as before, and it knows its submits."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tq.context import Context
from tq.core.errors import InvalidInput, PayloadInvalid
from tq.core.wire import decode_submit
from tq.function import TaskFunction
from tq.handlers import TaskQueue

app = TaskQueue()


@dataclass
class Address:
    street: str
    since: datetime


@app.task("email")
async def send_email(to: str, subject: str = "Hello", *, urgent: bool = False) -> str:
    """Send an email."""
    return f"{subject}, {to}"


@app.task("album")
def album(ctx: Context, photos: list[str]) -> int:
    return len(photos)


@app.task("late")
def late(photos: list[str], ctx: Context) -> int:
    return len(photos)


@app.task("move")
def move(to: Address) -> None: ...


@app.task("count")
def count(payload: list[int]) -> int:
    return len(payload)


@app.task("spread")
def spread(first: int, **others: Any) -> dict[str, Any]:
    return {"first": first, **others}


def payload(body: dict[str, object]) -> object:
    """The payload of *body*, by the way of the wire."""
    request = decode_submit(msgspec.json.encode(body))
    return json.loads(bytes(request.payload))


async def test_a_handler_is_called_as_it_was() -> None:
    assert await send_email("ada", subject="Hi") == "Hi, ada"
    assert spread(1, b=2) == {"first": 1, "b": 2}


def test_a_handler_looks_like_its_function() -> None:
    assert (send_email.__name__, send_email.__doc__) == ("send_email", "Send an email.")
    assert list(inspect.signature(album).parameters) == ["ctx", "photos"]
    assert repr(send_email) == "<TaskFunction email send_email>"


def test_a_handler_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(send_email)) is send_email


def test_a_body_has_what_was_given_and_leaves_defaults_to_the_server() -> None:
    assert payload(send_email.body("ada")) == {"to": "ada"}
    assert payload(send_email.body("ada", urgent=True)) == {"to": "ada", "urgent": True}
    assert {**send_email.body("ada"), "payload": None} == {"type": "email", "payload": None}


def test_a_body_is_without_the_context_wherever_that_stands() -> None:
    assert payload(album.body(["a"])) == payload(late.body(photos=["a"])) == {"photos": ["a"]}  # type: ignore[call-arg]


def test_a_payload_may_be_whole_or_have_any_names_or_hold_dataclasses() -> None:
    assert payload(count.body([1, 2])) == [1, 2]
    assert payload(spread.body(1, b=2, others=3)) == {"first": 1, "b": 2, "others": 3}
    since = datetime(2026, 11, 24, tzinfo=UTC)
    assert payload(move.body(Address("Mayor", since))) == {
        "to": {"street": "Mayor", "since": "2026-11-24T00:00:00Z"}
    }


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: send_email.body(), "email: missing a required argument: 'to'"),  # type: ignore[call-arg]
        (lambda: send_email.body("a", cc="b"), "email: got an unexpected keyword argument 'cc'"),  # type: ignore[call-arg]
        (lambda: album.body(["a"], ctx=None), "album: got an unexpected keyword argument 'ctx'"),  # type: ignore[call-arg]
        (lambda: spread.body(1, b=object()), "spread: JSON cannot hold it: .*object"),
    ],
)
def test_a_call_that_cannot_be_is_a_type_error_before_anything_is_sent(call: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call()


def test_an_argument_that_is_not_what_its_annotation_says_is_refused_as_by_the_server() -> None:
    with pytest.raises(PayloadInvalid, match=r"payload of email: Expected `str`, got `int` - at `\$\.to`"):
        send_email.body(1)  # type: ignore[arg-type]
    assert issubclass(PayloadInvalid, InvalidInput)


def test_options_are_fields_of_the_submit_and_add_up() -> None:
    later = send_email.options(delay=30, priority="high")
    body = later.options(priority="low", tags=["a"]).body("ada")
    assert {**body, "payload": None} == {
        "type": "email",
        "payload": None,
        "delay": 30,
        "priority": "low",
        "tags": ["a"],
    }
    assert later.body("ada")["priority"] == "high"
    assert "delay" not in send_email.body("ada")


def test_a_function_may_do_several_types() -> None:
    queue = TaskQueue()

    @queue.task("two")
    @queue.task("one")
    def both(n: int) -> int:
        return n

    assert queue.handler("one").function is queue.handler("two").function
    assert not isinstance(queue.handler("two").function, TaskFunction)
    assert both.body(1)["type"] == "two"
    with pytest.raises(ValueError, match="it does one, two: say which by type"):
        queue.schedule("@daily")(both)
