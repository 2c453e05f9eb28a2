"""How many more tasks may start now, by the limits of their queues and keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Final

from tq.core.limits import DEFAULT_RULES, NO_LIMITS, Limits, QueueRules, Rate
from tq.storage.book import Book, Group

BY_CAP: Final = -1
"""Held back until one that runs has ended. Instants are never negative."""


def rates_of(book: Book, group: Group) -> Iterator[tuple[Group, Rate]]:
    """The rates that hold for *group*, and by what names the book keeps them."""
    queue, key = group
    rules = book.rules.get(queue, DEFAULT_RULES)
    if rules.limits.rate is not None:
        yield (queue, None), rules.limits.rate
    if key is not None and rules.per_key.rate is not None:
        yield (queue, key), rules.per_key.rate


class Room:
    """What the limits of queues and keys leave at *now*, as the book has it when this is made."""

    def __init__(self, book: Book, now: int) -> None:
        self._book = book
        self._now = now
        self._running = Counter[Group]()
        self._running_in = Counter[str]()
        for lane, count in book.running.items() if book.rules else ():
            queue, _, key = book.names[lane]
            self._running[queue, key] += count
            self._running_in[queue] += count
        self._unused_key = {
            queue: self._left(rules.per_key, 0, 0)
            for queue, rules in book.rules.items()
            if rules.per_key != NO_LIMITS
        }
        """How many may start of a key that nothing is known of, of the queues whose keys have limits."""

    def in_queue(self, queue: str) -> float:
        """How many tasks of *queue* may start; infinitely many where nothing limits them."""
        limits = self._rules(queue).limits
        return self._left(limits, self._running_in[queue], self._book.tats.get((queue, None), 0))

    def under_key(self, queue: str, key: str | None) -> float:
        """How many tasks under *key* may start, as far as the key's own limits go."""
        if key is None or queue not in self._unused_key:
            return inf
        group = (queue, key)
        if group not in self._running and group not in self._book.tats:
            return self._unused_key[queue]
        limits, running = self._rules(queue).per_key, self._running[group]
        return self._left(limits, running, self._book.tats.get(group, 0))

    def _left(self, limits: Limits, running: int, tat_us: int) -> float:
        left = inf
        if limits.concurrency is not None:
            left = max(0, limits.concurrency - running)
        if limits.rate is not None:
            left = min(left, limits.rate.allowance(tat_us, self._now))
        return left

    def held_back(self, lanes: list[int]) -> tuple[int | None, bool]:
        """When a rate lets the next waiting task of *lanes* through, and whether one waits for an end."""
        names, waiting = self._book.names, self._book.waiting
        # Whatever its key does not hold back is held back as what has no key.
        groups = {
            (queue, None if self.under_key(queue, key) > 0 else key)
            for queue, _, key in [names[lane] for lane in lanes if lane in waiting]
        }
        causes = {self._held_back(group) for group in groups}
        instants = [cause for cause in causes if cause is not None and cause != BY_CAP]
        return min(instants, default=None), BY_CAP in causes

    def _held_back(self, group: Group) -> int | None:
        """BY_CAP, or the instant until which a rate holds *group* back, or None."""
        queue, key = group
        rules = self._rules(queue)
        if self._is_full(rules.limits, self._running_in[queue]):
            return BY_CAP
        if key is not None and self._is_full(rules.per_key, self._running[group]):
            return BY_CAP
        tats = self._book.tats
        instants = [
            rate.allowed_at(tats[name])
            for name, rate in rates_of(self._book, group)
            if name in tats and not rate.allowance(tats[name], self._now)
        ]
        return max(instants, default=None)

    def _is_full(self, limits: Limits, running: int) -> bool:
        return limits.concurrency is not None and running >= limits.concurrency

    def _rules(self, queue: str) -> QueueRules:
        return self._book.rules.get(queue, DEFAULT_RULES)
