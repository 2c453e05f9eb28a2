"""The reference of the HTTP API: its routes, what they take, answer and refuse, and the objects in JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from markdown_text import code, codes, flat, table

from tq.api.openapi import describe, path_of, problems_of
from tq.api.problems import NotAcceptable
from tq.api.route import FROZEN, Route
from tq.api.routes import ROUTES
from tq.core.errors import InvalidInput, NotAllowed, RateLimited, TqError, Unauthorized
from tq.core.keys import Scope

Schema = Mapping[str, Any]

DOCUMENT: Final = describe(ROUTES)
SCHEMAS: Final[dict[str, Schema]] = DOCUMENT["components"]["schemas"]
OF_ANY: Final = frozenset[type[TqError]](
    {TqError, NotAllowed, InvalidInput, Unauthorized, RateLimited, NotAcceptable}
)
"""The refusals that the page tells of once, for all routes."""
OF_ANY_BODY: Final = frozenset({"body_too_slow", "payload_too_large", "unsupported_media_type"})
WORDS: Final = {
    "^[A-Za-z0-9_.:~-]{1,64}$": "text, 1 to 64 of `A-Z a-z 0-9 _ . : ~ -`",
    "^[A-Za-z0-9_.:~-]{1,128}$": "text, 1 to 128 of `A-Z a-z 0-9 _ . : ~ -`",
    "^[A-Za-z0-9_.:~-]{0,128}$": "text, at most 128 of `A-Z a-z 0-9 _ . : ~ -`",
    "^[ -~]{1,255}$": "text, 1 to 255 printable characters of ASCII",
}
"""The patterns that people need not read."""


# Routes


def title(route: Route) -> str:
    """As in ``GET /v1/tasks/{id}``."""
    return f"{route.method} {path_of(route)}"


def anchor(text: str) -> str:
    """Where a heading with *text* is found on its page."""
    return "".join(c for c in text.lower() if c.isalnum() or c in " -_").replace(" ", "-")


def route_table() -> str:
    """Every route in a line, those of the original last."""
    ordered = sorted(ROUTES, key=lambda route: route.path in FROZEN)
    rows = (
        (f"[{code(title(route))}](routes.md#{anchor(title(route))})", route.summary, _scope(route))
        for route in ordered
    )
    return table(("route", "does", "scope"), rows)


def _scope(route: Route) -> str:
    if route.scope is Scope.ANY:
        return "any key"
    return "" if route.scope is Scope.OPEN else code(route.scope.value)


def routes() -> str:
    """A section for each route."""
    ordered = sorted(ROUTES, key=lambda route: route.path in FROZEN)
    return "\n".join("\n\n".join(_section(route)) + "\n" for route in ordered)


def _section(route: Route) -> Iterator[str]:
    operation = DOCUMENT["paths"][path_of(route)][route.method.lower()]
    yield f"### {title(route)}"
    yield flat(operation["description"])
    if parameters := operation["parameters"]:
        rows = (
            (code(each["name"]), each["in"], takes(each["schema"]), flat(each["description"]))
            for each in parameters
        )
        yield table(("parameter", "in", "takes", "meaning"), rows).strip()
    yield "\n".join(_facts(route, operation))


def _facts(route: Route, operation: Schema) -> Iterator[str]:
    if route.scope is not Scope.OPEN:
        yield "- Any key will do." if route.scope is Scope.ANY else f"- Scope: {code(route.scope.value)}"
    if "requestBody" in operation:
        body = operation["requestBody"]
        kinds = "; ".join(f"{code(kind)}: {_content(each)}" for kind, each in body["content"].items())
        yield f"- Body{'' if body['required'] else ', which may be left out'}: {kinds}"
    for status, answer in operation["responses"].items():
        if int(status) < 400:
            headers = [name for name in answer.get("headers", {}) if not name.startswith("RateLimit")]
            with_headers = f", with {codes(headers)}" if headers else ""
            yield f"- {status}: {_answer(answer)}{with_headers}"
    refused = {
        status: sorted({kind.code for kind in kinds - OF_ANY} - OF_ANY_BODY)
        for status, kinds in sorted(problems_of(route).items())
    }
    if any(refused.values()):
        yield "- Refuses: " + ", ".join(f"{status} {codes(each)}" for status, each in refused.items() if each)


def _answer(answer: Schema) -> str:
    content = dict(answer.get("content", {}))
    if not content:
        return str(answer["description"]) if "WebSocket" in answer["description"] else "no body"
    json = content.pop("application/json", None)
    others = [f"{code(kind)}: {_content(each)}" for kind, each in content.items()]
    return "; ".join(others if json is None else [_content(json), *others])


def _content(media: Schema) -> str:
    schema = media["schema"]
    return takes(schema) if "description" not in schema else schema["description"]


# Objects


def objects(names: Iterable[str]) -> str:
    """A section for each of these objects, with its fields."""
    return "\n".join("\n\n".join(_object(name, SCHEMAS[name])) + "\n" for name in names)


def _object(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}"
    if "description" in schema:
        yield flat(schema["description"])
    required = schema.get("required", ())
    rows = [
        (
            code(field),
            takes(each),
            _default(each, required=field in required),
            flat(each.get("description", "")),
        )
        for field, each in schema["properties"].items()
    ]
    if name in REQUESTS:
        yield table(("field", "takes", "default", "meaning"), rows).strip()
    else:
        yield table(
            ("field", "is", "meaning"), ((field, kind, text) for field, kind, _, text in rows)
        ).strip()


def _default(schema: Schema, *, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default is None or isinstance(default, list | tuple | dict) else code(_json(default))


def _json(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def takes(schema: Schema) -> str:
    """What a value of *schema* is, in words."""
    if "anyOf" in schema and "type" not in schema:
        kinds = [takes(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return ", or ".join(kinds)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if is_object(SCHEMAS[name]) else takes(SCHEMAS[name])
    if "enum" in schema:
        return ", ".join(code(_json(each)) for each in schema["enum"])
    if "const" in schema:
        return code(_json(schema["const"]))
    match schema.get("type"):
        case "array":
            return f"list{_span(schema, 'minItems', 'maxItems')} of: {takes(schema['items'])}"
        case "object":
            return "object"
        case "boolean":
            return "`true` or `false`"
        case "integer" | "number" as kind:
            return f"{kind}{_span(schema, 'minimum', 'maximum')}"
        case "string":
            return _text(schema)
        case _:
            return "any JSON"


def _text(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "instant"
    pattern = schema.get("pattern")
    if pattern is not None:
        return WORDS.get(pattern) or (f"text that matches {code(pattern)}" if len(pattern) < 30 else "text")
    return f"text{_span(schema, 'minLength', 'maxLength')}"


def _span(schema: Schema, low: str, high: str) -> str:
    least, most = schema.get(low), schema.get(high)
    if most is None:
        return "" if least is None else f", at least {_number(least)}"
    return f", at most {_number(most)}" if least is None else f", {_number(least)} to {_number(most)}"


def _number(number: float) -> str:
    text = f"{number:,.3f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")


def is_object(schema: Schema) -> bool:
    """Whether it has a section of its own."""
    return bool(schema.get("properties"))


OBJECTS: Final = tuple(sorted(name for name, schema in SCHEMAS.items() if is_object(schema)))
REQUESTS: Final = tuple(name for name in OBJECTS if name.endswith("Request"))
ANSWERS: Final = tuple(name for name in OBJECTS if name not in REQUESTS)

PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "table of routes": route_table,
    "routes": routes,
    "objects of requests": lambda: objects(REQUESTS),
    "objects of answers": lambda: objects(ANSWERS),
}
