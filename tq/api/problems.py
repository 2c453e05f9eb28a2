"""Errors as answers: ``application/problem+json`` (RFC 9457), with the one table from class to status."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from tq.api.http import Response, encode_json
from tq.core import errors
from tq.core.errors import InvalidInput, TqError

PROBLEM: Final = "application/problem+json"
RETRY_AFTER_MS: Final = 1_000
"""When to try again, if an error that passes does not say."""


class MethodNotAllowed(InvalidInput):
    """The resource is there but does not take this method; ``allow`` lists those it takes."""

    code = "method_not_allowed"
    remedy = "use one of them"


class NotAcceptable(InvalidInput):
    """The answer would be of a type that ``Accept`` leaves out; ``accepted`` has the one it is."""

    code = "not_acceptable"
    remedy = "ask for that, or for `*/*`"


class BodyTooSlow(InvalidInput):
    """The body did not arrive in time; safe to repeat."""

    code = "body_too_slow"
    remedy = "send it again, faster or in parts"


STATUS: Final[dict[type[TqError], int]] = {
    TqError: 500,
    errors.InvalidInput: 400,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedType: 415,
    errors.UnknownType: 422,
    errors.PayloadInvalid: 422,
    MethodNotAllowed: 405,
    NotAcceptable: 406,
    BodyTooSlow: 408,
    errors.NotAllowed: 403,
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    # A key is a claim that two requests are the same: the fault is in the request, not in the world.
    errors.IdempotencyKeyReused: 422,
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.StorageUnavailable: 503,
    errors.StorageFull: 507,
}
"""Each class not named here has the status of the nearest class above it that is."""

BAD_FIELD_STATUS: Final = 422
"""For an InvalidInput that names a ``field``: the body was read, and a part of it is wrong."""

_PASSING: Final = (errors.Overloaded, errors.StorageUnavailable)


def status_of(error: TqError) -> int:
    """The HTTP status that *error* is answered with."""
    if type(error) is InvalidInput and "field" in error.fields:
        return BAD_FIELD_STATUS
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: TqError, *, status: int | None = None) -> dict[str, object]:
    """*error* as the members of a problem. An error that is our fault keeps its details to itself."""
    status = status or status_of(error)
    if status == 500:
        error = TqError("the server failed at this; its log has more")
    return {
        **error.fields,
        "type": f"urn:tq:error:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": status,
        "detail": error.message,
        "code": error.code,
    }


def problem_response(error: TqError, *, status: int | None = None) -> Response:
    """The answer to a request that failed with *error*.

    Args:
        status: Instead of what the table says.
    """
    content = problem(error, status=status)
    shown = content["status"]
    assert isinstance(shown, int)
    return Response(shown, encode_json(content), _headers(error), PROBLEM)


def with_request_id(response: Response, request_id: str) -> Response:
    """*response*, a problem, with the id of the request that had it."""
    assert isinstance(response.body, bytes)
    return replace(response, body=b'%b,"request_id":"%b"}' % (response.body[:-1], request_id.encode()))


def _headers(error: TqError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, MethodNotAllowed):
        allow = error.fields["allow"]
        assert isinstance(allow, list)
        return (("allow", ", ".join(allow)),)
    if isinstance(error, errors.Unauthorized):
        return (("www-authenticate", "Bearer"),)
    if isinstance(error, _PASSING):
        retry_after_ms = error.fields.get("retry_after_ms", RETRY_AFTER_MS)
        assert isinstance(retry_after_ms, int)
        after = ("retry-after", str(math.ceil(retry_after_ms / 1000)))
        return (after, *_rate_headers(error)) if isinstance(error, errors.RateLimited) else (after,)
    return ()


def _rate_headers(error: errors.RateLimited) -> tuple[tuple[str, str], ...]:
    match error.fields:
        case {"policy": str(policy), "quota": int(quota), "window": int(window), "reset": int(reset)}:
            return rate_headers(policy, quota, window, left=0, reset_s=reset)
        case _:
            return ()


def rate_headers(
    policy: str, quota: int, window_s: int, *, left: int, reset_s: int
) -> tuple[tuple[str, str], ...]:
    """What a rate allows, and what is left of it (draft-ietf-httpapi-ratelimit-headers)."""
    return (
        ("ratelimit-policy", f'"{policy}";q={quota};w={window_s}'),
        ("ratelimit", f'"{policy}";r={left};t={reset_s}'),
    )
