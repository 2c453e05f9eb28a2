"""Random batches of every op, and random questions, that are likely to mean something."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, ClassVar, TypeVar

import msgspec
from storage_kit import NOW, new

from tq.core import ops, queries
from tq.core.keys import KeyId, Scope
from tq.core.limits import Limits, Order, Rate
from tq.core.ops import AnyOp, Letter, RequestKey, Schedule
from tq.core.queries import AnyQuery, PayloadMatch, TaskFilter
from tq.core.task import (
    FINAL,
    AttemptError,
    During,
    Json,
    Lease,
    LogLine,
    NewTask,
    OnConflict,
    OnFailure,
    Progress,
    Reason,
    ServerId,
    State,
    TaskId,
    Unique,
)
from tq.storage.store import Store

T = TypeVar("T")

DAY_MS = 86_400_000
IDS = 25
TYPES = ("t1", "t2", "t3")
QUEUES = ("q1", "q2")
KEYS = (None, None, None, "k1", "k2")
TAGS = ("red", "blue", "ñ")
SCHEDULES = ("nightly", "hourly", "ñ")
SERVERS = (ServerId("s1"), ServerId("s2"), ServerId("s3"))
TEXTS = ("1", '{"a":"ñ"}', '{"a":{"b":[1, 2]}}', '"' + "x" * 1_500 + '"', '[ 1, "\\u0000" ]')
MATCHES = (
    PayloadMatch((), (Json("1"),)),
    PayloadMatch(("a",), (Json('"ñ"'), Json("2"))),
    PayloadMatch(("a", "b"), (Json("[1,2]"),)),
)


class Chooser:
    """Makes batches and questions; it looks at *model* and at the leases it is told of to choose well."""

    def __init__(self, seed: int, model: Store) -> None:
        self.random = Random(seed)
        self.now = NOW
        self.model = model
        self.leases: list[Lease] = []
        self.written: Counter[ServerId] = Counter()

    def batch(self) -> list[AnyOp]:
        self.now += self.random.choice((0, 1, 20, 400))
        if self.random.random() < 0.01:
            self.now += DAY_MS
        size = self.random.choice((1, 3, 12))
        batch: list[AnyOp] = []
        while len(batch) < size:
            # Runs of one kind are what a store takes together.
            make = self.random.choices(self.makers, self.weights)[0]
            batch += [make(self) for _ in range(self.random.choice((1, 1, 4)))]
        return batch

    def often(self, chance: float) -> bool:
        return self.random.random() < chance

    def maybe(self, chance: float, value: T) -> T | None:
        return value if self.often(chance) else None

    def pick(self, *values: T) -> T:
        return self.random.choice(values)

    def later(self) -> int:
        return self.now + self.pick(-100, 0, 1, 50, 500)

    def task_id(self) -> TaskId:
        return TaskId(f"task-{self.random.randrange(IDS)}")

    def open_id(self) -> TaskId:
        """Of a task that has not ended, where there is one; sometimes of any."""
        found = [each.id for each in self.model.snapshot().tasks if each.state not in FINAL]
        return self.random.choice(found) if found and self.often(0.6) else self.task_id()

    def limit(self) -> int:
        return self.pick(0, 1, 2, 3, 100)

    # New tasks

    def new(self) -> NewTask:
        options = self.options() if self.often(0.6) else {}
        return new(
            self.task_id(),
            type=self.pick(*TYPES),
            queue=self.pick(*QUEUES),
            payload=self.pick(*TEXTS),
            priority=self.pick(0, 0, 5, -5),
            run_at=self.now + self.pick(-100, 0, 0, 50, 2_000),
            result_ttl_ms=self.pick(None, 0, 60, 2_000),
            key=self.pick(*KEYS),
            **options,
        )

    def options(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self.often(0.3):
            made["tags"] = tuple(self.random.choices(TAGS, k=self.pick(1, 3)))
        if self.often(0.2):
            made["parent_id"] = self.open_id()
        if self.often(0.3):
            made["depends_on"] = tuple(self.open_id() for _ in range(self.pick(1, 1, 2, 3)))
            made["on_dependency_failure"] = self.pick(*OnFailure)
        if self.often(0.3):
            made["unique"] = Unique(self.pick("u1", "ñ/2"), self.pick(*During), self.pick(*OnConflict))
        if self.often(0.2):
            made["deadline_at"] = self.later()
        if self.often(0.2):
            made["expires_at"] = self.later()
        if self.often(0.2):
            made["schedule"] = self.pick(*SCHEDULES)
        return made

    def submit(self) -> AnyOp:
        request = RequestKey(self.pick("r1", "r2", "r3", "r4"), self.pick("d1", "d1", "d1", "d2"))
        return ops.Submit(self.new(), self.maybe(0.15, request))

    def submit_many(self) -> AnyOp:
        return ops.SubmitMany(tuple(self.new() for _ in range(self.pick(0, 1, 2, 3))))

    # Leases

    def claim(self) -> AnyOp:
        types = self.pick(None, None, (), TYPES[:1], TYPES[1:], ("t9",))
        return ops.Claim(self.pick(*SERVERS), types, self.pick(0, 1, 2, 10))

    def lease(self) -> tuple[TaskId, int]:
        if self.leases and self.often(0.9):
            lease = self.random.choice(self.leases[-12:])
            return lease.task_id, lease.generation
        return self.task_id(), self.random.randrange(3)

    def error(self) -> AttemptError:
        return AttemptError(
            attempt=1,
            at=self.now,
            reason=Reason.ERROR,
            type=self.pick("E", "ValueError"),
            message=self.pick("no", "ñ\0", "x" * 999),
            frame=self.pick(None, "a.py:f"),
        )

    def finish(self) -> AnyOp:
        task_id, generation = self.lease()
        state = self.pick(
            State.SUCCEEDED, State.FAILED, State.CANCELLED, State.RETRYING, State.SCHEDULED, State.PENDING
        )
        return ops.Finish(
            task_id=task_id,
            generation=generation,
            state=state,
            reason=self.pick(None, *Reason),
            run_at=self.now + self.pick(0, 30),
            result=self.pick(None, *(Json(text) for text in TEXTS)),
            error=self.maybe(0.6, self.error()),
            started_at=self.random.choice((self.now, self.now, None)),
            worker=self.pick(None, 3),
            burns=self.often(0.8),
        )

    def crash(self) -> AnyOp:
        return ops.Crash(*self.lease(), self.error())

    def release(self) -> AnyOp:
        return ops.Release(*self.lease())

    def note(self) -> AnyOp:
        progress = Progress(self.pick(0.0, 0.25, 1.0), self.pick("", "ñ"))
        count = 250 if self.often(0.02) else self.pick(0, 1, 3)
        lines = tuple(LogLine(self.now, 1, f"line {n}") for n in range(count))
        return ops.Note(*self.lease(), self.maybe(0.7, progress), lines)

    # Tasks by their ids

    def cancel(self) -> AnyOp:
        parents = [each.options.parent_id for each in self.model.snapshot().tasks]
        found = [parent_id for parent_id in parents if parent_id is not None]
        task_id = self.random.choice(found) if found and self.often(0.4) else self.task_id()
        return ops.Cancel(task_id, self.pick(Reason.USER, Reason.PARENT), self.often(0.8))

    def retry(self) -> AnyOp:
        return ops.Retry(self.task_id())

    def update(self) -> AnyOp:
        return ops.Update(
            task_id=self.task_id(),
            priority=self.maybe(0.3, self.pick(-5, 0, 5)),
            run_at=self.maybe(0.4, self.later()),
            timeout_ms=self.maybe(0.2, 77),
            max_attempts=self.maybe(0.2, 9),
            result_ttl_ms=self.maybe(0.2, 0),
            deadline_at=self.maybe(0.2, self.later()),
            expires_at=self.maybe(0.2, self.later()),
        )

    def delete(self) -> AnyOp:
        return ops.Delete(self.task_id())

    # Sweeping

    def promote(self) -> AnyOp:
        return ops.Promote(self.limit())

    def expire(self) -> AnyOp:
        return ops.Expire(self.limit())

    def settle(self) -> AnyOp:
        return ops.Settle(self.limit())

    def recover(self) -> AnyOp:
        return ops.Recover(self.pick(*SERVERS), self.now - self.pick(0, 100), self.limit())

    def prune(self) -> AnyOp:
        return ops.Prune(self.limit())

    def beat(self) -> AnyOp:
        said = self.maybe(0.5, Json(self.pick('{"host":"a"}', '{"host":"ñ"}')))
        return ops.Beat(
            self.pick(*SERVERS), gone=self.often(0.2), said=said, edition=self.random.randrange(3)
        )

    def lead(self) -> AnyOp:
        return ops.Lead(self.pick(*SERVERS), gone=self.often(0.2))

    def prune_letters(self) -> AnyOp:
        return ops.PruneLetters(self.limit())

    def letter(self) -> Letter | None:
        """What the next batch tells; each server numbers its own."""
        if not self.often(0.3):
            return None
        server = self.pick(*SERVERS)
        self.written[server] += 1
        return Letter(server, self.written[server], self.random.randbytes(self.pick(0, 3, 900)))

    # Queues and schedules

    def set_queue(self) -> AnyOp:
        return ops.SetQueue(
            queue=self.pick(*QUEUES), order=self.pick(*Order), limits=self.limits(), per_key=self.limits()
        )

    def limits(self) -> Limits:
        rate = Rate(limit=self.pick(1, 3), period_ms=self.pick(100, 1_000), burst=self.pick(1, 2))
        return Limits(concurrency=self.maybe(0.2, self.pick(1, 2)), rate=self.maybe(0.2, rate))

    def pause_queue(self) -> AnyOp:
        return ops.PauseQueue(self.pick(*QUEUES), self.often(0.3))

    def put_schedule(self) -> AnyOp:
        spec = Json(self.pick('{"every": 1}', '{"every": 2}'))
        return ops.PutSchedule(self.pick(*SCHEDULES), spec, self.maybe(0.8, self.later()))

    def delete_schedule(self) -> AnyOp:
        return ops.DeleteSchedule(self.pick(*SCHEDULES))

    def schedule(self) -> tuple[str, int, int]:
        """A name, a version, and an instant up to which its ticks may have been dealt with."""
        name = self.pick(*SCHEDULES)
        known: Schedule | None = self.model.read(queries.GetSchedule(name))
        if known is None or self.often(0.1):
            return name, self.pick(1, 2), self.now
        return name, known.version, known.seen_until

    def pause_schedule(self) -> AnyOp:
        name, version, _ = self.schedule()
        paused = self.often(0.4)
        return ops.PauseSchedule(name, version, paused, None if paused else self.later())

    def fire(self) -> AnyOp:
        name, version, seen_until = self.schedule()
        tick_at = seen_until + self.pick(0, 1, 1, 50)
        return ops.Fire(
            name=name,
            version=version,
            tick_at=tick_at,
            seen_until=tick_at,
            next_at=self.maybe(0.8, self.later()),
            task=self.maybe(0.9, self.new()),
            skipped=self.pick(0, 0, 3),
            overlap=self.often(0.5),
        )

    # Keys

    def key_id(self) -> KeyId:
        return KeyId(self.pick("k1", "k2", "k3", "k4"))

    def put_key(self) -> AnyOp:
        return ops.PutKey(
            key_id=self.key_id(),
            name=self.pick("ci", "ñ"),
            digest=self.pick("d1", "d2"),
            scopes=self.pick((Scope.READ,), (Scope.SUBMIT, Scope.ADMIN)),
            queues=self.pick((), (), QUEUES),
            rate=self.maybe(0.3, Rate(limit=5, period_ms=1_000, burst=5)),
            expires_at=self.maybe(0.3, self.later()),
        )

    def revoke_key(self) -> AnyOp:
        return ops.RevokeKey(self.key_id())

    weighted: ClassVar = {
        submit: 9,
        submit_many: 3,
        claim: 7,
        finish: 9,
        crash: 3,
        release: 2,
        note: 3,
        cancel: 4,
        retry: 4,
        update: 4,
        delete: 2,
        promote: 3,
        expire: 2,
        settle: 5,
        recover: 2,
        prune: 1,
        beat: 2,
        lead: 1,
        prune_letters: 0.5,
        set_queue: 1,
        pause_queue: 1,
        put_schedule: 2,
        delete_schedule: 0.3,
        pause_schedule: 1,
        fire: 3,
        put_key: 0.5,
        revoke_key: 0.3,
    }
    makers = tuple(weighted)
    weights = tuple(weighted.values())

    # Questions

    def questions(self) -> list[AnyQuery]:
        return [
            queries.GetStats(),
            queries.NextDue(),
            queries.GetServers(),
            self.news(),
            queries.GetQueues(),
            queries.OldestPending(),
            queries.GetKeys(),
            queries.GetTask(self.task_id()),
            listed := queries.ListTasks(
                self.filter(), self.pick(0, 1, 3, 100), self.maybe(0.3, self.random.randrange(400))
            ),
            msgspec.structs.replace(listed, brief=True),
            queries.GetFailureGroups(self.pick(0, 1, 100)),
            queries.GetSchedules(self.pick("", *SCHEDULES), self.pick(0, 1, 100)),
            queries.GetSchedule(self.pick(*SCHEDULES)),
            queries.DueSchedules(self.later(), self.pick(0, 1, 100)),
        ]

    def news(self) -> AnyQuery:
        held = [queries.Held(*self.lease()) for _ in range(self.pick(0, 1, 4))]
        servers = self.random.sample(SERVERS, self.pick(0, 1, 2))
        return queries.GetNews(
            types=self.pick(None, (), TYPES[:1], TYPES, ("t9",)),
            held=tuple(held),
            due=self.often(0.5),
            sweeper=self.maybe(
                0.5, queries.Sweeper(self.pick(*SERVERS), self.later(), self.maybe(0.7, self.later()))
            ),
            read=tuple((server, self.pick(0, self.written[server] - 2)) for server in servers),
        )

    def filter(self) -> TaskFilter:
        fingerprints = [
            each.fingerprint for each in self.model.snapshot().tasks if each.fingerprint is not None
        ]
        rare = 0.15
        return TaskFilter(
            states=tuple(self.random.sample(list(State), self.pick(0, 0, 0, 1, 2, 5))),
            queue=self.maybe(rare, self.pick(*QUEUES)),
            type=self.maybe(rare, self.pick(*TYPES)),
            key=self.maybe(rare, self.pick("k1", "k9")),
            tag=self.maybe(rare, self.pick(*TAGS)),
            parent_id=self.maybe(rare, self.task_id()),
            schedule=self.maybe(rare, self.pick(*SCHEDULES)),
            fingerprint=self.maybe(rare, self.pick("none", *fingerprints)),
            created_after=self.maybe(rare, self.later()),
            created_before=self.maybe(rare, self.later()),
            error=self.maybe(rare, self.pick("e", "VALUEERROR: no", "ñ", "%")),
            payload=self.maybe(rare, self.pick(*MATCHES)),
        )
