"""The error tree: one code for each class, and equality for the sake of comparing stores."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tq.core import errors
from tq.core.errors import Conflict, DuplicateTask, LeaseLost, NotFound, TqError

CODES = {
    "TqError": "internal_error",
    "InvalidInput": "invalid_input",
    "PayloadTooLarge": "payload_too_large",
    "UnsupportedType": "unsupported_media_type",
    "UnknownType": "unknown_type",
    "PayloadInvalid": "payload_invalid",
    "Unauthorized": "unauthorized",
    "RateLimited": "rate_limited",
    "NotAllowed": "not_allowed",
    "NotFound": "not_found",
    "Conflict": "conflict",
    "DuplicateTask": "duplicate_task",
    "IllegalTransition": "illegal_transition",
    "LeaseLost": "lease_lost",
    "IdempotencyKeyReused": "idempotency_key_reused",
    "Overloaded": "overloaded",
    "ShuttingDown": "shutting_down",
    "StorageError": "storage_error",
    "StorageUnavailable": "storage_unavailable",
    "StorageFull": "storage_full",
    "StorageInUse": "storage_in_use",
    "SchemaMismatch": "schema_mismatch",
}
"""Clients depend on these: a code is never changed, only added."""


def tree(root: type[TqError] = TqError) -> Iterator[type[TqError]]:
    yield root
    for branch in root.__subclasses__():
        yield from tree(branch)


def core_tree() -> list[type[TqError]]:
    return [kind for kind in tree() if kind.__module__ == errors.__name__]


def test_every_error_has_a_code_of_its_own() -> None:
    assert {kind.__name__: kind.code for kind in core_tree()} == CODES
    assert len(set(CODES.values())) == len(CODES)


def test_every_error_is_drawn_in_the_tree_on_top() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^ {4,}([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    assert drawn == [kind.__name__ for kind in core_tree()]


def test_every_error_is_exported_and_told_of() -> None:
    for kind in core_tree():
        assert getattr(errors, kind.__name__) is kind
        assert kind.__doc__


def test_error_has_its_message_and_fields() -> None:
    error = NotFound("no task t: look elsewhere", task_id="t")

    assert (str(error), error.message, error.fields) == (
        "no task t: look elsewhere",
        "no task t: look elsewhere",
        {"task_id": "t"},
    )


def test_errors_are_equal_if_class_message_and_fields_are() -> None:
    assert NotFound("m", a=1) == NotFound("m", a=1)
    assert NotFound("m", a=1) != NotFound("m", a=2)
    assert NotFound("m", a=1) != NotFound("n", a=1)
    assert LeaseLost("m") != Conflict("m")
    assert DuplicateTask("m") != "m"
    assert len({NotFound("m"), NotFound("m")}) == 2
