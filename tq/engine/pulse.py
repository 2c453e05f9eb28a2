"""How late the loop is: what holds it up holds up every task and every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

PULSE_EVERY_S: Final = 1.0


async def run_pulse(tell: Callable[[float], None]) -> None:
    """*tell* every PULSE_EVERY_S by how many seconds the loop was late, until cancelled."""
    while True:
        due = trio.current_time() + PULSE_EVERY_S
        await trio.sleep_until(due)
        tell(trio.current_time() - due)
