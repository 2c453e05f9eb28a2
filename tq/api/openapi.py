"""The contract: an OpenAPI 3.1 document of the table of routes, for programs to read.

Each row says what is its own. What any route of its kind can answer follows here from the row: one that
takes a body can find it too large, one with a path can lead nowhere. Knows nothing of a server that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from inspect import getdoc
from pathlib import Path
from re import findall
from typing import Any, Final

import msgspec

from tq import __version__
from tq.api.http import JSON, NDJSON, WAIT_MAX_S
from tq.api.live import EVENT_ID_MAX
from tq.api.problems import (
    BAD_FIELD_STATUS,
    PROBLEM,
    BodyTooSlow,
    MethodNotAllowed,
    NotAcceptable,
    status_of,
)
from tq.api.route import FROZEN, MEDIA, SMALL_BODY_MAX, Route, answer_media
from tq.api.schemas import NAME, TASK_ID, TEXT, Schema, answer_schemas, ref, request_schemas
from tq.core.errors import (
    InvalidInput,
    NotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    StorageUnavailable,
    TqError,
    Unauthorized,
    UnsupportedType,
)
from tq.core.keys import Scope
from tq.core.ops import BATCH_MAX
from tq.core.queries import PAGE_MAX

Problems = dict[int, set[type[TqError]]]
"""By status: the errors that are answered with it."""

_EXAMPLES: Final = Path(__file__).parent / "pages" / "examples.json"

_INFO: Final = """A task queue: submit tasks, watch them, govern the queues they wait in.

An instant is RFC 3339 in UTC, a duration is seconds. Unknown fields and query parameters are refused by
name. An integer is written without a point; a text has no NUL character. Every error is
`application/problem+json` (RFC 9457); program against its `code`.

Every answer has an `X-Request-Id`: that of the request, or one made here. Every GET can be asked with HEAD,
every path with OPTIONS. A large answer to a GET is compressed with gzip if `Accept-Encoding` has it.

Before a request reaches a route, the server can also answer 404 (no such path), 405 with `Allow` (the path
does not take the method), 400, 431, 501 or 505 (it cannot be read as HTTP/1.1 within the limits), and 503
with `Retry-After` (too many connections)."""

_TAGS: Final = {
    "tasks": "Submitting, watching and changing tasks",
    "queues": "Order, limits and pauses",
    "schedules": "Tasks on a calendar",
    "failures": "What went wrong, by cause",
    "servers": "The servers that share the store",
    "workers": "Who does the work",
    "keys": "Who may ask, and for what",
    "stats": "Counts",
    "events": "Changes as they happen",
    "metrics": "For Prometheus",
    "health": "For whoever starts and restarts servers",
    "contract": "This document",
    "dashboard": "For people",
    "original": "The three routes of the server that tq grew from; frozen",
}


# Parameters and headers

PARAMETERS: Final[dict[str, tuple[Schema, str]]] = {
    "id": (TASK_ID, "the task"),
    "queue": (NAME, "the queue"),
    "name": (NAME, "the schedule"),
    "key_id": ({"type": "string", "pattern": "^[0-9a-f]{16}$"}, "the key, by its id"),
    "version": (TEXT, "of the files, as the page names it"),
    "file": (NAME, "the name of the file"),
    "wait": (
        {"type": "number", "minimum": 0, "maximum": WAIT_MAX_S},
        "hold the answer until the task has ended, so many seconds at the longest",
    ),
    "limit": ({"type": "integer", "minimum": 1, "maximum": PAGE_MAX}, "how many at most"),
    "cursor": ({"type": "string", "pattern": "^[A-Za-z0-9_.:~-]{1,64}$"}, "the next of the page before"),
    "view": (
        {"enum": ["full", "brief"], "default": "full"},
        "brief: without payload, result and logs, and of the errors the last alone, without its traceback",
    ),
    "last_event_id": (
        {"type": "string", "maxLength": EVENT_ID_MAX},
        "the id of the last event that came, to go on after it; the header Last-Event-ID counts before it",
    ),
    "ticket": (TEXT, "in place of a key, for pages of browsers: see POST /v1/tickets"),
}
"""Of paths and queries, but for those of a filter."""

_ASKING: Final[dict[str, tuple[Schema, str]]] = {
    "Idempotency-Key": (
        {"type": "string", "pattern": "^[ -~]{1,255}$"},
        "makes the request repeatable for 24 h: the same again gives the same task",
    ),
    "Prefer": (
        TEXT,
        f"wait=N holds the answer until the task has ended, N seconds (at most {WAIT_MAX_S}) at the longest; "
        "its body is then the whole task",
    ),
    "If-None-Match": (TEXT, "the ETag of what you have: 304 if it is still that"),
}
_TELLING: Final[dict[str, Schema]] = {
    "Location": {"schema": {"type": "string", "format": "uri-reference"}, "description": "the task"},
    "Tq-Duplicate": {"schema": {"const": "true"}, "description": "it was there before; nothing was stored"},
    "Preference-Applied": {"schema": TEXT, "description": "the wait=N that was kept to"},
    "Link": {"schema": TEXT, "description": 'the next page, as <…>; rel="next"; absent on the last'},
    "ETag": {"schema": TEXT, "description": "changes when this does"},
    "RateLimit-Policy": {
        "schema": TEXT,
        "description": "what the caller may ask: q in w seconds",
    },
    "RateLimit": {"schema": TEXT, "description": "what is left of it: r now, all of it in t seconds"},
    "WWW-Authenticate": {"schema": {"const": "Bearer"}, "description": "send a key"},
    "Retry-After": {"schema": {"type": "integer", "minimum": 0}, "description": "seconds to wait"},
}
_ALWAYS: Final = frozenset({"Location", "ETag", "Retry-After", "WWW-Authenticate"})
"""The headers that are there whenever the contract names them."""

_ASKED: Final[dict[str, tuple[str, ...]]] = {
    "submit_task": ("Idempotency-Key", "Prefer"),
    "get_task": ("If-None-Match",),
    "get_contract": ("If-None-Match",),
    "get_docs": ("If-None-Match",),
    "get_dashboard": ("If-None-Match",),
    "get_dashboard_file": ("If-None-Match",),
}
"""By operation: the headers of the request that it heeds."""
_TOLD: Final[dict[str, dict[int, tuple[str, ...]]]] = {
    "submit_task": {
        200: ("Location", "Tq-Duplicate", "Preference-Applied"),
        201: ("Location", "Preference-Applied"),
    },
    "run_schedule": {200: ("Location", "Tq-Duplicate"), 201: ("Location",)},
    "list_tasks": {200: ("Link",)},
    "list_schedules": {200: ("Link",)},
    "get_task": {200: ("ETag",), 304: ("ETag",)},
    "get_contract": {200: ("ETag",), 304: ("ETag",)},
    "get_docs": {200: ("ETag",), 304: ("ETag",)},
    "get_dashboard": {200: ("ETag",), 304: ("ETag",)},
    "get_dashboard_file": {200: ("ETag",), 304: ("ETag",)},
}
"""By operation and status: the headers of the answer."""
_LINKS: Final = {
    "submit_task": ("id", "$response.body#/id"),
    "run_schedule": ("id", "$response.body#/id"),
    "put_schedule": ("name", "$request.path.name"),
    "put_queue": ("queue", "$request.path.queue"),
}
"""By operation: the parameter of other paths that its answer gives."""


# The document


@dataclass(frozen=True, slots=True)
class Sources:
    """What a document is made of. ``shared`` gathers the answers that several operations have."""

    routes: tuple[Route, ...]
    requests: dict[str, Schema] = field(default_factory=request_schemas)
    examples: dict[str, Any] = field(default_factory=lambda: msgspec.json.decode(_EXAMPLES.read_bytes()))
    shared: dict[str, Any] = field(default_factory=dict)


def make_document(routes: Iterable[Route]) -> bytes:
    """The document of *routes*, as JSON."""
    return msgspec.json.encode(describe(routes))


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of *routes*."""
    sources = Sources(tuple(routes))
    paths: dict[str, dict[str, Any]] = {}
    for route in sources.routes:
        paths.setdefault(path_of(route), {})[route.method.lower()] = _operation(route, sources)
    used = {_tag(route) for route in sources.routes}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tq", "version": __version__, "description": _INFO, "license": {"name": "MIT"}},
        "servers": [{"url": "."}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items() if name in used],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": {**sources.requests, **answer_schemas(), "Problem": _problem_schema()},
            "responses": dict(sorted(sources.shared.items())),
            "headers": {name: each | {"required": name in _ALWAYS} for name, each in _TELLING.items()},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a key made by `tq keys create`; not needed by a server without keys",
                }
            },
        },
    }


def path_of(route: Route) -> str:
    """The path of *route* as OpenAPI writes it."""
    return route.path.replace("*}", "}")


def _operation(route: Route, sources: Sources) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [_tag(route)],
        "summary": route.summary,
        "description": _markdown(getdoc(route.endpoint)),
        "parameters": [*_parameters(route, sources)],
        "responses": {
            **{str(status): _answer(route, status, sources) for status in sorted(route.answers)},
            **{
                str(status): _problem(status, kinds, sources)
                for status, kinds in sorted(problems_of(route).items())
            },
        },
        "security": _security(route.scope),
    }
    if route.takes is not None:
        operation["requestBody"] = _body(route, sources)
    return operation


def _security(scope: Scope) -> list[dict[str, list[str]]]:
    """By what one gets in: by nothing too, for a server without keys asks for none."""
    if scope is Scope.OPEN:
        return []
    return [{}, {"key": [] if scope is Scope.ANY else [scope.value]}]


def _markdown(doc: str | None) -> str:
    return (doc or "").replace("``", "`")


def _summary(kind: type[TqError]) -> str:
    if kind is TqError:
        return "A fault of tq; its details are in the log of the server."
    return _markdown(getdoc(kind)).partition("\n")[0]


def _tag(route: Route) -> str:
    if route.path in FROZEN:
        return "original"
    first, *rest = route.path.strip("/").split("/")
    if first == "v1":
        return "events" if rest[0] == "tickets" or rest[-1] == "events" else rest[0]
    if first == "metrics":
        return first
    if first in ("", "dashboard"):
        return "dashboard"
    return "contract" if first in ("openapi.json", "docs") else "health"


def _parameters(route: Route, sources: Sources) -> Iterator[dict[str, Any]]:
    for name in findall(r"\{(\w+)\*?\}", route.path):
        schema, text = PARAMETERS[name]
        # The original took any text for an id.
        schema = {"type": "string", "minLength": 1} if route.path in FROZEN else schema
        yield _parameter("path", name, schema, text, sources) | {"required": True}
    filters = sources.requests["FilterRequest"]["properties"]
    for name in sorted(route.query or ()):
        schema, text = PARAMETERS.get(name) or _not_null(filters[name])
        yield _parameter("query", name, schema, text, sources)
    for name in _ASKED.get(route.name, ()):
        yield _parameter("header", name, *_ASKING[name], sources)


def _parameter(place: str, name: str, schema: Schema, text: str, sources: Sources) -> dict[str, Any]:
    example = sources.examples["parameters"][name]
    return {"name": name, "in": place, "description": text, "schema": schema, "example": example}


def _not_null(field_schema: Schema) -> tuple[Schema, str]:
    """The schema of a value that is there, and what it means."""
    (schema,) = [each for each in field_schema["anyOf"] if each["type"] != "null"]
    return schema, field_schema["description"]


def _body(route: Route, sources: Sources) -> dict[str, Any]:
    assert route.takes is not None
    name = route.takes.__name__
    example = sources.examples["requests"][name]
    if NDJSON not in route.bodies:
        # Bodies of settings may be left out; else the empty type is only a type that is not named.
        is_optional = route.bodies.get("") == SMALL_BODY_MAX
        content = {JSON: {"schema": ref(name), "example": example}}
        return {"required": not is_optional, "content": content}
    lines = {
        # Any text is a body of lines; each line is answered for itself.
        "schema": {"description": f"one {name} a line, as many as you like"},
        "example": msgspec.json.encode(example).decode() + "\n",
    }
    array = {"type": "array", "items": ref(name), "maxItems": BATCH_MAX}
    return {"required": True, "content": {JSON: {"schema": array, "example": [example]}, NDJSON: lines}}


def _answer(route: Route, status: int, sources: Sources) -> dict[str, Any]:
    name = route.answers[status]
    answer: dict[str, Any] = {"description": _MEANINGS[status]}
    told = _TOLD.get(route.name, {}).get(status, ())
    if route.scope is not Scope.OPEN and status != 101:
        told = (*told, "RateLimit-Policy", "RateLimit")
    if told:
        answer["headers"] = {each: {"$ref": f"#/components/headers/{each}"} for each in told}
    if name:
        content: dict[str, Any] = {"schema": ref(name)}
        if name in sources.examples["answers"]:
            content["example"] = sources.examples["answers"][name]
        answer["content"] = dict.fromkeys(MEDIA.get(name, (JSON,)), content)
        if NDJSON in route.bodies and status == 200:
            lines = "".join(msgspec.json.encode(line).decode() + "\n" for line in sources.examples["lines"])
            text = TEXT | {"description": "one BatchLine a line, for each line of the request, in order"}
            answer["content"][NDJSON] = {"schema": text, "example": lines}
    if route.name in _LINKS and status < 300:
        answer["links"] = _links(*_LINKS[route.name], sources.routes)
    return answer


_MEANINGS: Final = {
    200: "Done, and this is how it is now",
    201: "Made, and on stable storage",
    202: "Asked for: the attempt that runs has been told to stop",
    204: "Done",
    304: "As you have it",
    101: "A WebSocket: each message is a JSON object with id, event and data",
}


def _links(parameter: str, value: str, routes: tuple[Route, ...]) -> dict[str, Any]:
    return {
        route.name: {"operationId": route.name, "parameters": {parameter: value}}
        for route in routes
        if f"{{{parameter}}}" in route.path
    }


# Problems


def problems_of(route: Route) -> Problems:
    """Every error that *route* can answer with, by status."""
    found: Problems = {}
    for kind in _common(route) | route.refuses:
        found.setdefault(status_of(kind("")), set()).add(kind)
    if route.takes is not None and route.path not in FROZEN:
        found.setdefault(BAD_FIELD_STATUS, set()).add(InvalidInput)
    return found


def _common(route: Route) -> frozenset[type[TqError]]:
    """What any route like *route* can answer: a bug, a foreign page, a bad key, a wrong query or body."""
    kinds: set[type[TqError]] = {TqError, NotAllowed, InvalidInput}
    if route.scope is not Scope.OPEN:
        kinds |= {Unauthorized, RateLimited}
    if "{" in route.path:
        kinds.add(NotFound)
    if answer_media(route, ""):
        kinds.add(NotAcceptable)
    if route.bodies:
        kinds |= {BodyTooSlow, PayloadTooLarge, UnsupportedType}
    return frozenset(kinds)


def _problem(status: int, kinds: set[type[TqError]], sources: Sources) -> dict[str, Any]:
    """A reference to the answer of *status* for *kinds*, which is put among the shared ones."""
    codes = sorted(kind.code for kind in kinds)
    key = ".".join([str(status), *codes])
    texts = {kind.code: _summary(kind) for kind in kinds}
    answer: dict[str, Any] = {
        "description": "\n".join(f"- `{code}`: {texts[code]}" for code in codes),
        "content": {
            PROBLEM: {
                "schema": {
                    "allOf": [ref("Problem")],
                    "properties": {"status": {"const": status}, "code": {"enum": codes}},
                },
                "example": _problem_example(status, codes[0]),
            }
        },
    }
    if any(issubclass(kind, Overloaded | StorageUnavailable) for kind in kinds):
        answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    if RateLimited in kinds:
        told = ("Retry-After", "RateLimit-Policy", "RateLimit")
        answer["headers"] = {each: {"$ref": f"#/components/headers/{each}"} for each in told}
    if Unauthorized in kinds:
        answer["headers"] = {"WWW-Authenticate": {"$ref": "#/components/headers/WWW-Authenticate"}}
    sources.shared[key] = answer
    return {"$ref": f"#/components/responses/{key}"}


def _problem_example(status: int, code: str) -> dict[str, Any]:
    return {
        "type": f"urn:tq:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": "what is wrong, and what to do about it",
        "code": code,
    }


def error_kinds(kind: type[TqError] = TqError) -> Iterator[type[TqError]]:
    """Every error that tq itself has, *kind* first."""
    if kind.__module__.startswith("tq."):
        yield kind
    for child in kind.__subclasses__():
        yield from error_kinds(child)


def _problem_schema() -> Schema:
    texts = {kind.code: _summary(kind) for kind in error_kinds()}
    return {
        "type": "object",
        "description": "What is wrong (RFC 9457), and facts about it, such as the `field` or the `task_id`.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": TEXT | {"description": "for people; may change"},
            "code": {
                "type": "string",
                "enum": sorted(texts),
                "description": "\n".join(f"- `{code}`: {texts[code]}" for code in sorted(texts)),
            },
            "field": TEXT | {"description": "the part of the body that is wrong"},
            "parameter": TEXT | {"description": "the query parameter that is wrong"},
            "task_id": TEXT,
            "request_id": TEXT | {"description": "the X-Request-Id of the answer"},
            "index": {"type": "integer", "description": "which of a batch, from 0"},
            "allow": {"type": "array", "items": TEXT, "description": f"with {MethodNotAllowed.code}"},
        },
    }
