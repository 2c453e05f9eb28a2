"""The kit for testing handlers and tq itself: virtual time, and a whole server in this process.

Nothing in tq imports it.
"""

from tq.testing.kit import EPOCH_MS, VirtualClock, open_server, run_inline

__all__ = ["EPOCH_MS", "VirtualClock", "open_server", "run_inline"]
