"""When to ask again, and when to give up: arithmetic and rules, without I/O, time or chance of its own.

A talk is a generator: it yields what is to be done (a Call to send, a Pause to sleep), is sent the reply,
and returns what was asked for. Whoever drives it, blocking or not, decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec

from tq.client.errors import NotTq, Unreachable
from tq.core.errors import TqError, error_of

T = TypeVar("T")

PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may do better."""
_NOTHING_DONE: Final = frozenset({429, 503})
"""Those that a tq server gives before it does anything; the others come from between."""
_OF_HTTP: Final = frozenset({"type", "title", "status", "detail", "code", "message", "self"})
"""Members of a problem that are no fields of the error, and what a field cannot be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """How often and how long a client asks again.

    Args:
        attempts: Times that one request is sent at most; 1 never repeats.
        total: Seconds from the first attempt after which none is begun.
        base: Seconds before the second attempt; each pause is twice the one before, × U(0.5, 1.5).
        cap: Seconds that such a pause may grow to, before the jitter.
    """

    attempts: int = 10
    total: float = 60.0
    base: float = 0.2
    cap: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Where a talk has time, chance and ids from: seconds that never go back, U(0, 1), a new task id."""

    now: Callable[[], float]
    chance: Callable[[], float]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to send. *path* has the query.

    Args:
        hold_s: How long the server may wait with the answer, by our own wish.
        repeatable: Sending it twice is no different from sending it once.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    hold_s: float = 0.0
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to sleep before going on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``is_repeat``: an attempt before may have been done, its answer lost."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing came back; *may_be_done* unless the request cannot have been read."""

    why: str
    may_be_done: bool


Reply = Answer | Silence
Talk = Generator[Call | Pause, Reply | None, T]


def pause_after(
    rules: RetryRules, *, attempt: int, elapsed: float, retry_after: float | None, chance: float
) -> float | None:
    """Seconds to wait after *attempt* failed; None: give up.

    base · 2^(attempt−1), at most cap, × (0.5 + chance); a Retry-After comes on top, so that those who were
    told the same do not come back together.

    Args:
        attempt: From 1.
        elapsed: Seconds since the first attempt began.
        chance: U(0, 1).
    """
    grown: float = min(rules.cap, rules.base * 2.0 ** min(attempt - 1, 60))
    pause = grown * (0.5 + chance) + (retry_after or 0.0)
    if attempt >= rules.attempts or elapsed + pause > rules.total:
        return None
    return pause


def exchange(
    call: Call, rules: RetryRules, seams: Seams, *, again: Callable[[], Call] | None = None
) -> Talk[Answer]:
    """The answer to *call*, which may be a refusal; asked again while that may help and does no harm.

    Args:
        again: Makes the call to repeat with, where the time that has passed matters.
    Raises:
        Unreachable: There is none.
    """
    began = seams.now()
    is_repeat = False
    attempt = 0
    while True:
        attempt += 1
        reply = yield (again() if again and attempt > 1 else call)
        assert reply is not None
        if isinstance(reply, Answer) and reply.status not in PASSING:
            return replace(reply, is_repeat=is_repeat)
        is_repeat = is_repeat or may_be_done(reply)
        pause = pause_after(
            rules,
            attempt=attempt,
            elapsed=seams.now() - began,
            retry_after=retry_after_of(reply),
            chance=seams.chance(),
        )
        if pause is None or (is_repeat and not call.repeatable):
            return given_up(reply, maybe=is_repeat)
        yield Pause(pause)


def may_be_done(reply: Reply) -> bool:
    """Whether what was asked may be done, though nobody said so."""
    return reply.may_be_done if isinstance(reply, Silence) else reply.status not in _NOTHING_DONE


def retry_after_of(reply: Reply) -> float | None:
    """Seconds that the server asks to wait; None if it does not, or says a date, which ours may not know."""
    text = reply.headers.get("retry-after", "") if isinstance(reply, Answer) else ""
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def given_up(reply: Reply, *, maybe: bool) -> Answer:
    """The last *reply*, if a tq server said it.

    Raises:
        Unreachable: It did not; *maybe* it is done all the same.
    """
    if isinstance(reply, Answer) and refusal(reply) is not None:
        return replace(reply, is_repeat=maybe)
    why = reply.why if isinstance(reply, Silence) else f"answered {reply.status}"
    raise Unreachable(
        f"no tq server answered ({why})" + (": what was asked may be done all the same" if maybe else ""),
        may_be_done=maybe,
    )


def refusal(answer: Answer) -> TqError | None:
    """The error that *answer* is the problem of; None if it is none."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = msgspec.json.decode(answer.body, type=dict[str, object])
    except msgspec.DecodeError:
        return None
    code = str(problem.get("code"))
    fields = {name: value for name, value in problem.items() if name not in _OF_HTTP}
    error = error_of(code, str(problem.get("detail")), fields)
    if error.code != code:
        # A class that is not known here: what it was is all that is left.
        error.fields["code"] = code
    return error


def accepted(answer: Answer, kind: type[T]) -> T:
    """What *answer* says.

    Raises:
        TqError: It is a refusal, as the class that the server raised.
        NotTq: It is not from a tq server.
    """
    if error := refusal(answer):
        raise error
    try:
        if 200 <= answer.status < 300:
            return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as fault:
        raise NotTq(f"the answer is not a tq server's ({fault}): check the URL") from None
    raise NotTq(f"answered {answer.status}, not as a tq server does: check the URL")
