"""Every error has a status and a code, and its answer keeps no secret and tells none."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tq.api.problems import MethodNotAllowed, problem, problem_response, status_of
from tq.core.errors import InvalidInput, Overloaded, StorageUnavailable, TqError

STATUS_AND_CODE = {
    "TqError": (500, "internal_error"),
    "InvalidInput": (400, "invalid_input"),
    "PayloadTooLarge": (413, "payload_too_large"),
    "UnsupportedType": (415, "unsupported_media_type"),
    "UnknownType": (422, "unknown_type"),
    "PayloadInvalid": (422, "payload_invalid"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "NotAcceptable": (406, "not_acceptable"),
    "BodyTooSlow": (408, "body_too_slow"),
    "Unauthorized": (401, "unauthorized"),
    "RateLimited": (429, "rate_limited"),
    "NotAllowed": (403, "not_allowed"),
    "NotFound": (404, "not_found"),
    "Conflict": (409, "conflict"),
    "DuplicateTask": (409, "duplicate_task"),
    "IllegalTransition": (409, "illegal_transition"),
    "LeaseLost": (409, "lease_lost"),
    "IdempotencyKeyReused": (422, "idempotency_key_reused"),
    "Overloaded": (503, "overloaded"),
    "ShuttingDown": (503, "shutting_down"),
    "StorageError": (500, "storage_error"),
    "StorageUnavailable": (503, "storage_unavailable"),
    "StorageFull": (507, "storage_full"),
    "StorageInUse": (500, "storage_in_use"),
    "SchemaMismatch": (500, "schema_mismatch"),
}


def tree(kind: type[TqError]) -> Iterator[type[TqError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


def test_every_error_has_its_status_and_its_code() -> None:
    found = {kind.__name__: (status_of(kind("x")), kind.code) for kind in tree(TqError)}
    assert found == STATUS_AND_CODE


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in tree(TqError)]
    assert len(codes) == len(set(codes))


def test_a_problem_has_the_members_of_rfc_9457_and_the_fields_of_its_error() -> None:
    response = problem_response(InvalidInput("delay: too long", field="delay", status="no", type="no"))
    assert response.status == 422
    assert response.media == "application/problem+json"
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "type": "urn:tq:error:invalid_input",
        "title": "Invalid input",
        "status": 422,
        "detail": "delay: too long",
        "code": "invalid_input",
        "field": "delay",
    }


@pytest.mark.parametrize("kind", [kind for kind in tree(TqError) if status_of(kind("")) == 500])
def test_an_error_that_is_our_own_keeps_its_details(kind: type[TqError]) -> None:
    shown = json.dumps(problem(kind("/var/lib/secret", path="/var/lib/secret")))
    assert "secret" not in shown
    assert '"internal_error"' in shown


def test_retry_after_is_in_whole_seconds_and_never_too_early() -> None:
    told = [Overloaded("x", retry_after_ms=ms) for ms in (1, 1000, 1001)] + [StorageUnavailable("x")]
    assert [problem_response(error).headers for error in told] == [
        (("retry-after", "1"),),
        (("retry-after", "1"),),
        (("retry-after", "2"),),
        (("retry-after", "1"),),
    ]


def test_method_not_allowed_lists_what_is() -> None:
    assert problem_response(MethodNotAllowed("x", allow=["GET", "HEAD"])).headers == (("allow", "GET, HEAD"),)
