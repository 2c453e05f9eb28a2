"""Events as lines on stderr: JSON for programs, text for a terminal. One event, one line, one write.

Which event has which level is the table here. The libraries' own warnings, which come through the
standard `logging`, become lines of the same form. Nothing here asks what time it is: an event says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Final

import msgspec

from tq.core import events
from tq.core.events import Event
from tq.core.task import Reason
from tq.core.views import format_instant

TEXT_MAX: Final = 4_096
"""Characters of one text of a library that a line keeps."""


class Level(IntEnum):
    """How much a line matters; the numbers are those of `logging`."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR


LEVELS: Final[dict[type[Event], Level]] = {
    events.TaskSubmitted: Level.DEBUG,
    events.TaskStarted: Level.DEBUG,
    events.AttemptFinished: Level.INFO,
    events.TaskCancelled: Level.INFO,
    events.TaskRetried: Level.INFO,
    events.TaskUnblocked: Level.DEBUG,
    events.TaskExpired: Level.WARNING,
    events.TaskUpdated: Level.INFO,
    events.TaskDeleted: Level.INFO,
    events.TaskReleased: Level.INFO,
    events.LeaseExpired: Level.WARNING,
    events.LeaseRefused: Level.WARNING,
    events.AttemptOverran: Level.WARNING,
    events.TasksPruned: Level.INFO,
    events.WorkersResized: Level.INFO,
    events.QueueChanged: Level.INFO,
    events.ScheduleChanged: Level.INFO,
    events.ScheduleFired: Level.INFO,
    events.KeyCreated: Level.INFO,
    events.KeyRevoked: Level.INFO,
    events.ServerStarted: Level.INFO,
    events.ServerRejoined: Level.WARNING,
    events.LeaderElected: Level.INFO,
    events.ServerDraining: Level.INFO,
    events.ServerStopped: Level.INFO,
    events.StorageLost: Level.ERROR,
    events.StorageRestored: Level.INFO,
    events.HttpAnswered: Level.INFO,
}

_NAMES: Final = {kind: str(kind.__struct_config__.tag) for kind in LEVELS}
_INSTANTS: Final = frozenset({"retry_at", "tick_at"})
"""Fields besides ``at`` that are instants; a test compares this with the events."""
_COLOURS: Final = {Level.DEBUG: "2", Level.INFO: "32", Level.WARNING: "33", Level.ERROR: "31"}
_encoder = msgspec.json.Encoder()
_BAD: Final = frozenset(Reason) - {Reason.OK, Reason.USER, Reason.PARENT}


class Log:
    """Writes lines of *level* and above by *write*, which must not raise."""

    def __init__(
        self, write: Callable[[bytes], object], *, json: bool, level: Level, colour: bool = False
    ) -> None:
        self._write = write
        self._line = json_line if json else (coloured_line if colour else text_line)
        self._level = level

    def event(self, event: Event) -> None:
        """Write *event*, if its level is high enough."""
        level = level_of(event)
        if level >= self._level:
            self._write(self._line(event.at, level, _NAMES[type(event)], _fields(event)))

    def record(self, record: logging.LogRecord) -> None:
        """Write what a library said, as event ``library.logged``."""
        level = _level_at(record.levelno)
        if level < self._level:
            return
        fields: dict[str, object] = {"logger": record.name, "message": record.getMessage()[:TEXT_MAX]}
        if record.exc_info and record.exc_info[1]:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-TEXT_MAX:]
        self._write(self._line(int(record.created * 1000), level, "library.logged", fields))


def level_of(event: Event) -> Level:
    """The level of *event*: the table's, but an attempt that ended badly is a warning."""
    if isinstance(event, events.AttemptFinished) and event.reason in _BAD:
        return Level.WARNING
    return LEVELS[type(event)]


def _level_at(number: int) -> Level:
    return max((level for level in Level if level <= number), default=Level.DEBUG)


def _fields(event: Event) -> dict[str, object]:
    """The fields of *event* but its instant, those that say nothing left out."""
    fields: dict[str, object] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if value is not None and name != "at":
            fields[name] = format_instant(value) if name in _INSTANTS else value
    return fields


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return format_instant(second * 1000)[:-4]


def _instant(at: int) -> str:
    """As `format_instant`, for instants that come in order, thousands in a second."""
    return f"{_second(at // 1000)}{at % 1000:03d}Z"


def json_line(at: int, level: Level, name: str, fields: dict[str, object]) -> bytes:
    """One line of JSON. Control characters are escaped by JSON itself."""
    line = {"ts": _instant(at), "level": level.name.lower(), "event": name, **fields}
    try:
        return _encoder.encode(line) + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate, which only a library's text can have.
        return _encoder.encode({key: _encodable(value) for key, value in line.items()}) + b"\n"


def text_line(at: int, level: Level, name: str, fields: dict[str, object]) -> bytes:
    """One line for a person: the time, the level, the event, then ``field=value``."""
    words = [_instant(at)[11:23], f"{level.name.lower():7}", f"{name:16}", *_words(fields)]
    return (" ".join(words) + "\n").encode()


def coloured_line(at: int, level: Level, name: str, fields: dict[str, object]) -> bytes:
    """As `text_line`, with the colours of a terminal."""
    colour = _COLOURS[level]
    time = f"\x1b[2m{_instant(at)[11:23]}\x1b[0m"
    head = f"\x1b[{colour}m{level.name.lower():7}\x1b[0m \x1b[1m{name:16}\x1b[0m"
    return (" ".join([time, head, *_words(fields)]) + "\n").encode()


def _words(fields: dict[str, object]) -> list[str]:
    return [f"{name}={_shown(value)}" for name, value in fields.items()]


def _shown(value: object) -> str:
    """*value* on one line, nothing in it that a terminal would obey; quoted if it has spaces."""
    text = str(value)
    if text.isprintable() and " " not in text:
        return text
    return '"' + printable(text).replace('"', '\\"') + '"'


def printable(text: str) -> str:
    r"""*text* with everything that is not printable as an escape such as ``\n`` or ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _encodable(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class _Bridge(logging.Handler):
    """Hands the records of `logging` to a Log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*; a record that cannot be formatted is the library's fault, not ours."""
        try:
            self._log.record(record)
        except (TypeError, ValueError):
            self._log.record(_plain(record))


def _plain(record: logging.LogRecord) -> logging.LogRecord:
    """*record* with its message as it stands, its arguments left out."""
    return logging.makeLogRecord(record.__dict__ | {"msg": str(record.msg), "args": ()})


def route_libraries(log: Log) -> None:
    """Send the warnings of libraries, and those of Python itself, to *log*. For the whole process."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(log)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def open_log(*, format: str, level: str) -> Log:
    """The log on this process's stderr.

    Args:
        format: ``json``, ``text``, or ``auto``: text on a terminal, JSON elsewhere.
        level: Of the least important lines to write, by name.
    """
    terminal = sys.stderr.isatty()
    return Log(
        _write_stderr,
        json=format == "json" or (format == "auto" and not terminal),
        level=Level[level.upper()],
        colour=terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
    )


def _write_stderr(line: bytes) -> None:
    # Whoever read the log may be gone; the tasks go on.
    with contextlib.suppress(OSError):
        os.write(2, line)
