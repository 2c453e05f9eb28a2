"""What a server knows of the others that share its store: who lives, who leads, what they commit.

Nothing here is needed for a promise to be kept: leases are fenced by their generations, and every op is
guarded in itself. It is about not waiting, and about not doing the same twice. A server that has its store
to itself leads, has no others, and asks nothing.

How two servers come to hear each other, so that no event is missed between: each says, in what it tells
with its heartbeat, for which sessions of others it writes letters (``hears``). It writes them from before
that heartbeat on, and its batches are committed one after another; so who reads in its row that it is heard
itself knows that everything committed later is in a letter. Until then, and whenever letters are missing,
everybody who watches looks anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace

from tq.clock import Clock, RunSync
from tq.core.errors import StorageUnavailable
from tq.core.events import Event, LeaderElected, ServerRejoined
from tq.core.ops import LETTER_KEPT_MS, Announce, Beat, Beaten, Lead, Led, Letter
from tq.core.queries import LETTERS_MAX, GetNews, GetServers, Held, News, Seat, ServerRow, Sweeper
from tq.core.servers import DEAD_AFTER_MS, ServerInfo, read_server, server_text
from tq.core.task import ServerId
from tq.core.wire import TypeDefaults
from tq.engine.backoff import Backoff
from tq.engine.bell import Bell
from tq.engine.feed import Feed
from tq.engine.ledger import Ledger
from tq.engine.letters import Outbox, read_body
from tq.engine.pool import Pool, Stop
from tq.engine.ring import Told
from tq.engine.watchers import Watchers
from tq.storage.store import Store

BEAT_EVERY_S: Final = 5.0
BESIDE_AFTER_S: Final = 6.0
"""A heartbeat that is late by more than a second is made up for beside the batches,"""
BESIDE_EVERY_S: Final = 2.0
BESIDE_MAX_S: Final = 60.0
"""but no longer than this: who can commit nothing must not keep what it runs from the others for ever."""
JUDGE_AFTER_S: Final = 6.0
"""A server calls others dead only if it has reached the store all this time: after an outage of the store
every heartbeat is old, and the others get the time for one more."""
NEWS_EVERY_S: Final = 1.0
"""The news are asked for this often, woken or not."""
NEWS_GAP_S: Final = 0.02
"""And no more often than this, however often others ring."""
RINGING_S: Final = 0.1
"""Others ring, if the last ring is no older: two of the gaps that a server leaves between its rings."""
SWEEP_EVERY_S: Final = 1.0
"""Who has its store to itself sweeps this often."""
SWEEP_GAP_S: Final = 0.9
"""The news are asked no more often than this whether there is something to sweep: once of every time that
nobody rang."""
TIDY_EVERY_S: Final = 60.0
"""And then, or after this long, what has been swept includes what no promise depends on."""
FLUSH_S: Final = 0.25
"""What no commit tells, such as a line of log, waits so long for a letter to go with."""
FORGET_S: Final = 2 * LETTER_KEPT_MS / 1000
"""Where one is in the letters of a server that is gone is known for so long."""
BEHIND_S: Final = LETTER_KEPT_MS / 2000
"""Who has read no letters for so long may have missed some."""


class Fleet:
    """The others, as one server knows them. Valid while its services run.

    ``others`` are the servers there are, by id; ``session`` how often this one has joined them. ``rung``
    rings when the others are to be woken.

    Args:
        describe: What this server says of itself, but for what is known here.
        types: Those that this server handles; None: any.
    """

    def __init__(
        self,
        server: ServerId,
        store: Store,
        ledger: Ledger,
        *,
        types: tuple[str, ...] | None,
        clock: Clock,
        run_sync: RunSync,
        pool: Pool,
        feed: Feed,
        watchers: Watchers,
        emit: Callable[[Event], None],
        describe: Callable[[], ServerInfo],
    ) -> None:
        self.is_shared = not store.exclusive
        self.others: dict[ServerId, ServerInfo] = {}
        self.session = 1
        self.is_leaving = False
        self.rung = Bell()
        self._server = server
        self._store = store
        self._ledger = ledger
        self._types = types
        self._clock = clock
        self._run_sync = run_sync
        self._pool = pool
        self._feed = feed
        self._watchers = watchers
        self._outbox: Outbox = watchers.outbox
        self._outbox.was_sent = self.rung.ring
        self._emit = emit
        self._describe = describe
        self._to_beat = Bell()
        self._to_read = Bell()
        self._has_beaten = False
        self._asked_at = self._answered_at = clock.monotonic()
        """When the last heartbeat that was answered was asked for, and when it was answered."""
        self._hears: dict[ServerId, int] = {}
        self._edition = 0
        self._leads_until = -math.inf if self.is_shared else math.inf
        self._lead_again_s = 0.0
        self._steady_since = clock.monotonic()
        self._seats: tuple[tuple[ServerId, int], ...] | None = None
        self._read: dict[ServerId, int] = {}
        self._left_at: dict[ServerId, float] = {}
        self._read_at: float | None = None
        self._heard_at = -math.inf
        self._trusted: set[ServerId] = set()
        self._to_sweep = Bell()
        self._sweep_asked_at = -math.inf
        self._reading = trio.Lock()
        self._begun = self._ended = 0

    # Leading

    @property
    def leads(self) -> bool:
        """Whether this server does what one does for all."""
        return self._clock.monotonic() < self._leads_until

    def dead_before(self) -> int | None:
        """See Sweeps."""
        is_steady = self._clock.monotonic() - self._steady_since >= JUDGE_AFTER_S
        return self._clock.now_ms() - DEAD_AFTER_MS if is_steady else None

    async def wait_to_sweep(self) -> None:
        """See Sweeps. In a store that is shared the news tell when, and what they do not look at can wait."""
        with trio.move_on_after(TIDY_EVERY_S if self.is_shared else SWEEP_EVERY_S):
            await self._to_sweep.wait_rung()

    def _sweeper(self, asked_at: float) -> Sweeper | None:
        """For whom the news look whether there is something to sweep, if it is time for that again."""
        if not self.leads or asked_at - self._sweep_asked_at < SWEEP_GAP_S:
            return None
        self._sweep_asked_at = asked_at
        return Sweeper(self._server, self._clock.now_ms(), self.dead_before())

    def _shaken(self) -> None:
        """The store was away, or this server was: others may have been."""
        self._steady_since = self._clock.monotonic()

    # The heart

    def info(self) -> ServerInfo:
        """What this server says of itself now."""
        return replace(
            self._describe(),
            leads=self.leads,
            draining=self.is_leaving,
            session=self.session,
            hears=dict(self._hears),
        )

    async def run_heart(self, backoff: Backoff) -> None:
        """Say that this server lives and wants to lead, for ever. Ends only by cancellation."""
        while True:
            try:
                await self.beat_once()
                backoff.reset()
            except StorageUnavailable:
                self._shaken()
                await backoff.wait()
                continue
            late_s = self._clock.monotonic() - self._asked_at
            with trio.move_on_after(max(0, min(BEAT_EVERY_S, self._lead_again_s) - late_s)):
                await self._to_beat.wait_rung()

    async def beat_once(self) -> None:
        """One heartbeat, and with it the wish to lead. Raises StorageUnavailable."""
        asked_at = self._clock.monotonic()
        session, edition = self.session, self._edition
        said = server_text(self.info())
        beaten, led = await self._ledger.ask_each(
            [
                Beat(self._server, said=said, edition=edition),
                Lead(self._server, gone=self.is_leaving),
            ]
        )
        assert isinstance(beaten, Beaten), beaten
        assert isinstance(led, Led), led
        if asked_at >= self._pool.lease_until:
            # What was claimed before may have been taken back, whether or not it was.
            self._pool.refuse_all()
            self._shaken()
        self._asked_at, self._answered_at = asked_at, self._clock.monotonic()
        self._renew_lease(asked_at)
        if self._has_beaten and not beaten.known and session == self.session:
            self._rejoin()
        self._has_beaten = True
        self._take_lead(led, asked_at)

    def _renew_lease(self, asked_at: float) -> None:
        until = asked_at + DEAD_AFTER_MS / 1000
        if self._pool.lease_until == math.inf or until > self._pool.lease_until:
            self._pool.lease_until = until
        self._pool.room.ring()

    async def run_lifeline(self) -> None:
        """Make up for heartbeats that are stuck behind a batch, for ever. Ends only by cancellation."""
        while True:
            await trio.sleep(BESIDE_EVERY_S)
            with suppress(StorageUnavailable):
                await self.beat_beside()

    async def beat_beside(self) -> None:
        """Where the last heartbeat is late, say beside the batches that this server lives, and no more.

        What a heartbeat says has its place among the batches (see above). That it lives has not: the store
        has either taken back what this server ran, and its row with it, or now knows that it must not yet.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        asked_at = self._clock.monotonic()
        is_late = BESIDE_AFTER_S < asked_at - self._answered_at <= BESIDE_MAX_S
        if not is_late or not self._pool.is_leased:
            return
        beat = partial(self._store.beat, self._server, self._clock.now_ms())
        if await self._run_sync(beat):
            self._renew_lease(asked_at)

    def _take_lead(self, led: Led, asked_at: float) -> None:
        led_before = self.leads
        self._leads_until = asked_at + led.left_ms / 1000 if led.is_leader else -math.inf
        self._lead_again_s = math.inf if led.is_leader or self.is_leaving else led.left_ms / 1000
        if self.leads and not led_before:
            self._emit(LeaderElected(at=self._clock.now_ms(), server=self._server))
            # What was due while nobody led is due now.
            self._feed.note_due(self._clock.now_ms())

    def _rejoin(self) -> None:
        """The others took this server for dead; whether they write letters for it is unknown again."""
        self.session += 1
        self._say_anew()
        self._trusted.clear()
        self._shaken()
        self._to_read.ring()
        self._emit(ServerRejoined(at=self._clock.now_ms(), server=self._server))

    def _say_anew(self) -> None:
        self._edition += 1
        self._to_beat.ring()

    def leave(self) -> None:
        """This server stops: let another lead at once, and show that it drains."""
        self.is_leaving = True
        self._say_anew()

    # The news

    async def run_news(self, backoff: Backoff) -> None:
        """Ask for the news every second, and when another server rings. Ends only by cancellation."""
        while True:
            try:
                self._to_read.silence()
                await self.catch_up()
                backoff.reset()
            except StorageUnavailable:
                self._shaken()
                await backoff.wait()
                continue
            await trio.sleep(NEWS_GAP_S)
            with trio.move_on_after(NEWS_EVERY_S - NEWS_GAP_S):
                await self._to_read.wait_rung()

    def heard(self) -> None:
        """Another server rang."""
        self._heard_at = self._clock.monotonic()
        self._to_read.ring()

    @property
    def others_ring(self) -> bool:
        """Whether another server has rung lately: for what it commits now it may have to wait to ring."""
        return self._clock.monotonic() - self._heard_at < RINGING_S

    async def wait_told(self) -> None:
        """Return when all that a store can show by now has been told, whoever committed it.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        await self._ledger.wait_told()
        if self.is_shared:
            await self.catch_up()

    async def catch_up(self) -> None:
        """Return when the news have been read that were there when this was called. Many readers share one
        question. Raises StorageUnavailable.
        """
        wanted = self._begun + 1
        while self._ended < wanted:
            async with self._reading:
                if self._ended < wanted:
                    await self._read_news()

    async def _read_news(self) -> None:
        self._begun += 1
        number = self._begun
        asked_at = self._clock.monotonic()
        question = GetNews(
            types=self._types,
            held=self._held(),
            due=self.leads,
            sweeper=self._sweeper(asked_at),
            read=tuple(self._read.items()),
        )
        news = await self._run_sync(partial(self._store.read, question))
        self._take_news(news, asked_at)
        while len(news.letters) >= LETTERS_MAX:
            rest = GetNews(types=(), read=tuple(self._read.items()))
            news = await self._run_sync(partial(self._store.read, rest))
            self._take_letters(news.letters)
        seats = tuple((seat.server, seat.edition) for seat in news.seats)
        if seats != self._seats:
            rows = await self._run_sync(partial(self._store.read, GetServers()))
            self._take_rows({row.server: row for row in rows}, news.seats)
            self._seats = seats
        self._ended = number
        if news.unannounced:
            await self._announce()

    async def _announce(self) -> None:
        """Tell of what was submitted in SQL, unless another server does. Raises StorageUnavailable."""
        while (await self._ledger.ask(Announce())).more:
            pass

    def _held(self) -> tuple[Held, ...]:
        """The leases under which something runs."""
        running = (attempt.lease for attempt in self._pool.running if not attempt.concluded)
        return tuple(Held(lease.task_id, lease.generation) for lease in running)

    def _take_news(self, news: News, asked_at: float) -> None:
        if news.pending:
            self._feed.pending.ring()
        if news.to_sweep:
            self._to_sweep.ring()
        self._feed.note_due(news.next_due)
        for held in news.stop:
            self._stop(held, Stop.USER)
        for held in news.lost:
            self._stop(held, Stop.LOST)
        if self._read_at is not None and asked_at - self._read_at > BEHIND_S:
            self._miss()
        self._read_at = asked_at
        self._take_letters(news.letters)
        if self._has_beaten and all(seat.server != self._server for seat in news.seats):
            self._to_beat.ring()

    def _stop(self, held: Held, why: Stop) -> None:
        attempt = self._pool.find(held.task_id)
        if attempt is not None and attempt.lease.generation == held.generation:
            attempt.cancel(why, now=self._clock.monotonic())

    def _miss(self) -> None:
        """What other servers did may not have been told here."""
        self._feed.look_again()

    # Letters

    def _take_letters(self, letters: tuple[Letter, ...]) -> None:
        for letter in letters:
            if letter.number != self._read[letter.server] + 1:
                self._miss()
            self._read[letter.server] = letter.number
            body = read_body(letter.body)
            if body.cut:
                self._miss()
            if body.stirs:
                self._feed.pending.ring()
            for item in body.told:
                if not isinstance(item, Told):
                    self._feed.on_news(item)
                self._watchers.publish(item)

    # Who is there

    def _take_rows(self, rows: Mapping[ServerId, ServerRow], seats: tuple[Seat, ...]) -> None:
        """Know the servers of *rows*; *seats* are somewhat older."""
        infos = {server: read_server(row.said) for server, row in rows.items() if server != self._server}
        self.others = {server: info for server, info in infos.items() if info is not None}
        for seat in seats:
            if seat.server in self.others:
                self._read.setdefault(seat.server, seat.letter)
        self._trust()
        self._forget()
        hears = {server: info.session for server, info in self.others.items()}
        if hears != self._hears:
            self._hears = hears
            self._outbox.is_open = bool(hears)
            self._say_anew()

    def _trust(self) -> None:
        """Note who writes letters for this session. What others committed before they did was not told."""
        trusted = {
            server for server, info in self.others.items() if info.hears.get(self._server) == self.session
        }
        if trusted - self._trusted:
            self._miss()
        self._trusted = trusted

    def _forget(self) -> None:
        now = self._clock.monotonic()
        for server in self._read:
            if server in self.others:
                self._left_at.pop(server, None)
            else:
                self._left_at.setdefault(server, now)
        for server in [server for server, at in self._left_at.items() if now - at > FORGET_S]:
            del self._read[server], self._left_at[server]

    # Types

    def defaults_of(self, type: str) -> TypeDefaults | None:
        """What a submit of *type* means where it says nothing, if another server handles that type."""
        for server in sorted(self.others):
            types = self.others[server].types
            if types is None:
                return TypeDefaults()
            if type in types:
                return types[type]
        return None

    @property
    def types(self) -> frozenset[str]:
        """The types that other servers name."""
        return frozenset(type for info in self.others.values() for type in info.types or ())

    # Telling

    async def run_flush(self, backoff: Backoff) -> None:
        """Write a letter of what no commit came along for, for ever. Ends only by cancellation."""
        while True:
            await self._outbox.waiting.wait_rung()
            await trio.sleep(FLUSH_S)
            try:
                if self._outbox.is_open and not self._outbox.is_empty:
                    await self._ledger.ask_each([])
                backoff.reset()
            except StorageUnavailable:
                await backoff.wait()
