"""tq: a task queue server in one process, spoken to over HTTP.

What a module of handlers needs is here: ``from tq import TaskQueue, Context``; and what a program that
submits needs: ``from tq import Client``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Cancel",
    "Client",
    "Context",
    "Retry",
    "Snooze",
    "TaskCancelled",
    "TaskFailed",
    "TaskQueue",
]

if TYPE_CHECKING:
    from tq.client.async_ import AsyncClient
    from tq.client.errors import TaskCancelled, TaskFailed
    from tq.client.sync import Client
    from tq.context import Cancel, Context, Retry, Snooze
    from tq.handlers import TaskQueue

_MODULES = {
    "AsyncClient": "tq.client.async_",
    "Client": "tq.client.sync",
    "TaskCancelled": "tq.client.errors",
    "TaskFailed": "tq.client.errors",
    "TaskQueue": "tq.handlers",
}
"""Where the names are that are not of ``tq.context``."""


def __getattr__(name: str) -> object:
    # On first use: `tq --help` need not wait for trio to be imported, nor a client for the handlers.
    if name not in __all__:
        raise AttributeError(f"module 'tq' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "tq.context")), name)
