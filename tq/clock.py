"""Where time, chance and identity come from. Everything else is handed them.

The only module, with the command line, that may ask the machine what time it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Final, Protocol, TypeVar

import trio

from tq.core.task import TaskId

T = TypeVar("T")

CHANCE: Final[Random] = SystemRandom()
"""The machine's own chance. It has no seed, which the processes after a fork would share."""


class Clock(Protocol):
    """Wall time and monotonic time from one object, so that virtual time moves both together."""

    def now_ms(self) -> int:
        """The instant now: Unix milliseconds, UTC. May jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. Agrees with trio's deadlines."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """The instant now: Unix milliseconds, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Trio's own time, so that it can be compared with deadlines."""
        return trio.current_time()


class FollowingClock:
    """*clock*, whose wall time is put right by that of a store that judges by a clock of its own.

    It is moved no further than it must be: the way to the store and back takes its time, too.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_ms = 0
        """How far what this shows is ahead of *clock*."""

    def now_ms(self) -> int:
        """The instant now, by the store: Unix milliseconds, UTC."""
        return self._clock.now_ms() + self.ahead_ms

    def monotonic(self) -> float:
        """As *clock*: time that passes is the same everywhere."""
        return self._clock.monotonic()

    def follow(self, judged_at: int, asked_at: int) -> None:
        """Show what agrees with this: the store read *judged_at* at some moment since *asked_at*."""
        self.ahead_ms += min(0, judged_at - asked_at) + max(0, judged_at - self.now_ms())


def monotonic_s() -> float:
    """Seconds from an arbitrary start, outside trio."""
    return time.monotonic()


def sleep_s(seconds: float) -> None:
    """Block this thread for *seconds*."""
    time.sleep(seconds)


async def sleep_here(seconds: float) -> None:
    """Sleep for *seconds* in the loop that runs this, be it trio's or asyncio's."""
    if trio.lowlevel.in_trio_task():
        await trio.sleep(seconds)
    else:
        # Whoever is in its loop has it; `tq --help` need not load it.
        import asyncio

        await asyncio.sleep(seconds)


class RunSync(Protocol):
    """Runs a blocking function without blocking the loop: in a thread, or inline under virtual time.

    Not cancellable half way: it returns when the function has.
    """

    async def __call__(self, function: Callable[[], T], /) -> T:
        """What *function* returns or raises."""
        ...


async def run_in_thread(function: Callable[[], T], /) -> T:
    """Run blocking *function* in a thread of trio's cache."""
    return await trio.to_thread.run_sync(function)


class IdMaker:
    """Makes ids: a prefix, ``task-`` for tasks, and 32 hexadecimal digits, sorted by the time they were made.

    Twelve digits of Unix milliseconds, four that count within one, sixteen of chance.
    """

    def __init__(self, clock: Clock, random: Random, *, prefix: str = "task-") -> None:
        self._prefix = prefix
        self._clock = clock
        self._random = random
        self._last_ms = 0
        self._count = 0

    def __call__(self) -> TaskId:
        """A new id, greater than every one made here before."""
        now = self._clock.now_ms()
        if now > self._last_ms:
            self._last_ms, self._count = now, 0
        else:
            self._count += 1
            if self._count > 0xFFFF:
                self._last_ms, self._count = self._last_ms + 1, 0
        return TaskId(
            f"{self._prefix}{self._last_ms:012x}{self._count:04x}{self._random.getrandbits(64):016x}"
        )
