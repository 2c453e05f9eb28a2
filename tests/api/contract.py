"""Holds answers to the contract that the server itself gives, read more strictly than clients read it."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema_rs
from raw_http import Answer

from tq.api.http import NDJSON
from tq.api.openapi import describe, path_of
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.api.schemas import ref

DOCUMENT = json.loads(json.dumps(describe(ROUTES)))
"""As a client reads it."""
BY_NAME = {route.name: route for route in ROUTES}


def operation(route: Route) -> Any:
    return DOCUMENT["paths"][path_of(route)][route.method.lower()]


def closed(schema: Any) -> Any:
    """*schema* with no members in its objects but those it names."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(each) for name, each in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


SCHEMAS = DOCUMENT["components"]["schemas"]
CLOSED = {name: each if name in ("Problem", "Contract") else closed(each) for name, each in SCHEMAS.items()}


def resolved(value: Any) -> Any:
    """What *value* is, or refers to."""
    while "$ref" in value:
        found: Any = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def faults(schema: Any, content: object, *, strictly: bool = True) -> list[str]:
    """What is wrong with *content*, which *schema* of the document describes."""
    found = validator(json.dumps(schema), strictly=strictly).iter_errors(content)
    return [f"{'/'.join(map(str, each.instance_path))}: {each.message}" for each in found]


@cache
def validator(schema: str, *, strictly: bool) -> jsonschema_rs.Draft202012Validator:
    whole = {**json.loads(schema), "components": {"schemas": CLOSED if strictly else SCHEMAS}}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def check_answer(route: Route, answer: Answer) -> None:
    """Fail if the contract does not say that *route* answers so."""
    where = f"{route.name}: {answer.status} {answer.body[:300]!r}"
    responses = operation(route)["responses"]
    assert str(answer.status) in responses, where
    said = resolved(responses[str(answer.status)])
    for name, header in said.get("headers", {}).items():
        value = answer.headers.get(name.lower())
        assert value is not None or not resolved(header)["required"], f"{where}: no {name}"
        if value is not None:
            typed = int(value) if resolved(header)["schema"].get("type") == "integer" else value
            assert faults(resolved(header)["schema"], typed) == [], f"{where}: {name}"
    if "content" not in said:
        assert answer.body == b"", where
        return
    media = answer.headers["content-type"]
    assert media in said["content"], f"{where}: {media}"
    if media == NDJSON:
        for line in answer.body.splitlines():
            assert faults(ref("BatchLine"), json.loads(line)) == [], where
    elif media.endswith("json"):
        assert faults(said["content"][media]["schema"], answer.json) == [], where


def filled(route: Route) -> str:
    """The path of *route* with the examples of its parameters."""
    examples = {
        each["name"]: each["example"] for each in operation(route)["parameters"] if each["in"] == "path"
    }
    return re.sub(r"\{(\w+)\}", lambda match: str(examples[match[1]]), path_of(route))
