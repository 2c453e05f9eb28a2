"""How a command ends: exit codes, and the one line that says why."""

from __future__ import annotations

import sys
from contextlib import suppress
from enum import IntEnum
from typing import Final

from tq.logs import printable


class Exit(IntEnum):
    """What an exit code of ``tq`` means. Stable: scripts may rely on it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANNOT_BIND = 3
    CANNOT_OPEN_STORE = 4
    CANNOT_LOAD_APP = 5
    UNREACHABLE = 6
    REFUSED = 7
    NOT_FOUND = 8
    NOT_NOW = 9
    TASK_FAILED = 10
    TASK_CANCELLED = 11
    TASK_NOT_FINISHED = 12
    NOT_ALLOWED = 13
    CANNOT_WRITE = 14
    INTERRUPTED = 130


EXIT_MEANINGS: Final = {
    Exit.OK: "all went well",
    Exit.FAILED: "a fault of tq itself; for `tq doctor` and `tq db check`, a check that failed",
    Exit.USAGE: "a wrong command, flag or setting",
    Exit.CANNOT_BIND: "the address cannot be listened on, or is in use",
    Exit.CANNOT_OPEN_STORE: "the store cannot be opened or copied into, or another process has it",
    Exit.CANNOT_LOAD_APP: "the app cannot be loaded",
    Exit.UNREACHABLE: "no server answers at the URL",
    Exit.REFUSED: "the server refused the request",
    Exit.NOT_FOUND: "the server has no such task, schedule or route",
    Exit.NOT_NOW: "the server cannot do it now: the same may work later",
    Exit.TASK_FAILED: "the task that was waited for failed",
    Exit.TASK_CANCELLED: "the task that was waited for was cancelled",
    Exit.TASK_NOT_FINISHED: "the task that was waited for has not finished in time",
    Exit.NOT_ALLOWED: "the server does not allow it to you, or does not know your key",
    Exit.CANNOT_WRITE: "the output cannot be written: the disk is full, or stdout is closed",
    Exit.INTERRUPTED: "stopped at once: by a third signal, by Ctrl+C in a command that only asks, or by a no",
}


class Fault(Exception):
    """Ends the command with *code* after one line that says why."""

    def __init__(self, code: Exit, line: str) -> None:
        super().__init__(line)
        self.code = code
        self.line = line


def say(line: str, code: Exit) -> Exit:
    """Write *line* to stderr, on one line with nothing a terminal would obey, and return *code*."""
    with suppress(OSError):
        # Where nobody can be told, the code still tells.
        print("tq:", printable(" ".join(line.split())), file=sys.stderr)
    return code
