"""The streams of this process: made whole before a command runs, and what became of its output.

Knows no command.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import Final

from tq.cli.exits import Exit, say

_OF_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Why what is written cannot be: where it goes is full, too large, broken or closed."""


def open_streams() -> None:
    """Give this process the streams that it was started without.

    Otherwise the first file that is opened would be what is printed to. Nothing can be read from such a
    stdin, and writing to such a stdout fails, as it should: what was asked for goes nowhere.
    """
    # In the order of their numbers: each takes the lowest that is free.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def lost_output(error: OSError) -> Exit | None:
    """The exit code if *error* is that the output cannot be written; None if it is something else.

    A reader that has enough, as ``head``, is no fault. Nothing more reaches a stream that is lost.
    """
    if isinstance(error, BrokenPipeError):
        # Both are looked at: they may be one pipe.
        if not sum(map(_is_left, (1, 2))):
            return None
        code = Exit.OK
    elif error.errno in _OF_OUTPUT and error.filename is None:
        code = say(f"the output cannot be written: {error.strerror}", Exit.CANNOT_WRITE)
    else:
        return None
    drop(1)
    return code


def _is_left(number: int) -> bool:
    """Whether nobody reads the pipe *number* any more; if so, it is dropped."""
    poll = select.poll()
    poll.register(number, 0)
    is_left = any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
    if is_left:
        drop(number)
    return is_left


def drop(number: int) -> None:
    """Have what is written to *number* go nowhere: the interpreter still writes what it has kept."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
