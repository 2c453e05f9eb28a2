from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from tq.core import events
from tq.core.events import AttemptFinished, Event, ServerStarted, TaskSubmitted
from tq.core.task import Reason, ServerId, State, TaskId
from tq.logs import LEVELS, Level, Log, level_of, open_log, printable, route_libraries

NOON = 1_767_268_800_123
"""2026-01-01T12:00:00.123Z"""


def finished(reason: Reason | None = Reason.OK, *, type: str = "email", retry_at: int | None = None) -> Event:
    return AttemptFinished(
        at=NOON,
        task_id=TaskId("task-1"),
        type=type,
        queue="default",
        state=State.SUCCEEDED,
        reason=reason,
        attempt=1,
        worker=2,
        duration_ms=750,
        wait_ms=3,
        retry_at=retry_at,
    )


def lines(event: Event, *, json: bool, level: Level = Level.DEBUG, colour: bool = False) -> list[str]:
    written: list[bytes] = []
    Log(written.append, json=json, level=level, colour=colour).event(event)
    return [line.decode() for line in written]


def test_an_event_is_one_line_of_json() -> None:
    assert lines(finished(), json=True) == [
        '{"ts":"2026-01-01T12:00:00.123Z","level":"info","event":"attempt.finished","task_id":"task-1",'
        '"type":"email","queue":"default","state":"succeeded","reason":"ok","attempt":1,"worker":2,'
        '"duration_ms":750,"wait_ms":3}\n'
    ]


def test_an_event_is_one_line_of_text() -> None:
    assert lines(finished(), json=False) == [
        "12:00:00.123 info    attempt.finished task_id=task-1 type=email queue=default state=succeeded"
        " reason=ok attempt=1 worker=2 duration_ms=750 wait_ms=3\n"
    ]


def test_colours_are_only_for_a_terminal() -> None:
    (line,) = lines(finished(), json=False, colour=True)
    assert "\x1b[32minfo" in line
    assert "\x1b" not in lines(finished(), json=False)[0]


def test_an_instant_in_an_event_is_readable() -> None:
    (line,) = lines(finished(Reason.ERROR, retry_at=NOON + 1_000), json=True)
    assert json.loads(line)["retry_at"] == "2026-01-01T12:00:01.123Z"


def test_every_instant_of_every_event_is_known() -> None:
    fields = {field for kind in LEVELS for field in kind.__struct_fields__ if field.endswith("_at")}
    assert fields == {"retry_at", "tick_at"}, "tell tq.logs of it"


def test_every_event_has_a_level() -> None:
    assert set(LEVELS) == set(Event.__subclasses__())


def test_an_attempt_that_ended_badly_is_a_warning() -> None:
    assert level_of(finished(Reason.OK)) is Level.INFO
    assert level_of(finished(None)) is Level.INFO
    assert level_of(finished(Reason.USER)) is Level.INFO
    for reason in (Reason.ERROR, Reason.TIMEOUT, Reason.POISON):
        assert level_of(finished(reason)) is Level.WARNING


def test_less_important_events_are_left_out() -> None:
    submitted = TaskSubmitted(at=NOON, task_id=TaskId("t"), type="x", queue="q", state=State.PENDING)
    started = ServerStarted(at=NOON, server=ServerId("s"), workers=5)
    assert lines(submitted, json=True, level=Level.INFO) == []
    assert len(lines(started, json=True, level=Level.INFO)) == 1
    assert lines(started, json=True, level=Level.WARNING) == []


@pytest.mark.parametrize("as_json", [True, False])
def test_no_text_can_forge_a_line_or_command_a_terminal(as_json: bool) -> None:
    event = events.StorageLost(at=NOON, code="x", message='a\nb\r\x1b[2J\x9b"\x7f\u2028 ü')
    (line,) = lines(event, json=as_json)
    assert line.count("\n") == 1
    assert not set("\r\x1b") & set(line)
    if as_json:
        assert json.loads(line)["message"] == event.message
    else:
        assert line.endswith(r'message="a\nb\r\x1b[2J\x9b\"\x7f\u2028 ü"' + "\n")


def test_printable_text_stays_as_it_is() -> None:
    assert printable("Grüße 你好") == "Grüße 你好"
    assert printable("\0\ud800") == r"\x00\ud800"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("format", "stream", "no_colour", "begins"),
    [
        ("auto", io.StringIO(), None, '{"ts":"2026'),
        ("text", io.StringIO(), None, "12:00:00.123 info "),
        ("auto", Terminal(), None, "\x1b[2m12:00:00.123"),
        ("auto", Terminal(), "", "12:00:00.123 info "),
        ("json", Terminal(), None, '{"ts":"2026'),
    ],
)
def test_lines_are_json_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    format: str,
    stream: io.StringIO,
    no_colour: str | None,
    begins: str,
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour is not None:
        monkeypatch.setenv("NO_COLOR", no_colour)
    open_log(format=format, level="info").event(finished())
    assert capfd.readouterr().err.startswith(begins)


@pytest.fixture
def written() -> Iterator[list[dict[str, object]]]:
    """What libraries log, as lines of JSON."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    collected: list[dict[str, object]] = []
    route_libraries(Log(lambda line: collected.append(json.loads(line)), json=True, level=Level.INFO))
    yield collected
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_warnings_of_libraries_become_lines(written: list[dict[str, object]]) -> None:
    logging.getLogger("some.library").info("not this")
    logging.getLogger("some.library").warning("took %d\nseconds", 5)
    (line,) = written
    del line["ts"]
    assert line == {
        "level": "warning",
        "event": "library.logged",
        "logger": "some.library",
        "message": "took 5\nseconds",
    }


def test_an_error_with_a_traceback_keeps_it(written: list[dict[str, object]]) -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("tq.api").exception("a connection")
    assert written[0]["level"] == "error"
    assert str(written[0]["traceback"]).endswith("KeyError: 'lost'\n")


def test_what_cannot_be_formatted_is_written_as_it_stands(written: list[dict[str, object]]) -> None:
    # Handed over directly: pytest's own handler would raise.
    (bridge,) = [each for each in logging.getLogger().handlers if type(each).__module__ == "tq.logs"]
    for message, args in (("%d apples", ("five",)), ("surrogate \ud800", ())):
        record = {"levelno": logging.WARNING, "msg": message, "args": args}
        bridge.handle(logging.makeLogRecord(record))
    assert [line["message"] for line in written] == ["%d apples", "surrogate \\ud800"]
