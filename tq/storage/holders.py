"""Who has which unique key in an SQL store.

The rule is `Rows.hold` of the model: a key that is free goes to the first task that moves while it may have
it. So it is decided in the order of the moves, in Python, and then written.
"""

from __future__ import annotations

from tq.core.task import Options, State, TaskId, holds_unique, unique_name


def name_of(type: str, options: Options) -> str | None:
    """The unique name that a task of *type* with *options* wants, if any."""
    return None if options.unique is None else unique_name(type, options.unique)


class Holders:
    """The holders of some unique names as they were *before*, and how they change."""

    def __init__(self, before: dict[str, TaskId]) -> None:
        self._before = before
        self._now = dict(before)

    def get(self, name: str) -> TaskId | None:
        """The task that has *name*."""
        return self._now.get(name)

    def hold(self, task_id: TaskId, type: str, options: Options, state: State) -> None:
        """Take the unique key if it is free and the task in *state* keeps others out; else let it go."""
        if options.unique is None:
            return
        name = unique_name(type, options.unique)
        if holds_unique(state, options.unique):
            self._now.setdefault(name, task_id)
        elif self._now.get(name) == task_id:
            del self._now[name]

    @property
    def gone(self) -> list[tuple[str, TaskId]]:
        """What has been let go, to be written first."""
        return list(self._before.items() - self._now.items())

    @property
    def taken(self) -> list[tuple[str, TaskId]]:
        """What has been taken, to be written then."""
        return list(self._now.items() - self._before.items())
