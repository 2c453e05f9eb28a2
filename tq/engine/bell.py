"""A bell: something to do may be there. Rings while nobody listens are kept as one."""

from __future__ import annotations

import trio


class Bell:
    """Wakes one listener. A ring is never lost, many rings before a wait are one."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        self._rung.set()

    def silence(self) -> None:
        """Forget earlier rings: call it before looking at what the bell stands for."""
        if self._rung.is_set():
            self._rung = trio.Event()

    async def wait_rung(self) -> None:
        """Return at once if it rang since it was last silenced, else when it rings; then silence it."""
        await self._rung.wait()
        self._rung = trio.Event()
