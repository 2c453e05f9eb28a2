"""What bodies look like, as JSON Schema (2020-12), by the names of the components of the contract.

Requests are described by their structs, and what the structs cannot say, because the checks of
`tq.core.fields` say it in better words than msgspec would, by RULES. Answers that are structs describe
themselves; those that `tq.core.views` builds are described here, and tests hold real answers to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

import msgspec

from tq.api.endpoints.schedules import PAGE as SCHEDULES_PAGE
from tq.api.endpoints.seed import SeedRequest
from tq.api.endpoints.servers import ServersView
from tq.api.endpoints.tasks import Created, Stored
from tq.api.endpoints.workers import WorkersRequest, WorkersView
from tq.api.tickets import Ticket
from tq.core.fields import ATTEMPTS_MAX, DELAY_MAX_S, TIMEOUT_MAX_S, TTL_MAX_S
from tq.core.keys import KEY_QUEUES_MAX, KEY_SCOPES, KEY_SCOPES_SAID_MAX, KEYS_MAX
from tq.core.limits import CONCURRENCY_MAX, RATE_LIMIT_MAX, RATE_PERIOD_MAX_MS, Order
from tq.core.queries import PAGE_MAX
from tq.core.requests import (
    BULK_MAX,
    MISFIRE_GRACE_MAX_S,
    SEARCH_MAX,
    BulkRequest,
    CancelRequest,
    KeyRequest,
    PurgeRequest,
    QueueRequest,
    ScheduleRequest,
    UpdateRequest,
)
from tq.core.retry import DELAY_CAP_MAX_MS
from tq.core.schedule import CRON_LENGTH_MAX, EVERY_MAX_MS, EVERY_MIN_MS
from tq.core.task import (
    DEPENDENCIES_MAX,
    FINAL,
    HISTORY_MAX,
    KEY_MAX,
    LOG_LINES_MAX,
    PRIORITIES,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TAGS_MAX,
    OnFailure,
    Progress,
    Reason,
    State,
)
from tq.core.views import NEXT_TICKS
from tq.core.wire import RetryRequest, SubmitRequest, UniqueRequest
from tq.core.workers import WORKERS_MAX
from tq.engine.bulk import Bulk

Schema = dict[str, Any]

REF: Final = "#/components/schemas/{name}"
REQUESTS: Final[tuple[type[msgspec.Struct], ...]] = (
    SubmitRequest,
    UpdateRequest,
    CancelRequest,
    BulkRequest,
    PurgeRequest,
    QueueRequest,
    ScheduleRequest,
    WorkersRequest,
    KeyRequest,
    SeedRequest,
    RetryRequest,
    UniqueRequest,
)
ANSWERS: Final = (Created, ServersView, WorkersView, Ticket, State, Reason, Order, OnFailure, Progress)
"""What of the answers describes itself, under its own name."""


def ref(name: str) -> Schema:
    """What stands for the component *name*."""
    return {"$ref": REF.format(name=name)}


# The values of fields

_CHARACTERS: Final = "[A-Za-z0-9_.:~-]"
NAME: Final[Schema] = {"type": "string", "pattern": f"^{_CHARACTERS}{{1,64}}$"}
TASK_ID: Final[Schema] = {"type": "string", "pattern": f"^{_CHARACTERS}{{1,128}}$"}
INSTANT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^(19[7-9]\d|[2-9]\d{3})-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$",
}
KEY: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": KEY_MAX}


def _seconds(low: float, high: float) -> Schema:
    return {"minimum": low, "maximum": high}


_ATTEMPTS: Final[Schema] = {"minimum": 1, "maximum": ATTEMPTS_MAX}
_STARTS: Final[Schema] = {"minimum": 1, "maximum": RATE_LIMIT_MAX}
_WORKERS: Final[Schema] = {"minimum": 1, "maximum": WORKERS_MAX}
_RETRY_DELAY: Final = _seconds(0, DELAY_CAP_MAX_MS / 1000)
_PRIORITY: Final[Schema] = {
    "anyOf": [
        {"type": "integer", "minimum": PRIORITY_MIN, "maximum": PRIORITY_MAX},
        {"type": "string", "enum": list(PRIORITIES)},
        {"type": "null"},
    ]
}
_STATE_WORD: Final = "|".join([*State, "waiting", "ended"])

RULES: Final[dict[str, tuple[Schema, str]]] = {
    "type": (NAME, "the name of what to do"),
    "payload": ({}, "any JSON up to 1 MiB, 64 levels deep; it must fit the signature of the handler"),
    # An empty id is none.
    "id": (
        TASK_ID | {"pattern": f"^{_CHARACTERS}{{0,128}}$"},
        "makes the request repeatable; one is made if it is missing, null or empty",
    ),
    "queue": (NAME, "the lane"),
    "SubmitRequest.queue": (NAME, "the lane; the handler's, if it is not said"),
    "key": (KEY, "whose task it is: printable characters"),
    "priority": (_PRIORITY, "higher first"),
    "SubmitRequest.priority": (_PRIORITY, "higher first; the handler's, if it is not said"),
    "delay": (_seconds(0, DELAY_MAX_S), "seconds from now before which it does not start; or give run_at"),
    "run_at": (INSTANT, "the instant before which it does not start, from 1970 to 9999"),
    "timeout": (_seconds(0.001, TIMEOUT_MAX_S), "seconds that one attempt may take"),
    "SubmitRequest.timeout": (
        _seconds(0.001, TIMEOUT_MAX_S),
        "seconds that one attempt may take; the handler's, if it is not said",
    ),
    "max_attempts": (_ATTEMPTS, "attempts until it has failed"),
    "SubmitRequest.max_attempts": (
        _ATTEMPTS,
        "attempts until it has failed; the handler's, if it is not said",
    ),
    "retry": ({}, "how long it waits after a failed attempt; as the handler has it, if it is not said"),
    "result_ttl": (_seconds(0, TTL_MAX_S), "seconds that it is kept once it has ended"),
    "SubmitRequest.result_ttl": (
        _seconds(0, TTL_MAX_S),
        "seconds that it is kept once it has ended; if not said, the handler's, or 24 h, 7 days if it failed",
    ),
    "tags": ({"maxItems": TAGS_MAX, "items": NAME}, "words to find it by; each counts once"),
    "unique": ({}, "keeps a second task of its type with the same key out"),
    "parent_id": (TASK_ID, "the task that it is a child of"),
    "depends_on": (
        {"maxItems": DEPENDENCIES_MAX, "items": TASK_ID},
        "the tasks that must have ended before it starts",
    ),
    "on_dependency_failure": (
        {},
        "what becomes of it if one of them does not succeed; cancel, if it is not said",
    ),
    "deadline": (INSTANT, "the instant by which it must have ended"),
    "expires_at": (INSTANT, "the instant by which it must have started"),
    "KeyRequest.name": (KEY, "what people call it: printable characters"),
    "scopes": ({"minItems": 1, "maxItems": KEY_SCOPES_SAID_MAX}, "what it is for; none includes another"),
    "queues": ({"maxItems": KEY_QUEUES_MAX, "items": NAME}, "the queues it is limited to; none: it is not"),
    "KeyRequest.expires_at": (INSTANT, "the instant from which it is good no more"),
    "KeyRequest.rate": ({}, "how often it may ask: limit in period seconds, burst at once"),
    "traceparent": (
        {"pattern": "^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$"},
        "the span that submits it (W3C Trace Context); the header traceparent, if it is not said",
    ),
    "cascade": ({}, "whether the children are cancelled too"),
    "base": (_RETRY_DELAY, "seconds of the first wait"),
    "cap": (_RETRY_DELAY, "seconds of the longest wait"),
    "jitter": (_seconds(0, 1), "the share of a wait by which it is spread, both ways"),
    "order": ({}, "which waiting task is the next"),
    "concurrency": ({"minimum": 1, "maximum": CONCURRENCY_MAX}, "tasks that may run at a time"),
    "per_key": ({}, "what holds for the tasks of each key by themselves"),
    "rate": ({}, "how often one may start"),
    "period": (_seconds(0.001, RATE_PERIOD_MAX_MS / 1000), "seconds in which limit tasks may start"),
    "burst": (_STARTS, "starts at once; limit if it is not said"),
    "RateRequest.limit": (_STARTS, "starts in a period"),
    "limit": ({"minimum": 1, "maximum": BULK_MAX}, "tasks that may be changed"),
    "filter": ({}, "which tasks are meant"),
    "all": ({}, "say true to mean all tasks there are"),
    "dry_run": ({}, "only count them"),
    "cron": (
        {"maxLength": CRON_LENGTH_MAX},
        "five fields, or a word such as @daily; give cron or every, not both",
    ),
    "tz": ({}, "the IANA time zone of cron; UTC if it is not said"),
    "every": (_seconds(EVERY_MIN_MS / 1000, EVERY_MAX_MS / 1000), "seconds between two ticks"),
    "overlap": ({}, "whether a tick fires while the task of the last one has not ended"),
    "misfire_grace": (_seconds(0, MISFIRE_GRACE_MAX_S), "seconds that a tick may come late"),
    "count": (_WORKERS, "a fixed number of workers; or give min and max"),
    "min": (_WORKERS, "at least so many, at most max"),
    "max": (_WORKERS, "at most so many"),
    "state": (
        {"pattern": f"^({_STATE_WORD})(,({_STATE_WORD}))*$"},
        "one or more states, with commas between them; waiting and ended stand for several",
    ),
    "tag": (NAME, "one of its tags"),
    "schedule": (NAME, "the schedule that made it"),
    "fingerprint": ({"pattern": "^[0-9a-f]{12}$"}, "what failures of one cause share"),
    "created_after": (INSTANT, "stored at this instant or later"),
    "created_before": (INSTANT, "stored before this instant"),
    "error": ({"minLength": 1, "maxLength": SEARCH_MAX}, "a part of the last error, as TYPE: MESSAGE"),
    "where": (
        {"maxLength": SEARCH_MAX, "pattern": r"^payload(\.[^.:]{1,64}){1,16}:[\s\S]*$"},
        "a value in the payload, as payload.user.id:42",
    ),
}
"""By field, or by struct and field where a name has several meanings: what its type does not say."""

WHOLE_RULES: Final[dict[str, Schema]] = {
    "SubmitRequest": {
        "if": {
            "required": ["on_dependency_failure"],
            "properties": {"on_dependency_failure": {"type": "string"}},
        },
        "then": {"required": ["depends_on"], "properties": {"depends_on": {"minItems": 1}}},
    },
    "UpdateRequest": {"minProperties": 1},
    "BulkRequest": {
        "anyOf": [
            {"required": ["filter"], "properties": {"filter": {"minProperties": 1}}},
            {"required": ["all"], "properties": {"all": {"const": True}}},
        ]
    },
    "ScheduleRequest": {"oneOf": [{"required": ["cron"]}, {"required": ["every"]}]},
    "WorkersRequest": {
        "oneOf": [
            {"required": ["count"], "maxProperties": 1},
            {"required": ["min", "max"], "maxProperties": 2},
        ]
    },
}
"""By struct: what holds of several fields together."""


def request_schemas() -> dict[str, Schema]:
    """Every request, and what is in them."""
    _, found = msgspec.json.schema_components([_shown(kind) for kind in REQUESTS], ref_template=REF)
    for name, schema in found.items():
        for field, inner in schema.get("properties", {}).items():
            keywords, text = RULES.get(f"{name}.{field}") or RULES.get(field) or ({}, "")
            schema["properties"][field] = _narrowed(inner, keywords) | ({"description": text} if text else {})
        schema |= WHOLE_RULES.get(name, {})
    return found


def _shown(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """*kind* with raw JSON as any JSON: msgspec cannot show a default that is raw."""
    if all(each.type is not msgspec.Raw for each in msgspec.structs.fields(kind)):
        return kind
    # The overloads of the real one do not know that a default may be passed on.
    again: Any = msgspec.field
    fields: list[Any] = []
    for each in msgspec.structs.fields(kind):
        is_raw = each.type is msgspec.Raw
        kept = again(
            default=None if is_raw else each.default,
            default_factory=each.default_factory,
            name=each.encode_name,
        )
        fields.append((each.name, Any if is_raw else each.type, kept))
    return msgspec.defstruct(
        kind.__name__,
        fields,
        namespace={"__doc__": kind.__doc__},
        kw_only=True,
        forbid_unknown_fields=kind.__struct_config__.forbid_unknown_fields,
    )


def _narrowed(schema: Schema, keywords: Schema) -> Schema:
    """*schema* with *keywords*, which say nothing of null."""
    if "anyOf" in keywords or "anyOf" not in schema:
        kept = {} if "anyOf" in keywords else schema
        return kept | keywords | {name: schema[name] for name in ("default",) if name in schema}
    branches = [each if each.get("type") == "null" else each | keywords for each in schema["anyOf"]]
    return schema | {"anyOf": branches}


# Answers

AT: Final[Schema] = {"type": "string", "format": "date-time"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
TEXT: Final[Schema] = {"type": "string"}
TRUTH: Final[Schema] = {"type": "boolean"}


def maybe(schema: Schema) -> Schema:
    """*schema*, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema, most: int | None = None) -> Schema:
    """An array of *schema*."""
    return {"type": "array", "items": schema} | ({} if most is None else {"maxItems": most})


def record(text: str, always: Mapping[str, Schema], sometimes: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has the members of *always*, and may have those of *sometimes*."""
    return {
        "type": "object",
        "description": text,
        "required": list(always),
        "properties": {**always, **(sometimes or {})},
    }


def _counts(names: Iterable[str]) -> dict[str, Schema]:
    return dict.fromkeys(names, COUNT)


_BY_STATE: Final[Schema] = {
    "type": "object",
    "description": "how many are in each state; zero counts are left out",
    "properties": _counts(State),
    "additionalProperties": False,
}
_UNIQUE: Final = record(
    "One task at a time with this key, among those of its type.",
    {"key": KEY, "while": {"enum": ["queued", "active"]}, "on_conflict": {}},
)
_LIMITS: Final = {
    "concurrency": maybe(COUNT),
    "rate": maybe(
        record("So many starts.", {"limit": COUNT, "period": SECONDS, "burst": COUNT}),
    ),
}


_LONG: Final = frozenset({"payload", "result"})
"""What a brief view leaves out of what every task has."""


def _task(left_out: Set[str] = frozenset()) -> Schema:
    """A task; in some answers, what is *left_out* may be absent."""
    always: dict[str, Schema] = {
        "id": TASK_ID,
        "type": NAME,
        "queue": NAME,
        "state": ref("State"),
        "reason": maybe(ref("Reason")),
        "payload": {},
        "priority": {"type": "integer", "minimum": PRIORITY_MIN, "maximum": PRIORITY_MAX},
        "attempt": COUNT,
        "max_attempts": COUNT,
        "crashes": COUNT,
        "timeout": SECONDS,
        "created_at": AT,
        "run_at": AT,
        "started_at": maybe(AT),
        "finished_at": maybe(AT),
        "result": {},
        "errors": listed(ref("AttemptError"), HISTORY_MAX),
    }
    sometimes = {name: always.pop(name) for name in sorted(left_out)} | _TASK_SOMETIMES
    return record("A task. What does not apply to it is absent.", _told(always), _told(sometimes))


def _told(fields: Mapping[str, Schema]) -> dict[str, Schema]:
    """*fields* of a task with what they mean; those that are as submitted say so."""
    return {
        name: schema | {"description": _TASK_MEANINGS.get(name, "as submitted")}
        for name, schema in fields.items()
    }


_TASK_MEANINGS: Final = {
    "queue": "as submitted, or the handler's",
    "priority": "as submitted, or the handler's",
    "max_attempts": "as submitted, or the handler's",
    "timeout": "seconds; as submitted, or the handler's",
    "state": "where it is",
    "reason": "why it is there; of a retrying task, why the last attempt failed",
    "attempt": "the attempt that runs or ran last; 0 before the first",
    "crashes": "how many servers or processes died while they ran it",
    "created_at": "when it was stored",
    "run_at": "when it may start, or its next attempt may",
    "started_at": "when its last attempt began",
    "finished_at": "when it ended",
    "result": "what its handler returned",
    "errors": "the last failed attempts",
    "worker": "which worker of the server runs it, or ran it last",
    "server": "which server runs it, or ran it last",
    "fingerprint": "of a failed task: what failures of the same cause share",
    "progress": "how far it is, as its handler told",
    "logs": "what its handler logged, the last lines",
    "cancel_requested": "it runs, and was asked to stop",
    "cancellable": "of a running task: what can be stopped",
    "waiting_for": "of a blocked task: how many it still waits for",
    "schedule": "the schedule that made it",
    "traceparent": "the span that submitted it, as W3C Trace Context writes it",
}
"""By field, but for those that are as submitted."""

_TASK_SOMETIMES: Final[dict[str, Schema]] = {
    "worker": COUNT,
    "server": TEXT,
    "key": KEY,
    "fingerprint": TEXT,
    "progress": ref("Progress"),
    "logs": listed(ref("LogLine"), LOG_LINES_MAX),
    "cancel_requested": {"const": True},
    "cancellable": {"enum": ["async", "process", "thread"]},
    "waiting_for": COUNT,
    "tags": listed(NAME, TAGS_MAX),
    "parent_id": TASK_ID,
    "depends_on": listed(TASK_ID, DEPENDENCIES_MAX),
    "on_dependency_failure": ref("OnFailure"),
    "unique": _UNIQUE,
    "deadline": AT,
    "expires_at": AT,
    "schedule": NAME,
    "traceparent": TEXT,
}


def _schedule() -> Schema:
    always = {
        "name": NAME,
        "overlap": {"enum": ["skip", "allow"]},
        "misfire_grace": SECONDS,
        "paused": TRUTH,
        "task": {"type": "object", "description": "the submit that each tick makes"},
        "created_at": AT,
        "last_task_id": maybe(TASK_ID),
        "next": listed(AT, NEXT_TICKS),
        "ticks": listed(ref("Tick")),
    }
    sometimes = {"cron": TEXT, "tz": TEXT, "every": SECONDS}
    return record("A schedule: cron and tz, or every.", always, sometimes)


def _stats() -> Schema:
    return record(
        "What is in the store now, and the totals since it was made, which only grow.",
        {
            "states": record("by state", _counts(State)),
            "queues": {"type": "object", "additionalProperties": _BY_STATE},
            "totals": record("ever", _counts(["submitted", *sorted(FINAL)])),
        },
    )


def _key(**shown: Schema) -> Schema:
    always = {"id": TEXT, "name": KEY, "scopes": listed({"enum": list(KEY_SCOPES)}), "created_at": AT}
    rate = record("So many requests.", {"limit": COUNT, "period": SECONDS, "burst": COUNT})
    sometimes = {"queues": listed(NAME, KEY_QUEUES_MAX), "rate": rate, "expires_at": AT, "revoked_at": AT}
    return record("A key, and what it is for; key: its text, shown once.", always | shown, sometimes)


def _parts() -> dict[str, Schema]:
    """What other answers are made of."""
    brief = {"id": TASK_ID, "type": NAME, "queue": NAME, "state": ref("State")}
    return {
        "Task": _task(),
        "ListedTask": _task(_LONG),
        "Schedule": _schedule(),
        "AttemptError": record(
            "What went wrong in one attempt.",
            {"attempt": COUNT, "at": AT, "reason": ref("Reason"), "type": TEXT, "message": TEXT},
            {"traceback": TEXT, "frame": TEXT, "duration": SECONDS},
        ),
        "LogLine": record("A line that a handler logged.", {"at": AT, "attempt": COUNT, "text": TEXT}),
        "HandledType": record(
            "A type that is handled here: where its tasks go, unless they say otherwise, and their payload.",
            {
                "type": TEXT,
                "queue": NAME,
                "priority": {"type": "integer", "minimum": PRIORITY_MIN, "maximum": PRIORITY_MAX},
                "timeout": SECONDS,
                "max_attempts": COUNT,
                "runs": {"enum": ["trio", "asyncio", "thread", "process"]},
                "description": TEXT,
                "payload": {"description": "a JSON Schema; true for any payload"},
            },
        ),
        "Tick": record(
            "One due instant of a schedule: the task it made, or why it made none.",
            {"at": AT},
            {"task_id": TASK_ID, "skipped": {"enum": ["overlap", "misfire"]}, "missed_before": COUNT},
        ),
        "Branch": record(
            "A task as one line of a tree, and what is below it.",
            {**brief, "children": listed(ref("Branch"))},
            {"reason": ref("Reason"), "progress": ref("Progress")},
        ),
        "Queue": record(
            "A queue: its rules, and how many of its tasks are in which state.",
            {"queue": NAME, "paused": TRUTH, "order": ref("Order"), **_LIMITS}
            | {"per_key": record("of each key by itself", _LIMITS), "tasks": _BY_STATE},
            {"pending_since": AT | {"description": "since when the first of its pending tasks may start"}},
        ),
        "FailureGroup": record(
            "Failed tasks of one cause; latest is the one that arrived last.",
            {"fingerprint": TEXT, "type": NAME, "count": COUNT}
            | {"latest": TASK_ID, "error": ref("AttemptError")},
        ),
        "Stats": _stats(),
        "Key": _key(),
        "KeyMade": _key(key={"type": "string", "pattern": "^tq_[0-9a-f]{88}$"}),
    }


def _wholes() -> dict[str, Schema]:
    """Answers that are made of others."""
    cursor = maybe(TEXT) | {"description": "where the next page begins; null: there is none"}
    stored = msgspec.json.schema(Stored)["$defs"]["Stored"]
    return {
        "Submitted": {"anyOf": [ref("Task"), ref("Created")]},
        "Tree": record("more: it was cut off.", {"tree": ref("Branch"), "more": TRUTH}),
        "TaskPage": record(
            "Newest first; payload and result are there unless the view is brief.",
            {"tasks": listed(ref("ListedTask"), PAGE_MAX), "next": cursor},
        ),
        "Stored": stored | {"properties": stored["properties"] | {"state": ref("State")}},
        "BatchLine": {
            "description": "The answer to one line: its task is stored, or what is wrong with it; stopped: "
            "nor was anything after it.",
            "anyOf": [
                ref("Stored"),
                record("Refused.", {"line": COUNT, "error": ref("Problem")}, {"stopped": {"const": True}}),
            ],
        },
        "Batch": record("In the order of the request.", {"tasks": listed(ref("Stored"))}),
        "BulkDone": record(
            "How many were meant and changed; more: there are more than the limit allowed.",
            {"dry_run": TRUTH, "matched": COUNT, "changed": COUNT, "more": TRUTH},
        ),
        "Failures": record("The most first.", {"groups": listed(ref("FailureGroup"), PAGE_MAX)}),
        "Queues": record("By name.", {"queues": listed(ref("Queue"))}),
        "Schedules": record(
            "By name.", {"schedules": listed(ref("Schedule"), SCHEDULES_PAGE), "next": maybe(NAME)}
        ),
        "Keys": record("The oldest first.", {"keys": listed(ref("Key"), KEYS_MAX)}),
        "CurrentKey": record(
            "What the caller may do. key: null where none is asked for; queues: null are all.",
            {
                "key": maybe(ref("Key")),
                "scopes": listed({"enum": list(KEY_SCOPES)}),
                "queues": maybe(listed(NAME, KEY_QUEUES_MAX)),
            },
        ),
        "Alive": record("It runs.", {"status": {"const": "ok"}}),
        "Ready": record("It takes work.", {"status": {"const": "ready"}}),
        "Contract": record(
            "An OpenAPI document.", {"openapi": TEXT, "info": {"type": "object"}, "paths": {"type": "object"}}
        ),
        "EventStream": TEXT | {"description": "server-sent events; the data of each is JSON"},
        "Page": TEXT | {"description": "HTML"},
        "File": TEXT | {"description": "a script, a style sheet or a picture"},
        "Types": record(
            "By name. anything: a type that is not among them is done too.",
            {"types": listed(ref("HandledType")), "anything": TRUTH},
        ),
        "Metrics": TEXT | {"description": "the text format of Prometheus, or OpenMetrics"},
    }


def _seed() -> dict[str, Schema]:
    """The answers of the original routes."""
    ended = {"task_id": TEXT, "processed_at": AT}
    return {
        "SeedSubmitted": record(
            "It is stored.", {"message": TEXT, "task_id": TASK_ID, "status": {"const": "pending"}}
        ),
        "SeedStatus": {
            "anyOf": [
                record("It ended well.", ended | {"success": {"const": True}, "data": {}}),
                record("It ended badly.", ended | {"success": {"const": False}, "error": TEXT}),
                record("Anything else.", {"task_id": TEXT, "status": {"const": "pending or not found"}}),
            ]
        },
        "SeedStats": record(
            "Totals, and what waits for a worker.",
            _counts(["total_processed", "successful", "failed", "queue_length"]),
        ),
    }


def answer_schemas() -> dict[str, Schema]:
    """Every answer, and what is in them, but for the problems."""
    _, found = msgspec.json.schema_components(ANSWERS, ref_template=REF)
    assert Bulk.__struct_fields__ == ("matched", "changed", "more")
    return found | _parts() | _wholes() | _seed()
