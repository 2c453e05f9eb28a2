"""Changes to all tasks that a filter means, in bounded transactions, and the tree below a task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeVar, assert_never

import msgspec

from tq.core.errors import TqError
from tq.core.ops import AnyOp, Cancel, Delete, Retry
from tq.core.queries import PAGE_MAX, GetStats, ListTasks, Query, Stats, TaskFilter
from tq.core.task import FINAL, State, Task, TaskId
from tq.engine.ledger import Ledger

R = TypeVar("R")

TREE_MAX: Final = 500
"""Tasks in one tree; the rest is only said to be there."""
TREE_DEPTH_MAX: Final = 100
"""Levels of one tree, the root among them: JSON that is nested deeper breaks those who write and read it."""


class Reads(Protocol):
    """Asks the store."""

    async def __call__(self, query: Query[R], /) -> R:
        """Its answer."""
        ...


class Action(Enum):
    """What can be done in bulk."""

    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"

    @property
    def done(self) -> str:
        """What a task is then."""
        return {"cancel": "cancelled", "retry": "retried", "delete": "deleted"}[self.value]


_OPEN: Final = tuple(state for state in State if state not in FINAL)
_ENDED: Final = tuple(state for state in State if state in FINAL)
CAN_BE_DONE_TO: Final = {Action.CANCEL: _OPEN, Action.RETRY: _ENDED, Action.DELETE: _ENDED}
"""The states that an action is for."""
_DONE_TO: Final = CAN_BE_DONE_TO | {Action.RETRY: (State.FAILED,)}
"""The states that are meant where the filter names none: failed tasks are the dead letters."""


class Bulk(msgspec.Struct, frozen=True):
    """How many tasks were meant and how many were changed; ``more`` are there than the limit allowed.

    What has moved on meanwhile is counted as meant only.
    """

    matched: int
    changed: int
    more: bool


async def change_all(
    ledger: Ledger,
    read: Reads,
    action: Action,
    wanted: TaskFilter,
    *,
    limit: int,
    dry_run: bool = False,
    cascade: bool = True,
) -> Bulk:
    """Do *action* to the tasks that *wanted* means, newest first; with *dry_run*, count them.

    Each task is changed or not by itself; a page of them shares a transaction. If cancelled, or if the
    store goes away half way, what was done stays done, and the same again does the rest.

    Raises:
        StorageUnavailable: Safe to repeat.
    """
    if not wanted.states:
        wanted = msgspec.structs.replace(wanted, states=_DONE_TO[action])
    if dry_run and _is_counted(wanted):
        count = _count(wanted, await read(GetStats()))
        return Bulk(min(count, limit), 0, more=count > limit)
    left, changed = limit, 0
    before: int | None = None
    while True:
        page = await read(ListTasks(wanted, min(PAGE_MAX, left), before, brief=True))
        left -= len(page.tasks)
        if page.tasks and not dry_run:
            replies = await ledger.ask_each([_op(action, task.id, cascade=cascade) for task in page.tasks])
            changed += sum(not isinstance(reply, TqError) for reply in replies)
        if page.next is None or not left:
            return Bulk(limit - left, changed, more=page.next is not None)
        before = page.next


def _is_counted(wanted: TaskFilter) -> bool:
    """Whether the counters alone tell how many tasks *wanted* means: it names nothing that they do not."""
    counted = TaskFilter(states=wanted.states, queue=wanted.queue, type=wanted.type)
    return wanted == counted


def _count(wanted: TaskFilter, stats: Stats) -> int:
    return sum(
        lane.count
        for lane in stats.lanes
        if lane.state in wanted.states
        and wanted.queue in (None, lane.queue)
        and wanted.type in (None, lane.type)
    )


def _op(action: Action, task_id: TaskId, *, cascade: bool) -> AnyOp:
    match action:
        case Action.CANCEL:
            return Cancel(task_id, cascade=cascade)
        case Action.RETRY:
            return Retry(task_id)
        case Action.DELETE:
            return Delete(task_id)
        case _:
            assert_never(action)


@dataclass(slots=True)
class Branch:
    """A task and its children, by arrival."""

    task: Task
    children: list[Branch]


async def read_tree(read: Reads, root: Task) -> tuple[Branch, bool]:
    """The tree below *root*, level by level, and whether it was cut off: by TREE_MAX or TREE_DEPTH_MAX."""
    tree = Branch(root, [])
    level = [tree]
    left = TREE_MAX - 1
    depth = 0
    while level:
        depth += 1
        if depth == TREE_DEPTH_MAX:
            left = 0
        below: list[Branch] = []
        for branch in level:
            children, more = await _children(read, branch.task.id, left)
            branch.children = [Branch(child, []) for child in children]
            below += branch.children
            left -= len(children)
            if more:
                return tree, True
        level = below
    return tree, False


async def _children(read: Reads, parent_id: TaskId, limit: int) -> tuple[list[Task], bool]:
    """The children of a task, by arrival, at most *limit*, and whether there are more."""
    found: list[Task] = []
    before: int | None = None
    while True:
        asked = min(PAGE_MAX, limit - len(found) + 1)
        page = await read(ListTasks(TaskFilter(parent_id=parent_id), asked, before, brief=True))
        found += page.tasks
        if len(found) > limit:
            # Newest first came first: the oldest would be cut off, so these are.
            return found[:limit][::-1], True
        if page.next is None:
            return found[::-1], False
        before = page.next
