"""GET /openapi.json: the contract is complete, and the server keeps to it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing
from contract import BY_NAME, DOCUMENT, SCHEMAS, check_answer, faults, filled, operation, resolved
from raw_http import JSON_TYPE, NDJSON_TYPE, Api, open_api

from tq.api.http import JSON, NDJSON
from tq.api.openapi import error_kinds, problems_of
from tq.api.problems import PROBLEM
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.api.schemas import RULES, request_schemas
from tq.context import Context
from tq.core.errors import TqError
from tq.core.keys import KeyId, Scope
from tq.core.ops import PutKey
from tq.engine.server import Settings
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
EACH_ROUTE = [pytest.param(route, id=route.name) for route in ROUTES]
RATE = {"RateLimit", "RateLimit-Policy"}
EACH_ROUTE_THAT_ENDS = [each for each in EACH_ROUTE if each.id not in ("watch_task", "watch_all")]
NEVER_ANSWERED = {"lease_lost", "storage_error", "storage_in_use", "schema_mismatch", "method_not_allowed"}
"""Codes that no route answers with: workers are not remote yet, a server does not start on a bad store,
and a method that a path does not take is no operation of it."""


# The document


async def test_the_contract_is_served_once_and_then_known_by_its_tag(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        first = await api.get("/openapi.json")
        assert (first.status, first.headers["content-type"]) == (200, "application/json")
        assert first.json["openapi"] == "3.1.0"
        assert first.json == DOCUMENT
        again = await api.ask("GET", "/openapi.json", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        other = await api.ask("GET", "/openapi.json", headers={"If-None-Match": '"other"'})
        assert (other.status, other.body) == (200, first.body)


def test_a_start_does_not_make_the_contract() -> None:
    code = "import sys, tq.cli.serving; print([each for each in sys.modules if 'openapi' in each])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"


def test_every_operation_has_a_name_of_its_own() -> None:
    assert all(route.name.isidentifier() for route in ROUTES)
    assert len(BY_NAME) == len(ROUTES)


@pytest.mark.parametrize("route", EACH_ROUTE)
def test_every_operation_is_described_with_an_example_of_each_body(route: Route) -> None:
    said = operation(route)
    assert said["summary"]
    assert said["description"], "the endpoint has no docstring"
    assert all(each["description"] and "example" in each for each in said["parameters"])
    if route.takes is not None:
        for content in said["requestBody"]["content"].values():
            assert faults(content["schema"], content["example"]) == []
    elif route.bodies:
        assert "" in route.bodies, "it takes a body, and says not what is in it"
    assert any(status < 400 for status in route.answers)
    for status in route.answers:
        for content in said["responses"][str(status)].get("content", {}).values():
            assert faults(content["schema"], content["example"]) == []


def test_every_parameter_example_is_one() -> None:
    for route in ROUTES:
        for each in operation(route)["parameters"]:
            assert faults(each["schema"], each["example"]) == [], each["name"]


def test_every_error_is_answered_by_some_route_or_known_not_to_be() -> None:
    answered = {kind.code for route in ROUTES for kinds in problems_of(route).values() for kind in kinds}
    assert {kind.code for kind in error_kinds()} - answered == NEVER_ANSWERED
    assert set(SCHEMAS["Problem"]["properties"]["code"]["enum"]) == {kind.code for kind in error_kinds()}


def test_every_problem_names_its_codes_and_fits_its_example() -> None:
    for key, said in DOCUMENT["components"]["responses"].items():
        status, *codes = key.split(".")
        content = said["content"][PROBLEM]
        assert content["schema"]["properties"] == {"status": {"const": int(status)}, "code": {"enum": codes}}
        assert faults(content["schema"], content["example"]) == []
        assert ("Retry-After" in said.get("headers", {})) == (status in ("429", "503", "507"))


def test_every_reference_leads_somewhere() -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                resolved(value)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(DOCUMENT)


@pytest.mark.parametrize("route", EACH_ROUTE)
def test_an_operation_tells_which_key_it_needs_and_how_it_is_refused(route: Route) -> None:
    said = operation(route)
    answers = {status: set(resolved(each).get("headers", {})) for status, each in said["responses"].items()}
    if route.scope is Scope.OPEN:
        assert said["security"] == []
        assert not answers.keys() & {"401", "429"}
    else:
        assert said["security"] == [{}, {"key": [] if route.scope is Scope.ANY else [route.scope.value]}]
        assert answers["401"] == {"WWW-Authenticate"}
        assert "not_allowed" in str(resolved(said["responses"]["403"]))
        assert answers["429"] == {"Retry-After", *RATE}
        assert all(told >= RATE for status, told in answers.items() if "200" <= status < "300"), answers
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_the_contract_of_one_operation_is_as_it_is_documented() -> None:
    said = operation(BY_NAME["submit_task"])
    assert {status: resolved(each)["content"].keys() for status, each in said["responses"].items()} == {
        "200": {JSON},
        "201": {JSON},
        **{
            each: {PROBLEM}
            for each in (
                *("400", "401", "403", "404", "406", "408", "409", "413", "415", "422", "429"),
                *("500", "503", "507"),
            )
        },
    }
    assert said["responses"]["422"] == {
        "$ref": "#/components/responses/422.idempotency_key_reused.invalid_input.payload_invalid.unknown_type"
    }
    assert said["responses"]["201"]["headers"].keys() == {"Location", "Preference-Applied", *RATE}
    assert said["responses"]["200"]["headers"].keys() == {
        "Location",
        "Preference-Applied",
        "Tq-Duplicate",
        *RATE,
    }
    assert [(each["name"], each["in"]) for each in said["parameters"]] == [
        ("Idempotency-Key", "header"),
        ("Prefer", "header"),
    ]
    assert said["security"] == [{}, {"key": ["submit"]}]
    assert set(said["responses"]["201"]["links"]) >= {"get_task", "cancel_task", "retry_task"}


# Answers


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("*", max_attempts=1)
    async def work(payload: Any) -> Any:
        return payload

    @queue.task("rich", max_attempts=2, retry={"base": 1, "jitter": 0}, timeout=100)
    async def rich(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        ctx.log("a line")
        await trio.sleep(10)
        raise ValueError("as the test wants it")

    return queue


LATER: dict[str, object] = {"delay": 3600}
BEFORE: dict[str, dict[str, object]] = {
    "update_task": LATER,
    "cancel_task": LATER,
    "get_task": {},
    "delete_task": {},
    "retry_task": {},
    "get_tree": {},
}
"""By operation: with what its task is submitted, to be in a state that the operation is for."""


def test_bodies_of_settings_may_be_left_out_and_others_may_not() -> None:
    bodies = {name: operation(route).get("requestBody") for name, route in BY_NAME.items()}
    assert {name for name, body in bodies.items() if body and not body["required"]} == {
        "cancel_task",
        "purge_queue",
    }


async def prepare(api: Api, route: Route) -> None:
    """Have there be what the example of *route* speaks of."""
    if route.name in BEFORE:
        task = {"id": "welcome-ada", "type": "email", "payload": {}, **BEFORE[route.name]}
        assert (await api.post("/v1/tasks", task)).status == 201
        await trio.sleep(1)
    if route.name == "revoke_key":
        op = PutKey(
            key_id=KeyId("0199f3a6b1c9d2e4"), name="a", digest="d", scopes=(Scope.ADMIN,), expires_at=0
        )
        api.server.store.apply([op], 0)
    if "{name}" in route.path and route.method != "PUT":
        body = operation(BY_NAME["put_schedule"])["requestBody"]["content"][JSON]["example"]
        assert (await api.put("/v1/schedules/nightly", body)).status == 201


@pytest.mark.parametrize("route", EACH_ROUTE_THAT_ENDS)
async def test_every_example_is_answered_as_the_contract_says(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    said = operation(route)
    async with open_api(queue) as api:
        await prepare(api, route)
        for media, content in said.get("requestBody", {"content": {"": None}})["content"].items():
            example = content and content["example"]
            body = example.encode() if media == NDJSON else json.dumps(example).encode() if content else b""
            answer = await api.ask(
                route.method, filled(route), body, {"Content-Type": media} if media else {}
            )
            assert answer.status < 300, answer
            check_answer(route, answer)


async def test_tasks_in_every_state_are_shown_as_the_contract_says(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    rules = {"key": "k", "tags": ["a"], "unique": {"key": "u"}, "deadline": "2030-01-01T00:00:00Z"}
    seen: set[str] = set()
    async with open_api(queue, settings=Settings(workers=2)) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "rich", **rules})
        await api.post("/v1/tasks", {"id": "child", "type": "x", "parent_id": "t", "depends_on": ["t"]})
        await api.put("/v1/queues/q", {"rate": {"limit": 5}, "per_key": {"concurrency": 2}})
        await api.put("/v1/schedules/s", {"every": 7, "type": "x"})
        for _ in range(30):
            await trio.sleep(1)
            task = await api.get("/v1/tasks/t")
            check_answer(BY_NAME["get_task"], task)
            seen |= {task.json["state"], *task.json}
            for name in ["list_tasks", "list_failures", "list_queues", "list_schedules"]:
                check_answer(BY_NAME[name], await api.get(filled(BY_NAME[name])))
            for name in ["get_stats", "get_servers", "get_workers", "get_original_stats"]:
                check_answer(BY_NAME[name], await api.get(filled(BY_NAME[name])))
            check_answer(BY_NAME["get_tree"], await api.get("/v1/tasks/t/tree"))
            check_answer(BY_NAME["get_task"], await api.get("/v1/tasks/child"))
            check_answer(BY_NAME["get_status"], await api.get("/status/t"))
            check_answer(BY_NAME["get_schedule"], await api.get("/v1/schedules/s"))
        check_answer(BY_NAME["list_tasks"], await api.get("/v1/tasks?limit=1"))
    assert seen >= {
        "running",
        "retrying",
        "failed",
        "progress",
        "logs",
        "cancellable",
        "fingerprint",
        "unique",
    }


async def test_refusals_are_as_the_contract_says(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 60, "unique": {"key": "u"}})
        asked = [
            ("submit_task", 422, await api.post("/v1/tasks", {"type": "x", "priority": 101})),
            ("submit_task", 409, await api.post("/v1/tasks", {"id": "t", "type": "y"})),
            ("submit_task", 415, await api.ask("POST", "/v1/tasks", b"{}")),
            ("submit_task", 413, await api.post("/v1/tasks", {"type": "x", "payload": "x" * 2**21})),
            ("submit_task", 403, await api.post("/v1/tasks", {}, {"Origin": "http://elsewhere"})),
            ("submit_task", 200, await api.post("/v1/tasks", {"id": "t", "type": "x"})),
            ("submit_tasks", 422, await api.post("/v1/tasks/batch", [{"type": "x"}, {"type": ""}])),
            ("submit_tasks", 200, await api.ask("POST", "/v1/tasks/batch", b'{"type":""}\n', NDJSON_TYPE)),
            ("get_task", 404, await api.get("/v1/tasks/none")),
            ("get_task", 400, await api.get("/v1/tasks/t?wait=61")),
            ("delete_task", 409, await api.delete("/v1/tasks/t")),
            ("list_tasks", 400, await api.get("/v1/tasks?odd=1")),
            ("put_schedule", 422, await api.put("/v1/schedules/s", {"type": "x", "cron": "odd"})),
            ("cancel_tasks", 422, await api.post("/v1/tasks/cancel", {})),
            ("set_workers", 422, await api.put("/v1/workers", {"count": 0})),
            ("submit_original", 400, await api.ask("POST", "/submit", b"{", JSON_TYPE)),
        ]
        for name, status, answer in asked:
            assert answer.status == status, answer
            check_answer(BY_NAME[name], answer)


@pytest.mark.parametrize("kind", list(error_kinds()), ids=lambda kind: kind.code)
def test_every_error_has_a_line_in_the_contract(kind: type[TqError]) -> None:
    text = SCHEMAS["Problem"]["properties"]["code"]["description"]
    (line,) = [each for each in text.splitlines() if each.startswith(f"- `{kind.code}`: ")]
    assert line.endswith(".")


def test_every_field_of_every_request_has_a_meaning_and_no_rule_is_left_over() -> None:
    fields = {
        (name, field) for name, schema in request_schemas().items() for field in schema.get("properties", {})
    }
    told = {(name, field) for name, field in fields if f"{name}.{field}" in RULES or field in RULES}
    assert (
        told | {(name, field) for name, field in fields if field in ("kind", "while", "on_conflict")}
        == fields
    )
    known = {field for _, field in fields} | {f"{name}.{field}" for name, field in fields}
    assert set(RULES) <= known
