"""The error tree: every refusal tq can give, with a stable code.

    TqError               .code and fields; nobody parses the message
      InvalidInput        the caller can fix it
        PayloadTooLarge     over a size limit
        UnsupportedType     not a media type we read
        UnknownType         no handler here does tasks of that type
        PayloadInvalid      the payload does not fit the handler's signature
      NotAllowed          who you are
        Unauthorized        no key, or one that is not good
      NotFound            it is not there
      Conflict            the world moved
        DuplicateTask       the id belongs to another request
        IllegalTransition   the state does not allow it
        LeaseLost           somebody else runs it now
        IdempotencyKeyReused  the key came before with another body
      Overloaded          later: retry_after_ms
        ShuttingDown        this server takes nothing new
        RateLimited         this caller has asked too often
      StorageError        not the caller's doing
        StorageUnavailable  out of reach; safe to repeat
        StorageFull         no room; safe to repeat once there is
        StorageInUse        another process has the file
        SchemaMismatch      made by another version; stop

What status a class has over HTTP is one table in ``tq.api.problems``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class TqError(Exception):
    """A refusal with a stable code.

    Args:
        message: What, which, and what to do about it, for a person.
        fields: Facts for programs, such as ``task_id`` or ``field``. Values are JSON-able.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __eq__(self, other: object) -> bool:
        """Two refusals are equal if class, message and fields are: what differential tests compare."""
        if not isinstance(other, TqError):
            return NotImplemented
        return (type(self), self.message, self.fields) == (type(other), other.message, other.fields)

    __hash__ = Exception.__hash__


class InvalidInput(TqError):
    """The request cannot be understood or breaks a rule; the caller can fix it."""

    code = "invalid_input"


class PayloadTooLarge(InvalidInput):
    """A body, payload or batch is over its limit."""

    code = "payload_too_large"


class UnsupportedType(InvalidInput):
    """The media type or encoding of the body is not one that is read here."""

    code = "unsupported_media_type"


class UnknownType(InvalidInput):
    """No handler on this server does tasks of the type; ``known`` lists those that have one."""

    code = "unknown_type"


class PayloadInvalid(InvalidInput):
    """The payload does not fit the signature of the handler."""

    code = "payload_invalid"


class NotAllowed(TqError):
    """Who you are does not allow it."""

    code = "not_allowed"


class Unauthorized(NotAllowed):
    """A key is asked for, and there is none, or one that is not good."""

    code = "unauthorized"


class NotFound(TqError):
    """It is not there, or no longer."""

    code = "not_found"


class Conflict(TqError):
    """The world is not as the request assumes."""

    code = "conflict"


class DuplicateTask(Conflict):
    """The id belongs to a task with another type or payload."""

    code = "duplicate_task"


class IllegalTransition(Conflict):
    """The state of the task does not allow this move."""

    code = "illegal_transition"


class LeaseLost(Conflict):
    """The generation named is not the one that runs; nothing was changed."""

    code = "lease_lost"


class IdempotencyKeyReused(Conflict):
    """The Idempotency-Key came before with another body."""

    code = "idempotency_key_reused"


class Overloaded(TqError):
    """Not now. ``retry_after_ms`` in the fields says when to try again."""

    code = "overloaded"


class ShuttingDown(Overloaded):
    """This server is stopping and takes nothing new."""

    code = "shutting_down"


class RateLimited(Overloaded):
    """This caller has asked too often; ``retry_after_ms`` says when there is room again."""

    code = "rate_limited"


class StorageError(TqError):
    """The store could not do it; the caller did nothing wrong."""

    code = "storage_error"


class StorageUnavailable(StorageError):
    """The store is out of reach. Nothing of the batch was applied; safe to repeat."""

    code = "storage_unavailable"


class StorageFull(StorageUnavailable):
    """No room on the disk. Nothing of the batch was applied; safe to repeat once there is."""

    code = "storage_full"


class StorageInUse(StorageError):
    """Another process has this store open, and this kind of store serves one."""

    code = "storage_in_use"


class SchemaMismatch(StorageError):
    """The store was made by a newer version of tq, or is not a tq store. Stop."""

    code = "schema_mismatch"


def error_of(code: str, message: str, fields: dict[str, object]) -> TqError:
    """The refusal that was told elsewhere as *code*, as the class it was; TqError for an unknown code."""
    kind = next((kind for kind in _family(TqError) if kind.code == code), TqError)
    return kind(message, **fields)


def _family(kind: type[TqError]) -> Iterator[type[TqError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
