"""The keys that a server knows: those of its store, kept at hand so that no request waits for a read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from tq.clock import Clock
from tq.core.errors import StorageUnavailable
from tq.core.keys import Key, KeyId
from tq.engine.backoff import Backoff

REFRESH_S: Final = 3.0
"""Seconds between two looks at a shared store: what another server revoked is refused within 5 s."""

ReadKeys = Callable[[], Awaitable[Iterable[Key]]]


class KeyRing:
    """Keys by id, as the store had them last. What this server itself commits is here before its answer."""

    def __init__(self) -> None:
        self._by_id: dict[KeyId, Key] = {}
        self._changed = trio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever made, so that nobody is asked for one. Revoked keys count."""
        return not self._by_id

    def find(self, key_id: str) -> Key | None:
        """The key, good or not; or None."""
        return self._by_id.get(KeyId(key_id))

    def note(self, key: Key) -> None:
        """*key* has been made or changed."""
        self._replace({**self._by_id, key.id: key})

    async def load(self, read: ReadKeys) -> None:
        """Take over what *read* gives, unless something was noted meanwhile. Raises StorageUnavailable."""
        before = self._changed
        found = {key.id: key for key in await read()}
        if self._changed is before and found != self._by_id:
            self._replace(found)

    def _replace(self, keys: dict[KeyId, Key]) -> None:
        self._by_id = keys
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_fault(self, key_id: str, clock: Clock) -> None:
        """Return when the key is good no more."""
        while True:
            changed, key, now = self._changed, self.find(key_id), clock.now_ms()
            if key is None or key.fault(now) is not None:
                return
            left_s = float("inf") if key.expires_at is None else (key.expires_at - now) / 1000
            with trio.move_on_after(left_s):
                await changed.wait()


async def run_keyring(ring: KeyRing, read: ReadKeys, *, backoff: Backoff) -> None:
    """Keep *ring* as a shared store has it, for ever. Ends only by cancellation."""
    while True:
        try:
            await ring.load(read)
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await trio.sleep(REFRESH_S)
