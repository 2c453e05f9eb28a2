"""The reference of the Python API: what modules export, its signatures and its docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, get_overloads

from markdown_text import prose

import tq
import tq.testing
from tq.client import errors as client_errors
from tq.client.async_ import AsyncTask
from tq.client.retrying import RetryRules
from tq.client.sync import Task
from tq.context import Context
from tq.function import TaskFunction

WIDTH: Final = 100
DEFAULT_MAX: Final = 40
"""Characters of a default that is shown as it is."""
OF_THE_ENGINE: Final = frozenset({"task", "deadline_at", "clock", "link"})
"""What of a Context is not for handlers."""
OF_A_QUEUE: Final = ("task", "schedule")
"""What of a TaskQueue is for who fills it; the rest is for the server."""
SECTIONS: Final = ("Args", "Raises")


# Signatures


class _AsWritten:
    """An annotation, or a default, that is shown as this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def signature(name: str, function: Callable[..., Any], *, prefix: str = "") -> str:
    """How *function* is called, each parameter on a line of its own where one line is not enough."""
    given = inspect.signature(function)
    parameters = [_shown(each) for each in given.parameters.values() if each.name != "self"]
    returned = given.return_annotation
    is_made = inspect.isclass(function) or returned is inspect.Signature.empty
    arrow = "" if is_made else f" -> {returned}"
    words = f"{prefix}{'async ' if inspect.iscoroutinefunction(function) else ''}{name}"
    line = f"{words}{given.replace(parameters=parameters, return_annotation=inspect.Signature.empty)}{arrow}"
    if len(line) <= WIDTH:
        return line
    inside = line[len(words) + 1 : len(line) - len(arrow) - 1]
    lines = "".join(f"    {each},\n" for each in _split(inside))
    return f"{words}(\n{lines}){arrow}"


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.annotation is not parameter.empty:
        parameter = parameter.replace(annotation=_AsWritten(str(parameter.annotation)))
    default = repr(parameter.default)
    if parameter.default is not parameter.empty and (default.startswith("<") or len(default) > DEFAULT_MAX):
        return parameter.replace(default=_AsWritten("..."))
    return parameter


def _split(parameters: str) -> list[str]:
    """*parameters* one by one: a comma in brackets does not part them."""
    found, depth = [""], 0
    for letter in parameters:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [each.strip() for each in found]


def signatures(name: str, function: Callable[..., Any]) -> str:
    """All the ways to call *function*, as a block."""
    ways = get_overloads(function) or [function]
    return "```\n" + "\n".join(signature(name, each) for each in ways) + "\n```"


# Docstrings


def text_of(thing: object) -> str:
    """The docstring of *thing* as Markdown: arguments and errors are lists."""
    lines = iter((inspect.getdoc(thing) or "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", prose("\n".join(_lines(lines))))


def _lines(lines: Iterator[str]) -> Iterator[str]:
    inside = ""
    for line in lines:
        if line.removesuffix(":") in (*SECTIONS, "Example"):
            if inside in SECTIONS:
                yield ""
            inside = line.removesuffix(":")
            yield f"{inside}:\n" + ("\n```" if inside == "Example" else "")
        elif inside in SECTIONS and (found := re.match(r" {4}(\w[\w, ]*): (.*)", line)):
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            yield f"- {names}: {found[2]}"
        elif inside in SECTIONS:
            yield "  " + line.strip()
        else:
            yield line.removeprefix("    ") if inside == "Example" else line
    if inside == "Example":
        yield "```"


# Sections


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """What of *kind* is public and its own, in the order of its source."""
    hidden = OF_THE_ENGINE if kind is Context else ()
    for name, member in vars(kind).items():
        if not name.startswith("_") and name not in hidden:
            yield name, member


def a_class(kind: type, name: str, *, only: Collection[str] | None = None, is_made: bool = True) -> str:
    """A section for a class: how it is made, what it is, and each of its members, or *only* some."""
    own = [(each, member) for each, member in members(kind) if only is None or each in only]
    getters = [(each, member.fget) for each, member in own if isinstance(member, property)]
    methods = [(each, getattr(kind, each)) for each, member in own if _is_method(member)]
    parts = [f"### {name}"]
    if is_made and "__init__" in vars(kind):
        parts.append(signatures(name, kind))
    parts.append(text_of(kind))
    parts.append("\n".join(f"- `{each}`: {text_of(getter)}" for each, getter in getters))
    for each, method in methods:
        parts += [f"#### {kind.__name__}.{each}", signatures(each, method), text_of(method)]
    return "\n\n".join(part for part in parts if part)


def _is_method(member: object) -> bool:
    return inspect.isfunction(member) or isinstance(member, staticmethod)


def outline(kind: type, name: str) -> str:
    """A section for a class whose members are told of elsewhere: their signatures alone."""
    lines = [
        signature(each, way)
        for each, member in members(kind)
        if inspect.isfunction(member)
        for way in get_overloads(member) or [member]
    ]
    return "\n\n".join([f"### {name}", text_of(kind), "```\n" + "\n".join(lines) + "\n```"])


def a_function(function: Callable[..., Any], name: str) -> str:
    """A section for a function, or for what is used in a ``with``."""
    inner = inspect.unwrap(function)
    prefix = (
        ("async with " if inspect.isasyncgenfunction(inner) else "with ") if inner is not function else ""
    )
    return f"### {name}\n\n```\n{signature(name, inner, prefix=prefix)}\n```\n\n{text_of(inner)}"


def handlers() -> str:
    """What a module of handlers needs."""
    outcomes = (tq.Retry, tq.Snooze, tq.Cancel)
    return "\n\n".join(
        [
            a_class(tq.TaskQueue, "TaskQueue", only=OF_A_QUEUE),
            a_class(TaskFunction, "TaskFunction", is_made=False),
            a_class(Context, "Context", is_made=False),
            *(a_class(kind, kind.__name__) for kind in outcomes),
        ]
    )


def clients() -> str:
    """What a program that submits needs."""
    return "\n\n".join(
        [
            a_class(tq.Client, "Client"),
            a_class(Task, "Task", is_made=False),
            outline(tq.AsyncClient, "AsyncClient"),
            outline(AsyncTask, "AsyncTask"),
            a_class(RetryRules, "RetryRules"),
        ]
    )


def errors_of_clients() -> str:
    """What a client raises of its own."""
    kinds = [kind for kind in vars(client_errors).values() if inspect.isclass(kind)]
    own = [kind for kind in kinds if kind.__module__ == client_errors.__name__]
    return "\n\n".join(f"### {kind.__name__}\n\n{text_of(kind)}" for kind in own)


def testing() -> str:
    """What tests of handlers need."""
    parts = []
    for name in tq.testing.__all__:
        thing = getattr(tq.testing, name)
        if inspect.isclass(thing):
            parts.append(a_class(thing, name, only=()))
        elif callable(thing):
            parts.append(a_function(thing, name))
    return "\n\n".join(parts)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "handlers": handlers,
    "clients": clients,
    "errors of clients": errors_of_clients,
    "testing": testing,
}
