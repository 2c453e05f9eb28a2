"""tq: a task queue server in one process, spoken to over HTTP.

What a module of handlers needs is here: ``from tq import TaskQueue, Context``.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Cancel", "Context", "Retry", "Snooze", "TaskQueue"]

if TYPE_CHECKING:
    from tq.context import Cancel, Context, Retry, Snooze
    from tq.handlers import TaskQueue


def __getattr__(name: str) -> object:
    # On first use: `tq --help` need not wait for trio to be imported.
    if name not in __all__:
        raise AttributeError(f"module 'tq' has no attribute {name!r}")
    from tq import context, handlers

    return getattr(handlers if name == "TaskQueue" else context, name)
