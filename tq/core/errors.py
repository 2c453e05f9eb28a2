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
    remedy: ClassVar[str] = "report it; its details are in the log of the server, not in the answer"
    """What to do about it, for the documentation, in Markdown."""

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
    """The request cannot be understood or breaks a rule."""

    code = "invalid_input"
    remedy = "mend what `detail` names"


class PayloadTooLarge(InvalidInput):
    """A body, payload or batch is over its limit."""

    code = "payload_too_large"
    remedy = "send less at once"


class UnsupportedType(InvalidInput):
    """The content type, charset or content encoding of the body is not one that is read here."""

    code = "unsupported_media_type"
    remedy = "send `application/json` in UTF-8, not compressed"


class UnknownType(InvalidInput):
    """No handler of this server does tasks of the type; ``known`` lists those that have one."""

    code = "unknown_type"
    remedy = "check the name, or start a server that has the handler"


class PayloadInvalid(InvalidInput):
    """The payload does not fit the signature of the handler."""

    code = "payload_invalid"
    remedy = "mend what `detail` names"


class NotAllowed(TqError):
    """The key is not for this; or a page of another site asks, or by a name that is not the server's."""

    code = "not_allowed"
    remedy = "ask with a key that has the scope and the queue, and by the server's own name"


class Unauthorized(NotAllowed):
    """There is no key, or it is wrong, expired or revoked."""

    code = "unauthorized"
    remedy = "send `Authorization: Bearer` and a good key"


class NotFound(TqError):
    """There is no such route, task or schedule, or no longer."""

    code = "not_found"
    remedy = "check the id; an ended task is kept for a limited time"


class Conflict(TqError):
    """The world is not as the request assumes."""

    code = "conflict"
    remedy = "look again"


class DuplicateTask(Conflict):
    """The id belongs to a task with another type or payload, or another task has the unique key."""

    code = "duplicate_task"
    remedy = "choose another id; or wait for the end of that task, `task_id`"


class IllegalTransition(Conflict):
    """The state of the task does not allow this move."""

    code = "illegal_transition"
    remedy = "look at the task"


class LeaseLost(Conflict):
    """Somebody else runs the task now; nothing was changed."""

    code = "lease_lost"
    remedy = "drop the work"


class IdempotencyKeyReused(Conflict):
    """The ``Idempotency-Key`` came before with another body."""

    code = "idempotency_key_reused"
    remedy = "take a new key for a new request"


class Overloaded(TqError):
    """Not now. ``retry_after_ms`` in the fields says when to try again."""

    code = "overloaded"
    remedy = "repeat after `Retry-After`"


class ShuttingDown(Overloaded):
    """This server is stopping and takes nothing new."""

    code = "shutting_down"
    remedy = "repeat at another, or after `Retry-After`"


class RateLimited(Overloaded):
    """The key, or the address, has asked too often; ``retry_after_ms`` says when there is room again."""

    code = "rate_limited"
    remedy = "repeat after `Retry-After`"


class StorageError(TqError):
    """The store could not do it; the caller did nothing wrong."""

    code = "storage_error"
    remedy = "look at the log of the server"


class StorageUnavailable(StorageError):
    """The store is out of reach, or another transaction holds the id. Nothing was applied; safe to repeat."""

    code = "storage_unavailable"
    remedy = "repeat after `Retry-After`"


class StorageFull(StorageUnavailable):
    """No room on the disk. Nothing of the batch was applied; safe to repeat once there is."""

    code = "storage_full"
    remedy = "free some, then repeat"


class StorageInUse(StorageError):
    """Another process has this store open, and this kind of store serves one."""

    code = "storage_in_use"
    remedy = "stop that one, or use another store"


class SchemaMismatch(StorageError):
    """The store was made by a newer version of tq, or is not a tq store."""

    code = "schema_mismatch"
    remedy = "use a newer tq, or another store"


def error_of(code: str, message: str, fields: dict[str, object]) -> TqError:
    """The refusal that was told elsewhere as *code*, as the class it was; TqError for an unknown code."""
    kind = next((kind for kind in _family(TqError) if kind.code == code), TqError)
    return kind(message, **fields)


def _family(kind: type[TqError]) -> Iterator[type[TqError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
