"""The registry of handlers: what a server can do, and how a payload becomes a call.

It knows signatures and JSON. It does not run anything: that is `tq.engine`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeVar, cast

import msgspec

from tq.context import Context
from tq.core.errors import InvalidInput, UnknownType
from tq.core.fields import check_name
from tq.core.requests import ScheduleRequest, make_spec, read_schedule, submit_of
from tq.core.task import Json, NewTask, TaskId
from tq.core.wire import SubmitRequest, TypeDefaults, decode_submit, new_task
from tq.function import Register, TaskFunction
from tq.signature import Signature, read_signature

F = TypeVar("F", bound=Callable[..., Any])


ANY_TYPE: Final = "*"
"""What the handler is registered for that takes every type without another one."""

Isolation = Literal["thread", "process"]
Backend = Literal["trio", "asyncio"]


class Runs(Enum):
    """Where a handler runs."""

    TRIO = "trio"
    """As a task of the server's own loop."""
    ASYNCIO = "asyncio"
    """As a task of the server's asyncio loop."""
    THREAD = "thread"
    PROCESS = "process"
    """In a child process, which can be killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function that does tasks of one type, and how to call it.

    ``is_async`` and ``backend`` say what the function is, ``runs`` where.
    """

    type: str
    function: Callable[..., Any]
    is_async: bool
    backend: Backend
    runs: Runs
    defaults: TypeDefaults
    timeout_given: bool
    signature: Signature

    @property
    def description(self) -> str:
        """The first paragraph of the docstring of the function; empty if it has none."""
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0]

    def defaults_with(self, timeout_ms: int) -> TypeDefaults:
        """The defaults, with *timeout_ms* where the handler names no timeout."""
        if self.timeout_given or timeout_ms == self.defaults.timeout_ms:
            return self.defaults
        return msgspec.structs.replace(self.defaults, timeout_ms=timeout_ms)

    def arguments(self, payload: Json, context: Context | None = None) -> dict[str, Any]:
        """The keyword arguments that *payload* gives the function.

        Raises:
            PayloadInvalid: It does not fit; the message says where.
        """
        return self.signature.arguments(self.type, payload, context)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule that comes with the handlers: its name, and what is asked for under it."""

    name: str
    request: ScheduleRequest


class TaskQueue:
    """The handlers of a server. Fill it with `task`, give it to ``tq serve``.

    Example:
        app = TaskQueue()

        @app.task("email", timeout=30)
        async def send_email(to: str, subject: str) -> dict[str, str]: ...
    """

    def __init__(self) -> None:
        self.reference: str | None = None
        """``module:attribute``, where another process can import this very queue; None if nobody said."""
        self._handlers: dict[str, Handler] = {}
        self._fallback: Handler | None = None
        self._schedules: dict[str, Scheduled] = {}

    @property
    def schedules(self) -> tuple[Scheduled, ...]:
        """The schedules that come with the handlers, by name."""
        return tuple(self._schedules[name] for name in sorted(self._schedules))

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """Every handler, by type; the one for any type, if there is one, last."""
        own = [self._handlers[type] for type in sorted(self._handlers)]
        return (*own, self._fallback) if self._fallback else tuple(own)

    @property
    def types(self) -> tuple[str, ...] | None:
        """The types there are handlers for, sorted; None if any type is taken."""
        return None if self._fallback else tuple(sorted(self._handlers))

    @property
    def lanes(self) -> tuple[tuple[str, str], ...]:
        """The queue and the type of each handler of one type, sorted."""
        return tuple(sorted((handler.defaults.queue, type) for type, handler in self._handlers.items()))

    def defaults(self, *, timeout_ms: int) -> dict[str, TypeDefaults] | None:
        """What a submit of each type means where it says nothing; None if any type is taken.

        Args:
            timeout_ms: For a type whose handler names no timeout.
        """
        if self._fallback:
            return None
        return {type: handler.defaults_with(timeout_ms) for type, handler in sorted(self._handlers.items())}

    def task(
        self,
        type: str,
        *,
        timeout: float | None = None,
        max_attempts: int = 20,
        queue: str = "default",
        priority: int | str = 0,
        retry: Mapping[str, object] | None = None,
        result_ttl: float | None = None,
        tags: Sequence[str] = (),
        unique: Mapping[str, object] | None = None,
        isolation: Isolation | None = None,
        backend: Backend = "trio",
    ) -> Register:
        """Register the function below as the handler of *type*; it can be called as before, and submitted.

        An ``async def`` runs as a trio task, a ``def`` in a thread, unless told otherwise. The payload, a
        JSON object, gives the arguments by name, checked against the annotations at submit and again at
        run; a function whose only parameter is named ``payload`` takes it whole. A parameter annotated
        Context (or named ``ctx``) gets that. The rest are defaults for tasks of this type.

        Args:
            type: 1 to 64 of ``A-Z a-z 0-9 _ . : ~ -``; ``*`` takes every type without another handler.
            timeout: Seconds per attempt; without it, the server's ``--timeout``.
            result_ttl: Seconds that an ended task is kept.
            retry: As in a submit: ``{"kind": "exponential", "base": 1, "cap": 3600, "jitter": 0.5}``.
            unique: As in a submit: ``{"key": "all", "while": "active", "on_conflict": "existing"}``.
            isolation: ``process`` runs it in a child process, which is killed when its time is over.
            backend: ``asyncio`` for an ``async def`` that awaits what needs an asyncio loop.
        Raises:
            ValueError: The type has a handler already, or a value is not allowed.
            TypeError: The function cannot be called with JSON.
        """

        def register(below: Callable[..., Any]) -> TaskFunction[Callable[..., Any], ...]:
            function = plain(below)
            if type in self._handlers or (type == ANY_TYPE and self._fallback):
                raise ValueError(f"type {type!r} has a handler already")
            handler = Handler(
                type=type,
                function=function,
                is_async=inspect.iscoroutinefunction(function),
                backend=backend,
                runs=_runs(type, function, isolation, backend),
                defaults=_defaults(
                    type,
                    timeout=timeout,
                    max_attempts=max_attempts,
                    queue=queue,
                    priority=priority,
                    result_ttl=result_ttl,
                    tags=tags,
                    unique=unique,
                    retry=retry,
                ),
                timeout_given=timeout is not None,
                signature=read_signature(function),
            )
            if type == ANY_TYPE:
                self._fallback = handler
            else:
                self._handlers[type] = handler
            return TaskFunction(type, function, handler.signature)

        return cast(Register, register)

    def schedule(
        self,
        cron: str | None = None,
        *,
        every: float | None = None,
        tz: str | None = None,
        name: str | None = None,
        type: str | None = None,
        payload: object = None,
        **fields: object,
    ) -> Callable[[F], F]:
        """Have a server make a task for the handler below at each tick, from its next start on.

        Put it above ``@task``, any number of times under different names. A server that starts makes the
        schedule, or gives it this definition; one that was paused stays so, and one that is taken out of
        the program goes on until it is deleted.

        Args:
            cron: Five fields, or ``@daily`` and the like; or *every*, in seconds.
            tz: The IANA zone of *cron*; without it, UTC.
            name: Of the schedule; without it, the type.
            type: Where the handler does several types, or any: which of them the task is to be.
            payload: Anything that JSON can hold.
            fields: ``overlap`` and ``misfire_grace``, and what a submit takes, such as ``priority``.
        Raises:
            ValueError: A value is not allowed, the name is taken, or the function below is no handler.
        """
        said = {"cron": cron, "tz": tz, "every": every, **fields, "payload": payload}

        def register(function: F) -> F:
            wanted = type or self._type_of(function)
            scheduled = self._scheduled(name or wanted, {**said, "type": wanted})
            if self.handler(wanted).function is not plain(function):
                raise ValueError(f"schedule {scheduled.name!r}: type {wanted!r} has another handler")
            if scheduled.name in self._schedules:
                raise ValueError(f"schedule {scheduled.name!r} is there already: give this one another name")
            self._schedules[scheduled.name] = scheduled
            return function

        return register

    def _type_of(self, function: Callable[..., Any]) -> str:
        plainly = plain(function)
        types = sorted(type for type, handler in self._handlers.items() if handler.function is plainly)
        if len(types) != 1:
            shown = getattr(function, "__qualname__", repr(function))
            found = f"it does {', '.join(types)}: say which by type" if types else "put it above @task"
            raise ValueError(f"schedule of {shown}: {found}")
        return types[0]

    def _scheduled(self, name: str, said: dict[str, object]) -> Scheduled:
        """The schedule that is asked for, checked by the same rules as one that comes by HTTP."""
        try:
            check_name("name", name)
            given = {field: value for field, value in said.items() if value is not None}
            request = read_schedule(msgspec.json.encode(given))
            task = self.new_task(submit_of(request), new_id=TaskId(name), now=0)
            make_spec(request, task, known=None, now=0)
        except (InvalidInput, TypeError) as fault:
            raise ValueError(f"schedule {name!r}: {fault}") from None
        return Scheduled(name, request)

    def types_that_run(self, runs: Runs) -> tuple[str, ...]:
        """The types whose handlers run there, sorted."""
        return tuple(sorted(handler.type for handler in self.handlers if handler.runs is runs))

    def runs(self, type: str) -> Runs:
        """Where the handler of *type* runs; TRIO if there is none here."""
        handler = self._handlers.get(type) or self._fallback
        return Runs.TRIO if handler is None else handler.runs

    def without_processes(self) -> TaskQueue:
        """The same handlers, those in processes run as they would without their isolation: for tests."""
        here = TaskQueue()
        here._handlers = {type: _without_process(handler) for type, handler in self._handlers.items()}
        here._fallback = self._fallback and _without_process(self._fallback)
        here._schedules = self._schedules
        return here

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
        task = new_task(request, handler.defaults_with(timeout_ms), new_id=new_id, now=now)
        handler.arguments(task.payload)
        return task


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """*function* as it was written, if it is a handler already."""
    return function.function if isinstance(function, TaskFunction) else function


def _runs(type: str, function: Callable[..., Any], isolation: Isolation | None, backend: Backend) -> Runs:
    is_async = inspect.iscoroutinefunction(function)
    if isolation not in (None, "thread", "process"):
        raise ValueError(f"handler of {type!r}: isolation is thread or process, not {isolation!r}")
    if backend not in ("trio", "asyncio"):
        raise ValueError(f"handler of {type!r}: backend is trio or asyncio, not {backend!r}")
    if backend == "asyncio" and not is_async:
        raise ValueError(f"handler of {type!r}: backend is for an async def: a def needs no loop")
    if isolation == "process":
        return Runs.PROCESS
    if not is_async:
        return Runs.THREAD
    if isolation == "thread":
        raise ValueError(f"handler of {type!r}: an async def runs on a loop, not in a thread of its own")
    return Runs.ASYNCIO if backend == "asyncio" else Runs.TRIO


def _without_process(handler: Handler) -> Handler:
    if handler.runs is not Runs.PROCESS:
        return handler
    return dataclasses.replace(handler, runs=_runs(handler.type, handler.function, None, handler.backend))


def _defaults(type: str, **given: object) -> TypeDefaults:
    """The defaults of a type, *given* as in a submit and read by the same rules."""
    body = {name: value for name, value in given.items() if value is not None}
    try:
        request = decode_submit(msgspec.json.encode({"type": "any" if type == ANY_TYPE else type, **body}))
        checked = new_task(request, TypeDefaults(), new_id=TaskId("any"), now=0)
    except InvalidInput as fault:
        raise ValueError(f"handler of {type!r}: {fault.message}") from None
    return TypeDefaults(
        queue=checked.queue,
        priority=checked.priority,
        timeout_ms=checked.timeout_ms,
        max_attempts=checked.max_attempts,
        retry=checked.retry,
        result_ttl_ms=checked.result_ttl_ms,
        options=checked.options,
    )
