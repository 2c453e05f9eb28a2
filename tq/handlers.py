"""The registry of handlers: what a server can do, and how a payload becomes a call.

It knows signatures and JSON. It does not run anything: that is `tq.engine.worker`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
import trio

from tq.clock import Clock
from tq.core.errors import InvalidInput, PayloadInvalid, UnknownType
from tq.core.retry import RetryPolicy
from tq.core.task import Json, Lease, NewTask, TaskId
from tq.core.wire import DELAY_MAX_S, SubmitRequest, TypeDefaults, check_name, new_task

CLEANUP_S: Final = 2.0
"""Seconds that a cancelled handler has to clean up."""

F = TypeVar("F", bound=Callable[..., Any])


class Retry(Exception):
    """Raise it to fail this attempt and say yourself when the next is made.

    It burns the attempt; after the last one the task has failed. Without *after*, the policy says when.

    Args:
        message: Why, for the history.
        after: Seconds until the next attempt.
    """

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after_ms = None if after is None else _delay_ms(after)


class Snooze(Exception):
    """Raise it to do the task later: again after *seconds*, with no attempt burnt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again after {seconds} s")
        self.delay_ms = _delay_ms(seconds)


class Cancel(Exception):
    """Raise it to end the task as cancelled: it is not to be done at all."""


def _delay_ms(seconds: float) -> int:
    if not 0 <= seconds <= DELAY_MAX_S:
        raise ValueError(f"a delay is from 0 to {DELAY_MAX_S:.0f} seconds, not {seconds}")
    return round(seconds * 1000)


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler may know of the attempt it makes. Ask for it with a parameter of this type."""

    task: Lease
    worker: int
    deadline_at: int
    clock: Clock

    @property
    def task_id(self) -> TaskId:
        """The id of the task."""
        return self.task.task_id

    @property
    def type(self) -> str:
        """The type of the task."""
        return self.task.type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.task.attempt

    @property
    def deadline(self) -> datetime:
        """When this attempt is cancelled."""
        return datetime.fromtimestamp(self.deadline_at / 1000, UTC)

    def seconds_left(self) -> float:
        """Seconds until this attempt is cancelled; negative once that is past."""
        return (self.deadline_at - self.clock.now_ms()) / 1000

    @staticmethod
    def cleanup() -> AbstractContextManager[trio.CancelScope]:
        """A block that goes on after the attempt was cancelled, for CLEANUP_S seconds at most.

        Without it, every ``await`` in a ``finally`` of a cancelled handler raises at once.
        """
        return trio.move_on_after(CLEANUP_S, shield=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function that does tasks of one type, and how to call it."""

    type: str
    function: Callable[..., Any]
    is_async: bool
    defaults: TypeDefaults
    timeout_given: bool
    signature: Signature

    def arguments(self, payload: Json, context: Context | None = None) -> dict[str, Any]:
        """The keyword arguments that *payload* gives the function.

        Raises:
            PayloadInvalid: It does not fit; the message says where.
        """
        return self.signature.arguments(self.type, payload, context)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a handler as a JSON decoder.

    ``whole`` names the parameter that takes the payload as it is; ``context`` the one for the Context.
    """

    decoder: msgspec.json.Decoder[Any]
    names: tuple[str, ...]
    whole: str | None
    context: str | None
    spread: bool

    def arguments(self, type: str, payload: Json, context: Context | None) -> dict[str, Any]:
        """See Handler.arguments."""
        try:
            value = self.decoder.decode("{}" if payload == "null" and not self.whole else payload)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PayloadInvalid(f"payload of {type}: {error}", field="payload", type=type) from None
        if self.whole:
            arguments = {self.whole: value}
        elif self.spread:
            arguments = value
        else:
            arguments = {name: getattr(value, name) for name in self.names}
        if self.context:
            arguments[self.context] = context
        return arguments


def read_signature(function: Callable[..., Any]) -> Signature:
    """The decoder for the parameters of *function*.

    Raises:
        TypeError: A parameter cannot be filled from JSON: positional-only, ``*args``, or of a type that
            JSON cannot give.
    """
    name = getattr(function, "__qualname__", repr(function))
    hints = _hints(function, name)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    context: str | None = None
    spread = False
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name, Any)
        if hint is Context or (parameter.name == "ctx" and hint is Any):
            context = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            spread = True
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(f"handler {name}: parameter {parameter.name} cannot be given by name; make it so")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    whole = fields[0][0] if len(fields) == 1 and fields[0][0] == "payload" and not spread else None
    try:
        decoder = _decoder(name, fields, whole=whole is not None, spread=spread)
    except (TypeError, NameError) as error:
        raise TypeError(f"handler {name}: JSON cannot give one of its parameters: {error}") from error
    return Signature(decoder, tuple(field[0] for field in fields), whole, context, spread)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"handler {name}: an annotation cannot be resolved: {error}") from error


def _default(value: Any) -> Any:
    # A struct may not have a mutable default; a factory that gives the function's own is what Python does.
    return msgspec.field(default_factory=lambda: value)


def _decoder(name: str, fields: list[Any], *, whole: bool, spread: bool) -> msgspec.json.Decoder[Any]:
    if whole:
        return msgspec.json.Decoder(fields[0][1])
    if spread:
        return msgspec.json.Decoder(dict[str, Any])
    return msgspec.json.Decoder(
        msgspec.defstruct(f"Payload of {name}", fields, forbid_unknown_fields=True, kw_only=True)
    )


class TaskQueue:
    """The handlers of a server. Fill it with `task`, give it to ``tq serve``.

    Example:
        app = TaskQueue()

        @app.task("email", timeout=30)
        async def send_email(to: str, subject: str) -> dict[str, str]: ...
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._fallback: Handler | None = None

    @property
    def types(self) -> tuple[str, ...] | None:
        """The types there are handlers for, sorted; None if any type is taken."""
        return None if self._fallback else tuple(sorted(self._handlers))

    def task(
        self,
        type: str,
        *,
        timeout: float | None = None,
        max_attempts: int = 20,
        queue: str = "default",
        priority: int | str = 0,
        retry: RetryPolicy | None = None,
        result_ttl: float | None = None,
    ) -> Callable[[F], F]:
        """Register the function below as the handler of *type*; it stays an ordinary function.

        An ``async def`` runs as a trio task, a ``def`` in a thread. The payload, a JSON object, gives the
        arguments by name, checked against the annotations at submit and again at run; a function whose
        only parameter is named ``payload`` takes it whole. A parameter annotated Context (or named
        ``ctx``) gets that. The rest are defaults for tasks of this type.

        Args:
            type: 1 to 64 of ``A-Z a-z 0-9 _ . : ~ -``; ``*`` takes every type without another handler.
            timeout: Seconds per attempt; without it, the server's ``--timeout``.
            result_ttl: Seconds that an ended task is kept.
        Raises:
            ValueError: The type has a handler already, or a value is not allowed.
            TypeError: The function cannot be called with JSON.
        """

        def register(function: F) -> F:
            if type in self._handlers or (type == "*" and self._fallback):
                raise ValueError(f"type {type!r} has a handler already")
            handler = Handler(
                type=type,
                function=function,
                is_async=inspect.iscoroutinefunction(function),
                defaults=_defaults(
                    type,
                    timeout=timeout,
                    max_attempts=max_attempts,
                    queue=queue,
                    priority=priority,
                    result_ttl=result_ttl,
                    retry=retry,
                ),
                timeout_given=timeout is not None,
                signature=read_signature(function),
            )
            if type == "*":
                self._fallback = handler
            else:
                self._handlers[type] = handler
            return function

        return register

    def handler(self, type: str) -> Handler:
        """The handler of *type*. Raises UnknownType, naming those there are."""
        handler = self._handlers.get(type) or self._fallback
        if handler is None:
            known = sorted(self._handlers)
            raise UnknownType(
                f"type: no handler here does {type!r}: it must be one of {', '.join(known) or '(none)'}",
                field="type",
                known=known,
            )
        return handler

    def new_task(
        self, request: SubmitRequest, *, new_id: TaskId, now: int, timeout_ms: int = 5_000
    ) -> NewTask:
        """The task that *request* asks for, with the defaults of its type and its payload checked.

        Args:
            timeout_ms: For a type whose handler names no timeout.
        Raises:
            UnknownType, PayloadInvalid, PayloadTooLarge, InvalidInput: What is wrong, naming the field.
        """
        check_name("type", request.type)
        handler = self.handler(request.type)
        defaults = handler.defaults
        if not handler.timeout_given and timeout_ms != defaults.timeout_ms:
            defaults = msgspec.structs.replace(defaults, timeout_ms=timeout_ms)
        task = new_task(request, defaults, new_id=new_id, now=now)
        handler.arguments(task.payload)
        return task


def _defaults(
    type: str,
    *,
    timeout: float | None,
    max_attempts: int,
    queue: str,
    priority: int | str,
    result_ttl: float | None,
    retry: RetryPolicy | None,
) -> TypeDefaults:
    """The defaults of a type, checked by the same rules as a submit that says them."""
    request = SubmitRequest(
        type="any" if type == "*" else type,
        queue=queue,
        priority=priority,
        timeout=timeout,
        max_attempts=max_attempts,
        result_ttl=result_ttl,
    )
    base = TypeDefaults(retry=retry or RetryPolicy())
    try:
        checked = new_task(request, base, new_id=TaskId("any"), now=0)
    except InvalidInput as fault:
        raise ValueError(f"handler of {type!r}: {fault.message}") from None
    return TypeDefaults(
        queue=checked.queue,
        priority=checked.priority,
        timeout_ms=checked.timeout_ms,
        max_attempts=checked.max_attempts,
        retry=checked.retry,
        result_ttl_ms=checked.result_ttl_ms,
    )
