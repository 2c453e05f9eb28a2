"""What the reference model knows of servers: who lives, who leads, what they tell each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import trio
from msgspec.structs import replace

from tq.core import ops
from tq.core.ops import LETTER_KEPT_MS, Letter
from tq.core.queries import LETTERS_MAX, SERVERS_MAX, Seat, ServerRow, Sweeper
from tq.core.task import Json, ServerId, State, Task
from tq.storage.memory_rows import Rows


class Fleet:
    """The servers by id, the leader, and the letters with the instants at which they were written."""

    def __init__(self) -> None:
        self.leader: tuple[ServerId, int] | None = None
        self.bells = Bells()
        self._rows: dict[ServerId, ServerRow] = {}
        self._letters: dict[tuple[ServerId, int], tuple[Letter, int]] = {}

    def beat(self, op: ops.Beat, now: int) -> ops.Beaten:
        """See ops.Beat."""
        before = self._rows.get(op.server)
        if op.gone:
            self._rows.pop(op.server, None)
        else:
            said: Json | None = op.said
            edition = op.edition
            if said is None:
                said, edition = (None, 0) if before is None else (before.said, before.edition)
            seen_at = now if before is None else max(before.seen_at, now)
            self._rows[op.server] = ServerRow(op.server, seen_at, said, edition)
        return ops.Beaten(known=before is not None)

    def see(self, server: ServerId, now: int) -> bool:
        """See Store.beat."""
        row = self._rows.get(server)
        if row is not None:
            self._rows[server] = replace(row, seen_at=max(row.seen_at, now))
        return row is not None

    def is_dead(self, server: ServerId, op: ops.Recover) -> bool:
        """See ops.Recover."""
        row = self._rows.get(server)
        return server != op.server and (row is None or row.seen_at < op.dead_before)

    def lost(self, tasks: Iterable[Task], op: ops.Recover) -> list[Task]:
        """Those of *tasks* that a dead server runs."""
        running = (task for task in tasks if task.state is State.RUNNING)
        return [task for task in running if task.server is not None and self.is_dead(task.server, op)]

    def is_to_sweep(self, asker: Sweeper, rows: Rows) -> bool:
        """See queries.News."""
        if asker.dead_before is not None:
            op = ops.Recover(asker.server, asker.dead_before)
            is_somebody_dead = any(self.is_dead(server, op) for server in self._rows)
            if is_somebody_dead or rows.unsettled or self.lost(rows.tasks.values(), op):
                return True
        is_outlived = any(instant <= asker.now for instant in rows.kept_until())
        return is_outlived or bool(self._old_letters(asker.now))

    def forget_dead(self, op: ops.Recover) -> None:
        """What they ran has been taken back."""
        for server in [server for server in self._rows if self.is_dead(server, op)]:
            del self._rows[server]

    def lead(self, op: ops.Lead, now: int) -> ops.Led:
        """See ops.Lead."""
        if self.leader is not None and self.leader[1] > now and self.leader[0] != op.server:
            return ops.Led(is_leader=False, left_ms=self.leader[1] - now)
        if op.gone:
            self.leader = None
            return ops.Led(is_leader=False, left_ms=0)
        self.leader = (op.server, now + ops.LEAD_MS)
        return ops.Led(is_leader=True, left_ms=ops.LEAD_MS)

    def listed(self) -> tuple[ServerRow, ...]:
        """See queries.GetServers."""
        return tuple(self._rows[server] for server in sorted(self._rows))[:SERVERS_MAX]

    def seats(self) -> tuple[Seat, ...]:
        """See queries.News."""
        return tuple(
            Seat(row.server, row.edition, max((n for s, n in self._letters if s == row.server), default=0))
            for row in self.listed()
        )

    # Letters

    def keep(self, letter: Letter, now: int) -> None:
        """Keep a letter written *now*."""
        name = (letter.server, letter.number)
        assert name not in self._letters, f"{letter.server} has written letter {letter.number} before"
        self._letters[name] = (letter, now)

    def unread(self, read: Sequence[tuple[ServerId, int]]) -> tuple[Letter, ...]:
        """See queries.GetNews."""
        last = dict(read)
        found = [
            letter
            for letter, _ in self._letters.values()
            if letter.number > last.get(letter.server, math.inf)
        ]
        return tuple(found[:LETTERS_MAX])

    def numbers(self) -> tuple[tuple[ServerId, int], ...]:
        """The server and the number of each letter, in that order."""
        return tuple(sorted(self._letters))

    def prune(self, op: ops.PruneLetters, now: int) -> ops.Swept:
        """See ops.PruneLetters."""
        old = self._old_letters(now)
        for _, name in old[: op.limit]:
            del self._letters[name]
        return ops.Swept(min(len(old), op.limit), more=len(old) > op.limit)

    def _old_letters(self, now: int) -> list[tuple[int, tuple[ServerId, int]]]:
        return sorted((at, name) for name, (_, at) in self._letters.items() if at <= now - LETTER_KEPT_MS)


class Bells:
    """Wakes the servers of one process that share a store. On the loop that they share."""

    def __init__(self) -> None:
        self._open: dict[MemoryWake, None] = {}

    def open(self, server: ServerId) -> MemoryWake:
        """One more that hears."""
        wake = MemoryWake(self, server)
        self._open[wake] = None
        return wake

    def ring(self, server: ServerId) -> None:
        """Let everybody hear that *server* rang."""
        for wake in self._open:
            wake.heard(server)

    def drop(self, wake: MemoryWake) -> None:
        """It hears nothing more."""
        self._open.pop(wake, None)


class MemoryWake:
    """See Wake."""

    def __init__(self, bells: Bells, server: ServerId) -> None:
        self._bells = bells
        self._server = server
        self._rung = trio.Event()
        self._rung_by: set[ServerId] = set()

    def ring(self) -> None:
        self._bells.ring(self._server)

    def ping(self) -> None:
        self.heard(self._server)

    def heard(self, server: ServerId) -> None:
        """*server* rang."""
        self._rung_by.add(server)
        self._rung.set()

    async def wait(self) -> bool:
        await self._rung.wait()
        self._rung = trio.Event()
        rung_by, self._rung_by = self._rung_by, set()
        return rung_by != {self._server}

    def close(self) -> None:
        self._bells.drop(self)
