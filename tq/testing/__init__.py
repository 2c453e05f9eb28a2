"""The kit for testing handlers and tq itself: virtual time, and a whole server in this process.

Nothing in tq imports it.
"""

from tq.testing.faults import FaultyStore
from tq.testing.kit import (
    EPOCH_MS,
    VirtualClock,
    finished,
    keep_submits,
    open_server,
    refuse_exit,
    run_inline,
    submit,
)

__all__ = [
    "EPOCH_MS",
    "FaultyStore",
    "VirtualClock",
    "finished",
    "keep_submits",
    "open_server",
    "refuse_exit",
    "run_inline",
    "submit",
]
