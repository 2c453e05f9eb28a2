"""What can be asked of a server, as talks: which requests, and what their answers mean. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from tq.client.errors import NotEnded, NotTq, TaskCancelled, TaskFailed
from tq.client.records import Batch, BulkDone, Page, SchedulePage, TaskRecord
from tq.client.retrying import Call, Pause, RetryRules, Seams, Talk, accepted, exchange, refusal
from tq.core.errors import IllegalTransition, NotFound, TqError
from tq.core.ops import BATCH_MAX
from tq.core.sendable import header_text, json_bytes, path_text, utf8_text
from tq.core.task import State

T = TypeVar("T")

HOLD_S: Final = 30.0
"""Seconds that one request waits for a task to end, before the next."""
BULK_S: Final = 120.0
"""Seconds that a change of many tasks may take, beside those that any answer may."""
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one batch: half of what a server takes."""
HURRY_S: Final = 0.5
"""Seconds between two looks at a task, when the server holds nobody because it is shutting down."""
_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Api:
    """The routes of a server, each as a talk that ends with what was asked for.

    Every talk raises TqError for a refusal, Unreachable for silence and NotTq for another's answer.
    """

    rules: RetryRules
    seams: Seams

    def submit(self, body: Mapping[str, object], *, idempotency_key: str | None = None) -> Talk[TaskRecord]:
        """Store one task, once, however often it has to be sent: by its id, or a key for the request."""
        headers = dict(_JSON)
        if idempotency_key is not None or "id" not in body:
            headers["idempotency-key"] = _idempotency_key(idempotency_key) or self.seams.new_id()
        call = Call(method="POST", path="/v1/tasks", body=json_bytes(body, "task"), headers=headers)
        answer = yield from exchange(call, self.rules, self.seams)
        record = accepted(answer, TaskRecord)
        return msgspec.structs.replace(record, duplicate="tq-duplicate" in answer.headers)

    def submit_many(self, bodies: Iterable[Mapping[str, object]]) -> Talk[list[TaskRecord]]:
        """Store many, batch by batch, each whole or not at all. Those without an id are given one."""
        records: list[TaskRecord] = []
        with_ids = [{**body, "id": body["id"] if "id" in body else self.seams.new_id()} for body in bodies]
        encoded = [json_bytes(body, f"task {index}") for index, body in enumerate(with_ids)]
        for batch in batches(encoded):
            path = "/v1/tasks/batch"
            call = Call(method="POST", path=path, body=b"[" + b",".join(batch) + b"]", headers=_JSON)
            answer = yield from exchange(call, self.rules, self.seams)
            try:
                records += accepted(answer, Batch).tasks
            except TqError as error:
                raise _counted(error, stored=len(records)) from None
        return [
            msgspec.structs.replace(record, type=record.type or str(body["type"]))
            for record, body in zip(records, with_ids, strict=True)
        ]

    def get(self, task_id: str) -> Talk[TaskRecord]:
        """The task as it is."""
        answer = yield from exchange(Call(method="GET", path=task_path(task_id)), self.rules, self.seams)
        return accepted(answer, TaskRecord)

    def wait(self, task_id: str, *, timeout: float | None) -> Talk[TaskRecord]:
        """The task once it has ended, whatever happens to its server meanwhile.

        Raises:
            NotEnded: Not within *timeout* seconds.
        """
        ends = math.inf if timeout is None else self.seams.now() + timeout

        def look() -> Call:
            hold_s = min(HOLD_S, max(0.0, ends - self.seams.now()))
            return Call(method="GET", path=f"{task_path(task_id)}?wait={hold_s:.3f}", hold_s=hold_s)

        while True:
            asked = self.seams.now()
            rules = replace(self.rules, total=min(self.rules.total, max(0.0, ends - asked)))
            answer = yield from exchange(look(), rules, self.seams, again=look)
            record = accepted(answer, TaskRecord)
            now = self.seams.now()
            if record.has_ended:
                return record
            if now >= ends:
                raise NotEnded(record)
            if now - asked < HURRY_S:
                # It was not held: the server is shutting down, or the time is nearly over.
                yield Pause(min(HURRY_S * (0.5 + self.seams.chance()), ends - now))

    def cancel(self, task_id: str, *, cascade: bool) -> Talk[TaskRecord]:
        """The task, cancelled, or asked to stop if it runs.

        Raises:
            IllegalTransition: It has ended; but not if it was an attempt of this very call that ended it.
        """
        body = msgspec.json.encode({"cascade": cascade})
        call = Call(method="POST", path=f"{task_path(task_id)}/cancel", body=body, headers=_JSON)
        answer = yield from exchange(call, self.rules, self.seams)
        if answer.is_repeat and isinstance(refusal(answer), IllegalTransition):
            record = yield from self.get(task_id)
            if record.state is State.CANCELLED:
                return record
        return accepted(answer, TaskRecord)

    def retry(self, task_id: str) -> Talk[TaskRecord]:
        """The ended task, waiting again. Not sent again if it may be done: that could run it twice more."""
        call = Call(method="POST", path=f"{task_path(task_id)}/retry", repeatable=False)
        answer = yield from exchange(call, self.rules, self.seams)
        return accepted(answer, TaskRecord)

    def page(
        self, filters: Mapping[str, object], *, limit: int, cursor: str | None, brief: bool = False
    ) -> Talk[Page]:
        """One page of the list of those that the *filters* mean, newest first; see `TaskRecord.brief`."""
        query = {name: _text(value) for name, value in filters.items() if value is not None}
        query |= {"limit": str(limit)} | ({} if cursor is None else {"cursor": cursor})
        query |= {"view": "brief"} if brief else {}
        call = Call(method="GET", path=f"/v1/tasks?{urlencode(query)}")
        answer = yield from exchange(call, self.rules, self.seams)
        page = accepted(answer, Page)
        if brief:
            page = Page(tuple(msgspec.structs.replace(each, brief=True) for each in page.tasks), page.next)
        return page

    def change_many(
        self,
        action: Literal["cancel", "retry", "delete"],
        filters: Mapping[str, object],
        *,
        repeatable: bool,
        **said: object,
    ) -> Talk[BulkDone]:
        """Do *action* to all that the *filters* mean; what is *said* of it as None is left to the server."""
        named = {name: _text(value) for name, value in filters.items() if value is not None}
        body = {name: value for name, value in said.items() if value is not None}
        path = f"/v1/tasks/{action}"
        return self.send_bulk(path, {"filter": named, **body}, repeatable=repeatable)

    def purge(self, queue: str, *, dry_run: bool) -> Talk[BulkDone]:
        """Cancel all that waits in a queue."""
        return self.send_bulk(path_of("queues", queue, "purge"), {"dry_run": dry_run}, repeatable=True)

    def send_bulk(self, path: str, body: Mapping[str, object], *, repeatable: bool) -> Talk[BulkDone]:
        """What the server says to *body* at *path*, which may take long."""
        return self.send("POST", path, BulkDone, body=body, repeatable=repeatable, hold_s=BULK_S)

    def schedules(self, cursor: str | None) -> Talk[SchedulePage]:
        """One page of the schedules, by name."""
        query = "" if cursor is None else f"?{urlencode({'cursor': cursor})}"
        return self.look(f"/v1/schedules{query}", SchedulePage)

    # What needs no words of its own

    def look(self, path: str, kind: type[T]) -> Talk[T]:
        """What is at *path*."""
        answer = yield from exchange(Call(method="GET", path=path), self.rules, self.seams)
        return accepted(answer, kind)

    def send(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Mapping[str, object] | None = None,
        repeatable: bool = True,
        hold_s: float = 0.0,
    ) -> Talk[T]:
        """What the server says to *body* at *path*."""
        call = Call(
            method=method,
            path=path,
            body=json_bytes(body or {}, "request"),
            headers=_JSON,
            repeatable=repeatable,
            hold_s=hold_s,
        )
        answer = yield from exchange(call, self.rules, self.seams)
        return accepted(answer, kind)

    def remove(self, path: str) -> Talk[None]:
        """Have what is at *path* be no more. Raises NotFound if it was not there before the first attempt."""
        answer = yield from exchange(Call(method="DELETE", path=path), self.rules, self.seams)
        if answer.status != 204 and not (answer.is_repeat and isinstance(refusal(answer), NotFound)):
            accepted(answer, dict)
            raise NotTq(f"answered {answer.status}, not as a tq server does: check the URL")


def submit_asked(*args: Any, **kwargs: Any) -> tuple[dict[str, object], str | None]:
    """The body and the key of the request that the arguments of a client's `submit` mean: a type, a payload
    and fields, or a handler and what it is to be called with.
    """
    if args and not isinstance(args[0], str):
        handler, *positional = args
        return handler.body(*positional, **kwargs), None
    return _submit_by_name(*args, **kwargs)


def _submit_by_name(
    type: str, payload: object = None, *, idempotency_key: str | None = None, **fields: object
) -> tuple[dict[str, object], str | None]:
    return {"type": type, "payload": payload, **fields}, idempotency_key


def batches(
    encoded: Sequence[bytes], *, count_max: int = BATCH_MAX, bytes_max: int = BATCH_BYTES_MAX
) -> Iterator[list[bytes]]:
    """*encoded* in order, in lists that one request may carry each; one that is too large goes alone."""
    batch: list[bytes] = []
    size = 0
    for one in encoded:
        if batch and (len(batch) == count_max or size + len(one) > bytes_max):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one) + 1
    if batch:
        yield batch


def _counted(error: TqError, *, stored: int) -> TqError:
    """*error* of a batch that came after *stored* tasks: its ``index`` counts all that were given."""
    index = error.fields.get("index")
    if isinstance(index, int):
        error.fields["index"] = stored + index
    error.fields["stored"] = stored
    return error


def result_of(record: TaskRecord) -> Any:
    """What the handler of the ended task returned.

    Raises:
        TaskFailed, TaskCancelled: There is nothing.
    """
    assert record.has_ended
    if record.state is State.FAILED:
        last = record.errors[-1] if record.errors else None
        said = f": {last.type}: {last.message}" if last else ""
        raise TaskFailed(f"{record.id} failed ({record.reason}){said}", record)
    if record.state is State.CANCELLED:
        raise TaskCancelled(f"{record.id} was cancelled ({record.reason})", record)
    return record.result


def _idempotency_key(text: str | None) -> str:
    return header_text(text or "", "idempotency_key")


def task_path(task_id: str) -> str:
    """The path of a task."""
    return path_of("tasks", task_id)


def path_of(*names: str) -> str:
    """The path below ``/v1`` that *names* make."""
    # Whatever a name is, it is one segment of a path: `.` and `..` would be taken out of it.
    parts = (path_text(name, "id or name") for name in names)
    return "/v1/" + "/".join(quote(name, safe="").replace(".", "%2E") for name in parts)


def _text(value: object) -> str:
    """*value* as a query says it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return utf8_text(str(value), "filter")
    assert isinstance(value, Sequence)
    return utf8_text(",".join(map(str, value)), "filter")
