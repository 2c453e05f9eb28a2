"""How a payload becomes the arguments of a function: its signature as a JSON decoder."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tq.context import Context
from tq.core.errors import InvalidInput, PayloadInvalid
from tq.core.sendable import json_bytes
from tq.core.task import Json


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a handler as a JSON decoder.

    ``whole`` names the parameter that takes the payload as it is, ``context`` the one for the Context and
    ``spread`` the one that takes all other names.
    """

    decoder: msgspec.json.Decoder[Any]
    names: tuple[str, ...]
    whole: str | None
    context: str | None
    spread: str | None
    called: inspect.Signature
    """Of the function, without the parameter for the Context."""

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

    def payload(self, type: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> msgspec.Raw:
        """The payload that gives the function these arguments. What is not given is left to its defaults.

        Raises:
            TypeError: It cannot be called so, or JSON cannot hold an argument.
            PayloadInvalid: An argument is not what its annotation says.
        """
        try:
            given = dict(self.called.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{type}: {error}") from None
        value: object = given
        if self.whole:
            value = given.get(self.whole)
        elif self.spread:
            value = {**given.pop(self.spread, {}), **given}
        try:
            payload = json_bytes(value, type)
        except InvalidInput as error:
            raise TypeError(error.message) from None
        self.arguments(type, Json(payload.decode()), None)
        return msgspec.Raw(payload)

    def schema(self) -> dict[str, Any] | bool:
        """The payloads that fit, as a JSON Schema; True, which is any, where the types cannot tell."""
        kind = self.decoder.type
        try:
            (found,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        except TypeError:
            return True
        name = found.get("$ref", "").removeprefix("#/$defs/")
        if not self.whole and name in parts:
            # The parameters themselves: nothing else refers to them.
            found = parts.pop(name)
            found["properties"] = {
                each.encode_name: found["properties"][each.encode_name] | _shown_default(each)
                for each in msgspec.structs.fields(kind)
            }
            # It names the function as Python sees it.
            del found["title"]
        return {**found, "$defs": parts} if parts else found


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
    spread: str | None = None
    called = inspect.signature(function)
    for parameter in called.parameters.values():
        hint = hints.get(parameter.name, Any)
        if hint is Context or (parameter.name == "ctx" and hint is Any):
            context = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            spread = parameter.name
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(f"handler {name}: parameter {parameter.name} cannot be given by name; make it so")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    whole = fields[0][0] if len(fields) == 1 and fields[0][0] == "payload" and not spread else None
    try:
        decoder = _decoder(name, fields, whole=whole is not None, spread=spread is not None)
    except (TypeError, NameError) as error:
        raise TypeError(f"handler {name}: JSON cannot give one of its parameters: {error}") from error
    given = [each for name, each in called.parameters.items() if name != context]
    names = tuple(field[0] for field in fields)
    return Signature(decoder, names, whole, context, spread, called.replace(parameters=given))


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"handler {name}: an annotation cannot be resolved: {error}") from error


def _default(value: Any) -> Any:
    # A struct may not have a mutable default; a factory that gives the function's own is what Python does.
    return msgspec.field(default_factory=lambda: value)


def _shown_default(parameter: msgspec.structs.FieldInfo) -> dict[str, Any]:
    """The default of *parameter* as a keyword of JSON Schema; nothing where JSON cannot hold it."""
    if parameter.default_factory is msgspec.NODEFAULT:
        return {}
    try:
        return {"default": msgspec.to_builtins(parameter.default_factory())}
    except TypeError:
        return {}


def _decoder(name: str, fields: list[Any], *, whole: bool, spread: bool) -> msgspec.json.Decoder[Any]:
    if whole:
        return msgspec.json.Decoder(fields[0][1])
    if spread:
        return msgspec.json.Decoder(dict[str, Any])
    return msgspec.json.Decoder(
        msgspec.defstruct(f"Payload of {name}", fields, forbid_unknown_fields=True, kw_only=True)
    )
