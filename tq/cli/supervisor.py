"""What a service manager such as systemd is told of the server, by the protocol of sd_notify(3).

Nothing is said where nobody listens: no environment variable, no socket, no cost.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio

from tq.core.events import Event, ServerDraining, ServerStarted

BEATS_PER_TIMEOUT: Final = 3
"""Signs of life in the time after which the service manager would give the server up."""
US_PER_S: Final = 1_000_000


class Supervisor:
    """The service manager that *environ* speaks of, if it does.

    Told that the server is ready once it listens, that it stops once it drains, and meanwhile, if it asked
    for that, that the event loop turns. What cannot be sent is dropped: no server ends for that.

    Args:
        environ: ``NOTIFY_SOCKET``, the address of a datagram socket, ``@`` for an abstract one;
            ``WATCHDOG_USEC``, microseconds of silence that it takes for death; ``WATCHDOG_PID``, whose.
        pid: Of this process.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.beat_every_s = _beat_every_s(environ, pid)

    def hear(self, event: Event) -> None:
        """Pass on what of *event* concerns the service manager."""
        match event:
            case ServerStarted():
                self._say("READY=1")
            case ServerDraining():
                self._say("STOPPING=1")
            case _:
                pass

    async def run(self) -> None:
        """Say that the event loop turns, as often as it was asked for. Ends only by cancellation."""
        if self.beat_every_s is None:
            await trio.sleep_forever()
        while True:
            self._say("WATCHDOG=1")
            await trio.sleep(self.beat_every_s)

    def _say(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)


def _beat_every_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between signs of life; None where none is asked for, or of another process."""
    timeout_us = environ.get("WATCHDOG_USEC", "")
    if not timeout_us.isdecimal() or not int(timeout_us):
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(timeout_us) / US_PER_S / BEATS_PER_TIMEOUT
