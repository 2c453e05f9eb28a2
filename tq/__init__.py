"""tq: a task queue server in one process, spoken to over HTTP."""

__version__ = "0.1.0"
