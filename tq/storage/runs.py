"""How a batch falls into runs, which both SQL stores do at once: submits, and ops that name a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from itertools import groupby
from typing import TypeAlias, TypeVar

from tq.core import ops
from tq.core.errors import TqError
from tq.core.ops import AnyOp, Reply
from tq.storage.moves import ByIdOp

Answer: TypeAlias = Reply | TqError
ScheduleOp: TypeAlias = ops.PutSchedule | ops.DeleteSchedule | ops.PauseSchedule | ops.Fire
A = TypeVar("A")
R = TypeVar("R", bound=Reply)


class Kind(Enum):
    """How an op is done: in a run of submits, in a run of ops that name a task, or by itself."""

    SUBMIT = auto()
    BY_ID = auto()
    OTHER = auto()


def runs_of(batch: Sequence[AnyOp]) -> Iterator[tuple[Kind, list[AnyOp]]]:
    """The runs of *batch*, in order."""
    for kind, group in groupby(batch, key=_kind):
        yield kind, list(group)


def _kind(op: AnyOp) -> Kind:
    if isinstance(op, ops.Submit):
        return Kind.SUBMIT
    return Kind.BY_ID if isinstance(op, ByIdOp) else Kind.OTHER


def reply_or_refusal(do: Callable[[A], R], what: A) -> R | TqError:
    """What *do* says of *what*."""
    try:
        return do(what)
    except TqError as refusal:
        return refusal
