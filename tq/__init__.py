"""tq: a task queue server in one process, spoken to over HTTP.

What a module of handlers needs is here: ``from tq import TaskQueue, Context``.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Cancel", "Context", "Retry", "RetryPolicy", "Snooze", "TaskQueue"]

if TYPE_CHECKING:
    from tq.core.retry import RetryPolicy
    from tq.handlers import Cancel, Context, Retry, Snooze, TaskQueue


def __getattr__(name: str) -> object:
    # On first use: `tq --help` need not wait for trio to be imported.
    if name not in __all__:
        raise AttributeError(f"module 'tq' has no attribute {name!r}")
    from tq import handlers

    return getattr(handlers, name)
