"""How the reference model lists: it looks at every task there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tq.core.queries import FailureGroup, ListTasks, TaskFilter, TaskPage
from tq.core.task import State, Task, TaskId, brief
from tq.storage.matching import is_in, is_told


def page(query: ListTasks, newest_first: Iterable[Task], arrivals: dict[TaskId, int]) -> TaskPage:
    """See ListTasks."""
    found: list[Task] = []
    for task in newest_first:
        if query.before is not None and arrivals[task.id] >= query.before:
            continue
        if matches(query.filter, task):
            if len(found) == query.limit:
                return TaskPage(tuple(found), arrivals[found[-1].id] if found else None)
            found.append(brief(task) if query.brief else task)
    return TaskPage(tuple(found), None)


def matches(wanted: TaskFilter, task: Task) -> bool:
    """Whether *task* is one that is meant."""
    options = task.options
    equal: list[tuple[object, object]] = [
        (wanted.queue, task.queue),
        (wanted.type, task.type),
        (wanted.key, task.key),
        (wanted.parent_id, options.parent_id),
        (wanted.schedule, options.schedule),
        (wanted.fingerprint, task.fingerprint),
    ]
    rules: list[Callable[[], bool]] = [
        lambda: not wanted.states or task.state in wanted.states,
        lambda: all(value is None or value == has for value, has in equal),
        lambda: wanted.tag is None or wanted.tag in options.tags,
        lambda: wanted.created_after is None or task.created_at >= wanted.created_after,
        lambda: wanted.created_before is None or task.created_at < wanted.created_before,
        lambda: wanted.error is None or is_told(wanted.error, task.errors),
        lambda: wanted.payload is None or is_in(wanted.payload, task.payload),
    ]
    return all(rule() for rule in rules)


def oldest_pending(tasks: Iterable[Task]) -> tuple[tuple[str, int], ...]:
    """See OldestPending."""
    oldest: dict[str, int] = {}
    for task in tasks:
        if task.state is State.PENDING:
            oldest[task.queue] = min(task.run_at, oldest.get(task.queue, task.run_at))
    return tuple(sorted(oldest.items()))


def failure_groups(tasks: Iterable[Task], limit: int) -> tuple[FailureGroup, ...]:
    """See GetFailureGroups; *tasks* are in order of arrival."""
    groups: dict[str, FailureGroup] = {}
    for task in tasks:
        if task.state is State.FAILED and task.fingerprint is not None:
            before = groups.get(task.fingerprint)
            groups[task.fingerprint] = FailureGroup(
                fingerprint=task.fingerprint,
                type=task.type,
                count=1 if before is None else before.count + 1,
                latest=task.id,
                error=task.errors[-1],
            )
    by_size = sorted(groups.values(), key=lambda group: (-group.count, group.fingerprint))
    return tuple(by_size[:limit])
