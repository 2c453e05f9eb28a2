"""What a handler's return or exception means, as an Outcome.

Pure: values and exceptions in, outcomes out. The worker and the child process judge by the same rules.
It knows nothing of time, scopes and stores.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec
import outcome as outcome_library
import trio
from msgspec import structs

from tq import context
from tq.core.errors import PayloadInvalid, UnknownType
from tq.core.task import Cancel, Failure, Json, Reason, Snooze, Success, cut_text, storable
from tq.core.wire import PAYLOAD_MAX

Said = Success | Failure | Snooze | Cancel
"""What a handler itself can say."""

TRACEBACK_FRAMES_MAX: Final = 50

_ENGINE: Final = Path(__file__).parent
_MACHINERY: Final = tuple(
    f"{folder}/"
    for folder in (
        _ENGINE,
        _ENGINE.parent / "cli",
        Path(trio.__file__).parent,
        Path(outcome_library.__file__).parent,
    )
)
"""Where the frames lie that a traceback has above the handler's own."""

_LIBRARIES: Final = (
    *_MACHINERY,
    f"{_ENGINE.parent}/",
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<frozen ",
)
"""Where the frames lie that a traceback has below the handler's own: code that it only calls."""
FRAME_MAX: Final = 200
"""Characters kept of where an exception was raised."""


def success(value: object) -> Success | Failure:
    """The outcome of a handler that returned *value*: Success if JSON can hold it."""
    try:
        result = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as fault:
        return _bad_result("ResultNotJson", f"the handler returned what JSON cannot hold: {fault}")
    if len(result) > PAYLOAD_MAX:
        return _bad_result(
            "ResultTooLarge", f"the result has {len(result)} bytes, at most {PAYLOAD_MAX} are kept"
        )
    return Success(Json(result.decode()))


def _bad_result(type: str, message: str) -> Failure:
    # The work was done, and doing it again would give the same: never retried.
    return Failure(reason=Reason.ERROR, type=type, message=message, retryable=False)


def outcome_of(fault: BaseException) -> Said:
    """What raising *fault* means. A group of one, however deep, is that one."""
    while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    match fault:
        case context.Snooze():
            return Snooze(fault.delay_ms)
        case context.Cancel():
            return Cancel(cut_text(_message_of(fault)))
        case context.Retry():
            return structs.replace(_failure(fault), retry_after_ms=fault.after_ms)
        case _:
            return _failure(fault)


def refused(refusal: UnknownType | PayloadInvalid) -> Failure:
    """The failure of a task that no handler can take as it is: trying again would not help."""
    return Failure(reason=Reason.ERROR, type=type(refusal).__name__, message=refusal.message, retryable=False)


def _failure(fault: BaseException) -> Failure:
    return Failure(
        reason=Reason.ERROR,
        type=type(fault).__qualname__,
        message=cut_text(_message_of(fault)),
        traceback=traceback_of(fault),
        frame=frame_of(fault),
    )


def _message_of(fault: BaseException) -> str:
    try:
        return storable(str(fault))
    except Exception as worse:
        return f"(its message cannot be shown: {type(worse).__name__})"


def traceback_of(fault: BaseException) -> str:
    """The traceback of *fault* from the handler's own frames on, within what is kept."""
    try:
        lines = traceback.format_exception(
            type(fault), fault, _own_frames(fault.__traceback__), limit=-TRACEBACK_FRAMES_MAX
        )
        return cut_text(storable("".join(lines)))
    except Exception as worse:
        return f"(its traceback cannot be shown: {type(worse).__name__})"


def frame_of(fault: BaseException) -> str | None:
    """Where *fault* was raised, ``file.py:function``: the innermost frame that is no library's, if any."""
    frames = list(_frames(_own_frames(fault.__traceback__)))
    if not frames:
        return None
    own = [frame for frame in frames if not frame.tb_frame.f_code.co_filename.startswith(_LIBRARIES)]
    code = (own or frames)[-1].tb_frame.f_code
    return storable(f"{Path(code.co_filename).name}:{code.co_qualname}")[:FRAME_MAX]


def _frames(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def _own_frames(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        frames = frames.tb_next
    return frames
