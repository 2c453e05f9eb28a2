"""Talks driven by hand: replies from a script, time that passes by pauses alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from tq.client.requests import Api
from tq.client.retrying import Answer, Call, Pause, Reply, RetryRules, Seams, Silence, Talk

T = TypeVar("T")
LOST = Silence("ReadError", may_be_done=True)
REFUSED = Silence("ConnectError", may_be_done=False)
PROBLEM = "application/problem+json"


def ok(content: object, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json", **named}, json.dumps(content).encode())


def problem(status: int, code: str, *, retry_after: str | None = None, **fields: object) -> Answer:
    headers = {"content-type": PROBLEM} | ({} if retry_after is None else {"retry-after": retry_after})
    body = {"type": "urn:x", "title": "X", "status": status, "detail": "why", "code": code, **fields}
    return Answer(status, headers, json.dumps(body).encode())


def short(id: str = "a", state: str = "pending", **more: object) -> dict[str, object]:
    return {"id": id, "state": state, "type": "email", **more}


class Stage:
    """A server of scripted replies. Chance is 0.5, so that a pause is what its formula has before jitter."""

    def __init__(self, *script: Reply | Callable[[Call], Reply], rules: RetryRules | None = None) -> None:
        self.now = 100.0
        self.calls: list[Call] = []
        self.pauses: list[float] = []
        self._script = list(script)
        self._ids = 0
        self.rules = rules or RetryRules()
        self.seams = Seams(now=lambda: self.now, chance=lambda: 0.5, new_id=self._new_id)
        self.api = Api(self.rules, self.seams)

    def _new_id(self) -> str:
        self._ids += 1
        return f"made-{self._ids}"

    def run(self, talk: Talk[T]) -> T:
        reply: Reply | None = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                assert not self._script, "not all replies were asked for"
                result: T = end.value
                return result
            reply = self._do(step)

    def _do(self, step: Call | Pause) -> Reply | None:
        if isinstance(step, Pause):
            self.pauses.append(round(step.seconds, 3))
            self.now += step.seconds
            return None
        self.calls.append(step)
        reply = self._script.pop(0)
        return reply(step) if callable(reply) else reply

    def later(self, seconds: float, reply: Reply) -> Callable[[Call], Reply]:
        """*reply*, *seconds* after the call."""

        def answer(_: Call) -> Reply:
            self.now += seconds
            return reply

        return answer
