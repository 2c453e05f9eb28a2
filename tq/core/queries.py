"""Every question that a store answers, as a value. It changes nothing; what it sees is committed."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from tq.core.keys import Key
from tq.core.limits import QueueRules
from tq.core.ops import Letter, Schedule
from tq.core.task import AttemptError, Json, ServerId, State, Task, TaskId

PAGE_MAX: Final = 500
"""Tasks in one page of a list."""
LETTERS_MAX: Final = 100
"""Letters that are read at once."""
SERVERS_MAX: Final = 1_000
"""Servers in one list of them."""

R_co = TypeVar("R_co", covariant=True)


class Query(msgspec.Struct, Generic[R_co], frozen=True):
    """A question, answered by an R; it changes nothing."""


class GetTask(Query[Task | None], frozen=True):
    """One task, or None if it is not, or no longer, there."""

    task_id: TaskId


class PayloadMatch(msgspec.Struct, frozen=True):
    """A value in a payload: *path* leads through objects to the one that is equal to one of *values*."""

    path: tuple[str, ...]
    values: tuple[Json, ...]


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are meant; all that is said must be so, and what is None or empty says nothing.

    ``created_after`` is inclusive, ``created_before`` is not. ``error`` is a part of ``type: message`` of
    the last error; upper and lower case of ASCII letters are alike.
    """

    states: tuple[State, ...] = ()
    queue: str | None = None
    type: str | None = None
    key: str | None = None
    tag: str | None = None
    parent_id: TaskId | None = None
    schedule: str | None = None
    fingerprint: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    error: str | None = None
    payload: PayloadMatch | None = None


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, and *next*, from which the next page goes on; None: there is no more.

    A page can be short, or empty, and there be more: what one page looks at has a bound.
    """

    tasks: tuple[Task, ...]
    next: int | None


class ListTasks(Query[TaskPage], frozen=True):
    """The tasks that *filter* means, newest arrival first, from *before* on (a ``next``), at most *limit*.

    Tasks do not move in this order, so that pages neither repeat nor miss one that matches all the time.
    With *brief* each is as `tq.core.task.brief` leaves it, and what that leaves out is not even read, but to
    look for ``payload`` in it.
    """

    filter: TaskFilter
    limit: int
    before: int | None = None
    brief: bool = False


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failed tasks of one cause. ``latest`` is the one of them that arrived last."""

    fingerprint: str
    type: str
    count: int
    latest: TaskId
    error: AttemptError


class GetFailureGroups(Query[tuple[FailureGroup, ...]], frozen=True):
    """The failed tasks by fingerprint, largest group first, then by fingerprint; at most *limit* groups.

    Costs what grows with the number of failed tasks, and with nothing else.
    """

    limit: int = PAGE_MAX


class LaneCount(msgspec.Struct, frozen=True, order=True):
    """How many tasks of a type are in a state in a queue; zero counts are left out."""

    queue: str
    type: str
    state: State
    count: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters kept with the tasks. The totals only grow: they survive restart, pruning and retry."""

    lanes: tuple[LaneCount, ...]
    submitted: int
    succeeded: int
    failed: int
    cancelled: int

    def count(self, state: State) -> int:
        """How many tasks are in *state* now."""
        return sum(lane.count for lane in self.lanes if lane.state is state)


class GetStats(Query[Stats], frozen=True):
    """All counters; costs nothing that grows with the number of tasks."""


class OldestPending(Query[tuple[tuple[str, int], ...]], frozen=True):
    """By name, the queues in which tasks are pending, and the earliest ``run_at`` of those.

    Costs what grows with the lanes that have such tasks, and the priorities in them, not with the tasks.
    """


class GetQueues(Query[tuple[tuple[str, QueueRules], ...]], frozen=True):
    """The queues that have rules of their own, by name; at most QUEUES_MAX."""


class GetSchedules(Query[tuple[Schedule, ...]], frozen=True):
    """Schedules by name, those after *after*, at most *limit*."""

    after: str = ""
    limit: int = PAGE_MAX


class GetSchedule(Query[Schedule | None], frozen=True):
    """One schedule, or None."""

    name: str


class DueSchedules(Query[tuple[Schedule, ...]], frozen=True):
    """The schedules whose next_at has come, earliest first, then by name; at most *limit*."""

    now: int
    limit: int = PAGE_MAX


class GetKeys(Query[tuple[Key, ...]], frozen=True):
    """All keys, the revoked ones too, the oldest first, then by id; at most KEYS_MAX."""


class NextDue(Query[int | None], frozen=True):
    """The earliest instant at which Promote, Expire or a schedule has something to do."""


class ServerRow(msgspec.Struct, frozen=True):
    """A server that is not known to be dead, when it was last seen, and what it then said of itself."""

    server: ServerId
    seen_at: int
    said: Json | None
    edition: int


class GetServers(Query[tuple[ServerRow, ...]], frozen=True):
    """The servers, by id; at most SERVERS_MAX."""


class Seat(msgspec.Struct, frozen=True):
    """A server, the edition of what it says, and the number of its last letter that is kept; 0 for none."""

    server: ServerId
    edition: int
    letter: int


class Held(msgspec.Struct, frozen=True):
    """A lease that a server holds, as far as it knows."""

    task_id: TaskId
    generation: int


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What a server has to hear of, all of one moment.

    ``pending``: a task of its types may be. Of the leases it asked for, ``stop`` are those whose tasks were
    asked to cancel, and ``lost`` those that are no longer valid. ``seats`` are all servers, by id.
    ``letters`` are those not read yet, in the order in which they were written, at most LETTERS_MAX: a batch
    that came of another's has its letter after that one's. ``unannounced``: there is something for Announce.
    ``to_sweep``: Recover, Prune or PruneLetters may have something to do.
    """

    pending: bool
    stop: tuple[Held, ...]
    lost: tuple[Held, ...]
    next_due: int | None
    seats: tuple[Seat, ...]
    letters: tuple[Letter, ...]
    unannounced: bool = False
    to_sweep: bool = False


class Sweeper(msgspec.Struct, frozen=True):
    """Who would sweep, and when. For it servers are dead as in Recover; None: that cannot be said now."""

    server: ServerId
    now: int
    dead_before: int | None


class GetNews(Query[News], frozen=True, kw_only=True):
    """What one server of many asks every second, and when another wakes it.

    ``types`` as in Claim; ``held`` in any order, and answered in it; ``due`` whether to look for the next
    instant as NextDue does; ``sweeper`` for whom to look whether there is something to sweep. Letters are
    given of the servers in ``read``, those after the number there.
    """

    types: tuple[str, ...] | None
    held: tuple[Held, ...] = ()
    due: bool = False
    sweeper: Sweeper | None = None
    read: tuple[tuple[ServerId, int], ...] = ()


AnyQuery = (
    GetTask
    | ListTasks
    | GetFailureGroups
    | GetStats
    | OldestPending
    | GetQueues
    | GetSchedules
    | GetSchedule
    | DueSchedules
    | GetKeys
    | NextDue
    | GetServers
    | GetNews
)
