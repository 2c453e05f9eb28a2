"""The one path by which every change reaches the store, committed in groups.

While one transaction commits, whoever asks next gathers; the next transaction takes all of them. So an
idle server answers at once and a busy one shares each fsync among hundreds, with no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar, cast

import trio

from tq.clock import Clock, RunSync
from tq.core.errors import ShuttingDown, StorageUnavailable, TqError
from tq.core.events import Event, StorageLost, StorageRestored
from tq.core.ops import BATCH_MAX, AnyOp, Op, Reply
from tq.engine.bell import Bell
from tq.engine.happened import events_of
from tq.engine.letters import Outbox
from tq.storage.store import Store

R = TypeVar("R")
OnCommit = Callable[[Sequence[AnyOp], Sequence[Reply | TqError]], None]
Follow = Callable[[int, int], None]
Tells = Callable[[Sequence[Reply | TqError]], Sequence[Event]]
"""Makes of the replies to its ops the events of them that only who asked can tell. Pure."""

_AWAY_RETRY_MS: Final = 1_000
"""What a caller is told to wait when the store is away."""


class _Asked:
    """Ops of one caller, and the place for their answer."""

    __slots__ = ("answered", "failure", "ops", "replies", "tells")

    def __init__(self, ops: Sequence[AnyOp], tells: Tells | None) -> None:
        self.ops = ops
        self.tells = tells
        self.answered = trio.Event()
        self.replies: Sequence[Reply | TqError] = ()
        self.failure: TqError | None = None


class Ledger:
    """Takes ops from concurrent callers and answers each once its transaction is committed.

    Args:
        on_commit: Told of each committed batch, in order, before its callers are answered.
        emit: Told of the events of each such batch before that, and when the store goes away and is back.
        outbox: What is told to other servers, in the same transaction, while there are any.
        follow: Told what a store showed that judges by a clock of its own, and when it was asked.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        run_sync: RunSync,
        on_commit: OnCommit,
        emit: Callable[[Event], None],
        outbox: Outbox | None = None,
        follow: Follow | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._run_sync = run_sync
        self._on_commit = on_commit
        self._emit = emit
        self._outbox = outbox
        self._follow = follow
        self._waiting: list[_Asked] = []
        self._bell = Bell()
        self._closed = False
        self._away_since: int | None = None
        self.measured: Callable[[int, float], None] = lambda ops, duration_s: None
        """Called after each commit: how many ops it was of, and the seconds it took."""
        self._committing: trio.Event | None = None
        """Set once what commits now has been told."""

    @property
    def is_away(self) -> bool:
        """Whether the last transaction failed because the store was out of reach."""
        return self._away_since is not None

    async def ask(self, op: Op[R]) -> R:
        """Apply *op* and give its reply, once it is durable.

        Waits shielded: cancelling the caller does not undo what was asked.

        Raises:
            TqError: The op was refused and changed nothing.
            StorageUnavailable: Nothing was applied; safe to repeat.
        """
        (reply,) = await self.ask_each([cast(AnyOp, op)])
        if isinstance(reply, TqError):
            raise reply
        return cast(R, reply)

    async def ask_each(
        self, ops: Sequence[AnyOp], *, tells: Tells | None = None
    ) -> Sequence[Reply | TqError]:
        """Apply *ops* in one transaction, in order; a reply or a refusal for each.

        Args:
            ops: At most BATCH_MAX.
            tells: Its events are told right behind those of *ops*.
        Raises:
            StorageUnavailable: None was applied; safe to repeat.
            ShuttingDown: The ledger is closed; none was applied.
        """
        assert len(ops) <= BATCH_MAX
        if self._closed:
            raise ShuttingDown("the server has stopped: try another or later")
        asked = _Asked(ops, tells)
        self._waiting.append(asked)
        self._bell.ring()
        with trio.CancelScope(shield=True):
            await asked.answered.wait()
        if asked.failure is not None:
            raise asked.failure
        return asked.replies

    async def wait_told(self) -> None:
        """Return when all that a store can show by now has been told: at once if nothing commits."""
        if self._committing is not None:
            await self._committing.wait()

    async def run(self) -> None:
        """Commit what is asked, for ever. Ends only by cancellation; what then waits is refused."""
        try:
            while True:
                await self._bell.wait_rung()
                while self._waiting:
                    await self._commit_group()
        finally:
            self._closed = True
            for asked in self._waiting:
                asked.failure = ShuttingDown("the server has stopped: try another or later")
                asked.answered.set()
            self._waiting.clear()

    async def _commit_group(self) -> None:
        group = self._take_group()
        ops = group[0].ops if len(group) == 1 else [op for asked in group for op in asked.ops]
        self._committing = committing = trio.Event()
        started = self._clock.monotonic()
        draft = None if self._outbox is None else self._outbox.draft(ops, partial(self._events_of, group))
        asked_at = self._clock.now_ms()
        apply = partial(self._store.apply, ops, asked_at)
        try:
            replies = await self._run_sync(apply if draft is None else partial(apply, news=draft.write))
        except StorageUnavailable as failure:
            if draft is not None:
                draft.put_back()
            self._note_away(failure)
            for asked in group:
                asked.failure = failure
                asked.answered.set()
            return
        except BaseException:
            # A bug, or the end of the server: nobody may be left waiting behind a shield.
            self._waiting = group + self._waiting
            raise
        else:
            if self._follow is not None and self._store.judged_at is not None:
                self._follow(self._store.judged_at, asked_at)
            self.measured(len(ops), self._clock.monotonic() - started)
            self._note_back()
            self._tell(group, ops, replies, None if draft is None else draft.sent())
        finally:
            self._committing = None
            committing.set()

    def _tell(
        self,
        group: Sequence[_Asked],
        ops: Sequence[AnyOp],
        replies: Sequence[Reply | TqError],
        events: Sequence[Event] | None,
    ) -> None:
        """Spread the news of one commit, whose *events* may be known already."""
        start = 0
        for asked in group:
            asked.replies = replies[start : start + len(asked.ops)]
            start += len(asked.ops)
        try:
            for event in self._events_of(group, replies) if events is None else events:
                self._emit(event)
            self._on_commit(ops, replies)
        finally:
            # A bug in the telling undoes nothing: the server ends, and nobody may be left behind a shield.
            for asked in group:
                asked.answered.set()

    def _events_of(self, group: Sequence[_Asked], replies: Sequence[Reply | TqError]) -> list[Event]:
        """The events of what *group* asked, what callers tell of their own ops right behind those."""
        now = self._clock.now_ms()
        events: list[Event] = []
        start = 0
        for asked in group:
            own = replies[start : start + len(asked.ops)]
            start += len(own)
            events += events_of(asked.ops, own, now)
            if asked.tells is not None:
                events += asked.tells(own)
        return events

    def _take_group(self) -> list[_Asked]:
        size = count = 0
        for asked in self._waiting:
            size += len(asked.ops)
            if size > BATCH_MAX:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _note_away(self, failure: StorageUnavailable) -> None:
        failure.fields.setdefault("retry_after_ms", _AWAY_RETRY_MS)
        if self._away_since is None:
            self._away_since = self._clock.now_ms()
            self._emit(StorageLost(at=self._away_since, code=failure.code, message=failure.message))

    def _note_back(self) -> None:
        if self._away_since is not None:
            now = self._clock.now_ms()
            self._emit(StorageRestored(at=now, away_ms=now - self._away_since))
            self._away_since = None
