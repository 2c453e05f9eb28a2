"""schemathesis holds a real server to its contract: what it is asked for fits, does not fit, and follows on.

CONTRACT_EXAMPLES says how many requests each operation gets; `just contract` makes it 200.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis.errors import Flaky
from process import Server, Site
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from tq.api.http import WAIT_MAX_S
from tq.api.openapi import describe
from tq.api.routes import ROUTES

pytestmark = pytest.mark.contract

FEW = 4
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", str(FEW)))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.use_after_free,
]
"""Not whether what fits is accepted: that depends on what is there, and on rules that no schema tells."""
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=6 if EXAMPLES == FEW else 30,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == FEW,
    suppress_health_check=list(HealthCheck),
)

schema = schemathesis.openapi.from_dict(describe(ROUTES))
ADMIN = {"scopes": ["submit", "read", "operate", "admin", "metrics"]}
# Hundreds more for each operation: its parts at every edge, one by one.
schema.config.phases.coverage.enabled = EXAMPLES > FEW
schema.config.checks.negative_data_rejection.expected_statuses = [
    "400",
    "401",
    "403",
    "404",
    "405",
    "409",
    "413",
    "415",
    "422",
    "429",
]
operations = schema.exclude(operation_id=["watch_task", "watch_all"])
"""All but those that have no end."""


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: Any, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else str(value).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = Site(Path(tmp_path_factory.mktemp("contract")))
    try:
        yield site.start("contract_app:app", store="memory:", workers=5)
    finally:
        site.close()


def hurry(case: Case[Any]) -> Case[Any]:
    """*case* with no wait to speak of."""
    try:
        is_long = 0 < float(case.query.get("wait", 0)) <= WAIT_MAX_S
    except (TypeError, ValueError):
        is_long = False
    if is_long:
        case.query["wait"] = "0.01"
    if "wait" in str(case.headers.get("Prefer", "")):
        case.headers["Prefer"] = "wait=0"
    return case


@pytest.fixture(scope="module")
def as_admin(server: Server) -> dict[str, str]:
    """The headers of a caller that may do all, of a server that asks for keys."""
    made = server.post("/v1/keys", ADMIN)
    assert made.status == 201
    assert server.get("/v1/stats").status == 401
    return {"Authorization": f"Bearer {made.json['key']}"}


@operations.parametrize()
@SETTINGS
def test_an_operation_keeps_to_the_contract(
    case: Case[Any], server: Server, as_admin: dict[str, str]
) -> None:
    base_url = f"http://127.0.0.1:{server.port}"
    hurry(case).call_and_validate(base_url=base_url, headers=as_admin, checks=CHECKS)


def test_what_follows_on_keeps_to_the_contract(server: Server, as_admin: dict[str, str]) -> None:
    base: Any = operations.as_state_machine()
    asked: list[str] = []
    faults: list[FailureGroup] = []

    class Follows(base):  # type: ignore[misc]
        def before_call(self, case: Case[Any]) -> None:
            asked.append(hurry(case).operation.label)

        def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
            return {"base_url": f"http://127.0.0.1:{server.port}", "headers": as_admin}

        def validate_response(self, response: Any, case: Case[Any], *args: Any, **kwargs: Any) -> None:
            try:
                case.validate_response(response, checks=CHECKS)
            except FailureGroup as fault:
                faults.append(fault)
                raise

    while not faults and len(asked) < EXAMPLES * len(ROUTES):
        # What is answered depends on what was asked before, and when: Hypothesis calls that flaky.
        with suppress(Flaky, FailureGroup):
            Follows.run(settings=SETTINGS)
    assert [str(fault) for fault in faults] == []
    assert len(set(asked)) > 5, "it follows nothing"
