"""A handler's function as a program sees it: still to be called, and submitted with checked arguments.

It knows signatures, and the body of a submit. Where a submit goes is decided by who runs: in a handler its
own server, elsewhere the one that TQ_URL names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from tq.client.records import Fields
from tq.context import Context, ambient
from tq.core.task import TaskId
from tq.signature import Signature

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)


class TaskFunction(Generic[F_co, P]):
    """What `TaskQueue.task` makes of a function: it can be called as before, and submitted.

    *F_co* is the function, *P* its parameters without the Context, which the server gives: type checkers
    see that if it comes first and is called ``ctx``.

    Example:
        await send_email.submit(to="ada@example.org")
        await send_email.options(delay=60, priority="high").submit(to="ada@example.org")
    """

    def __init__(self, type: str, function: F_co, signature: Signature, fields: Fields | None = None) -> None:
        update_wrapper(self, function)
        self.__qualname__: str = getattr(function, "__qualname__", repr(function))
        self.__name__: str = getattr(function, "__name__", self.__qualname__)
        self.type = type
        self.function = function
        self._signature = signature
        self._fields: Fields = fields or {}

    @property
    def __call__(self) -> F_co:
        """The function itself, which runs here and now, and is no task."""
        return self.function

    def __repr__(self) -> str:
        return f"<TaskFunction {self.type} {self.__qualname__}>"

    def __reduce__(self) -> str:
        # By its name, as functions are: multiprocessing can be given it.
        return self.__qualname__

    def options(self, **fields: Unpack[Fields]) -> TaskFunction[F_co, P]:
        """The same, to be submitted with these *fields*, such as ``priority`` or ``delay``, beside those
        that it has.
        """
        merged: Fields = {**self._fields, **fields}
        return TaskFunction(self.type, self.function, self._signature, merged)

    def body(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, object]:
        """The submit of a call with these arguments, in the form of ``POST /v1/tasks``.

        Raises:
            TypeError: The function cannot be called so, or JSON cannot hold an argument.
            PayloadInvalid: An argument is not what its annotation says.
        """
        payload = self._signature.payload(self.type, args, kwargs)
        return {"type": self.type, "payload": payload, **self._fields}

    async def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """Submit a call with these arguments; the id of the task, once it is durable.

        In a handler it is a child of the handler's task: see `Context.submit`. Elsewhere it goes to the
        server of ``TQ_URL``, with the key ``TQ_KEY``, over a connection of its own; `AsyncClient.submit`
        keeps one, and gives the task rather than its id.

        Raises:
            TypeError, PayloadInvalid: See `body`.
            TqError: It was refused.
            Unreachable: Outside of handlers: no server answered.
        """
        payload = self._signature.payload(self.type, args, kwargs)
        if (here := ambient.get()) is not None:
            return await here.submit(self.type, payload, **self._fields)
        # What a server does not need is not loaded where handlers are.
        from tq.client.async_ import AsyncClient

        async with AsyncClient() as client:
            return TaskId((await client.submit(self.type, payload, **self._fields)).id)

    def submit_sync(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """As `submit`, for plain functions: it blocks."""
        payload = self._signature.payload(self.type, args, kwargs)
        if (here := ambient.get()) is not None:
            return here.submit_sync(self.type, payload, **self._fields)
        from tq.client.sync import Client

        with Client() as client:
            return TaskId(client.submit(self.type, payload, **self._fields).id)


class WithContext(Protocol[P, R_co]):
    """A function whose first parameter is the Context, called ``ctx``."""

    def __call__(self, ctx: Context, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What the handler does."""
        ...


class Register(Protocol):
    """Makes the handler of a function: the other half of ``@app.task(…)``."""

    # A Callable[Concatenate[Context, P], R] would also be a function of one ``payload: object``.
    @overload
    def __call__(self, function: WithContext[P, R_co], /) -> TaskFunction[WithContext[P, R_co], P]: ...

    @overload
    def __call__(self, function: Callable[P, R_co], /) -> TaskFunction[Callable[P, R_co], P]: ...
