"""What a server tells the others of what it commits: letters, stored in the transaction that they tell of.

So none is lost between a commit and its news, whoever dies when. Nothing is told while nobody hears.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tq.core import events
from tq.core.errors import TqError
from tq.core.events import Event
from tq.core.ops import AnyOp, Letter, Promote, Recover, Recovered, Reply, Swept
from tq.core.task import ServerId
from tq.engine.bell import Bell
from tq.engine.ring import Logged, Progressed, Told

EVENTS_MAX: Final = 10_000
"""Events in one letter. One of more tells only that there were."""
WAITING_MAX: Final = 1_000
"""What may wait for the next letter of what no commit tells: starts, progress, lines of log."""
PLAIN_MAX: Final = 512
"""Bytes of a letter that are not worth compressing."""
BODY_MAX: Final = 32 * 1024 * 1024
"""Bytes of a letter once it is read."""

Tellable = (
    events.TaskSubmitted
    | events.TaskStarted
    | events.AttemptFinished
    | events.TaskCancelled
    | events.TaskRetried
    | events.TaskUnblocked
    | events.TaskExpired
    | events.TaskUpdated
    | events.TaskDeleted
    | events.TaskReleased
    | events.LeaseExpired
    | events.LeaseRefused
    | events.AttemptOverran
    | events.TasksPruned
    | events.QueueChanged
    | events.ScheduleChanged
    | events.ScheduleFired
    | events.ServerStarted
    | Progressed
    | Logged
)
"""What concerns those who watch other servers too. The rest is of the server itself."""


EventsOf = Callable[[Sequence[Reply | TqError]], list[Event]]
"""The events of a batch, by the replies to it."""


class Body(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """What is in a letter. ``stirs``: tasks may be pending that no event tells of. ``cut``: not all."""

    told: list[Tellable]
    stirs: bool = False
    cut: bool = False


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Body)
_PLAIN: Final = b"\0"
_PACKED: Final = b"\1"


def write_body(body: Body) -> bytes:
    """*body* as it is stored."""
    data = _encode(body)
    return _PLAIN + data if len(data) <= PLAIN_MAX else _PACKED + zlib.compress(data, level=1)


def read_body(data: bytes) -> Body:
    """What a letter says; one that cannot be read, by a server of another version, is all cut."""
    try:
        if data[:1] == _PLAIN:
            return _decoder.decode(data[1:])
        unpack = zlib.decompressobj()
        body = unpack.decompress(data[1:], BODY_MAX)
        return Body([], cut=True) if unpack.unconsumed_tail else _decoder.decode(body)
    except (msgspec.MsgspecError, zlib.error):
        return Body([], cut=True)


class Outbox:
    """What one server has to tell. While it ``is_open``, each commit that tells something writes a letter.

    ``waiting`` rings when something waits that no commit may come along for; ``was_sent`` is called once a
    letter is committed.
    """

    def __init__(self, server: ServerId) -> None:
        self.is_open = False
        self.number = 0
        self.waiting = Bell()
        self.was_sent: Callable[[], None] = lambda: None
        self._server = server
        self._items: deque[Tellable] = deque()
        self._is_cut = False

    def put(self, item: Event | Told) -> None:
        """Tell *item* with the next letter. Where too much waits, the oldest is dropped."""
        if not self.is_open or not isinstance(item, Tellable):
            return
        self._items.append(item)
        self._shorten()
        self.waiting.ring()

    def _shorten(self) -> None:
        while len(self._items) > WAITING_MAX:
            self._is_cut |= not isinstance(self._items.popleft(), Told)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._items

    def draft(self, ops: Sequence[AnyOp], events_of: EventsOf) -> Draft | None:
        """The letter of the commit of *ops*, which is the next; None while nobody hears.

        Args:
            events_of: The events of the batch, by its replies.
        """
        if not self.is_open:
            self._items.clear()
            return None
        items, self._items = list(self._items), deque()
        is_cut, self._is_cut = self._is_cut, False
        return Draft(self, ops, items, events_of, is_cut=is_cut)

    def put_back(self, items: Sequence[Tellable], *, is_cut: bool) -> None:
        """They could not be told."""
        self._items.extendleft(reversed(items))
        self._is_cut |= is_cut
        self._shorten()
        self.waiting.ring()

    def letter(self, body: Body) -> Letter:
        """*body* as the next letter."""
        return Letter(self._server, self.number + 1, write_body(body))


class Draft:
    """A letter while its batch is applied. `write` is called in the thread of the store."""

    def __init__(
        self,
        outbox: Outbox,
        ops: Sequence[AnyOp],
        items: list[Tellable],
        events_of: EventsOf,
        *,
        is_cut: bool,
    ) -> None:
        self._outbox = outbox
        self._ops = ops
        self._items = items
        self._is_cut = is_cut
        self._events_of = events_of
        self._events: list[Event] = []
        self._is_written = False

    def write(self, replies: Sequence[Reply | TqError]) -> Letter | None:
        """The letter of what was done, if it tells anything. A batch that is tried again writes it again."""
        self._events = self._events_of(replies)
        told = [*self._items, *(event for event in self._events if isinstance(event, Tellable))]
        stirs = any(map(_stirs, self._ops, replies))
        self._is_written = bool(told or stirs or self._is_cut)
        if not self._is_written:
            return None
        if len(told) > EVENTS_MAX:
            return self._outbox.letter(Body([], stirs=True, cut=True))
        return self._outbox.letter(Body(told, stirs=stirs, cut=self._is_cut))

    def sent(self) -> list[Event]:
        """The batch is committed, and the letter with it; the events of the batch."""
        if self._is_written:
            self._outbox.number += 1
            self._outbox.was_sent()
        return self._events

    def put_back(self) -> None:
        """Nothing was committed."""
        self._outbox.put_back(self._items, is_cut=self._is_cut)


def _stirs(op: AnyOp, reply: Reply | TqError) -> bool:
    """Whether tasks may have become pending of which no event tells."""
    match op, reply:
        case Promote(), Swept():
            return reply.count > 0
        case Recover(), Recovered():
            return reply.pending > 0
        case _:
            return False
