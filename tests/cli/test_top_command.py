"""``tq top``: the drawing by itself, and the command against a real server and on a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_kit import APP, CallTq, environment, run_tq, serving
from rich.console import Console
from tiers import slow, tiered

from tq.cli.frame import Sample, frame, is_before, picture

pytest_plugins = ("calling",)

NOON = 1_767_268_800.0
"""2026-01-01T12:00:00Z"""


def stats(**totals: int) -> dict[str, Any]:
    zero = dict.fromkeys(("submitted", "succeeded", "failed", "cancelled"), 0)
    states = {"blocked": 0, "scheduled": 2, "pending": 30, "running": 1, "retrying": 0, "succeeded": 9}
    return {"totals": zero | totals, "states": states}


def queue(name: str, *, paused: bool = False, since: str | None = None, **tasks: int) -> dict[str, Any]:
    return {"queue": name, "paused": paused, "tasks": tasks} | ({"pending_since": since} if since else {})


def worker(number: int, **fields: object) -> dict[str, Any]:
    run = {"type": "email", "queue": "mail", "task_id": f"t{number}", "attempt": 1, "overran": False}
    return {"worker": number, "state": "busy", "since": "2026-01-01T11:59:00.000Z"} | run | fields


QUEUES = [
    queue("idle"),
    queue("mail", since="2026-01-01T11:58:00.000Z", pending=30, scheduled=2, running=1, failed=4),
    queue("night", paused=True, pending=1),
]
WORKERS = {
    "min": 2,
    "max": 8,
    "count": 3,
    "busy": 2,
    "workers": [
        worker(1, since="2026-01-01T11:59:58.000Z"),
        {"worker": 2, "state": "idle", "since": "2026-01-01T11:00:00.000Z"},
        worker(3, overran=True),
    ],
}
FAILURES = [
    {"type": "a", "count": 70, "error": {"at": "2026-01-01T11:00:00.000Z", "type": "E", "message": "old"}},
    {
        "type": "b",
        "count": 1,
        "error": {
            "at": "2026-01-01T11:59:50.000Z",
            "type": None,
            "reason": "timeout",
            "message": "\x1b[2Jnew",
        },
    },
]


def server(name: str, **fields: object) -> dict[str, Any]:
    found = {"id": name, "host": "box-1", "pid": 4711, "url": f"http://{name}:8080", "busy": 0, "workers": 5}
    return found | {"seen_at": "2026-01-01T12:00:00.000Z", "leads": False, "draining": False} | fields


SERVERS = [
    server("a", leads=True),
    server("b", busy=4, workers=8, url=None),
    server("c", draining=True, busy=1),
]


def sample(second: float, *, servers: int = 1, **totals: int) -> Sample:
    return Sample(
        at=int((NOON + second) * 1000),
        taken_s=7.0 + second,
        stats=stats(**totals),
        queues=QUEUES,
        workers=WORKERS,
        servers=SERVERS[:servers],
        failures=FAILURES,
    )


def drawn(shown: dict[str, Any], *, width: int = 80, colour: bool = False, **how: Any) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    console.print(frame(shown, url="http://127.0.0.1:8080", **({"now": NOON + 4} | how)))
    return [line.rstrip() for line in file.getvalue().splitlines()]


SHOWN = picture([sample(0, submitted=100, succeeded=90), sample(4, submitted=2100, succeeded=92, failed=2)])

FRAME = """\
tq top  http://127.0.0.1:8080  12:00:04 UTC
per s:  submitted 500  succeeded 0.5  failed 0.5  cancelled 0
blocked 0  scheduled 2  pending 30  retrying 0  running 1

QUEUES
QUEUE  WAITING  RUNNING  OLDEST  FAILED  PAUSED
mail        32        1      2m       4
night        1        0               0  paused
idle         0        0               0

WORKERS: 2 of 3 busy, 2 to 8 wanted
WORKER         FOR  TYPE   QUEUE  TASK  ATTEMPT
3       1m overran  email  mail   t3          1
1               6s  email  mail   t1          1

FAILURES by cause
TYPE  COUNT  LAST  ERROR
b         1   14s  timeout: \\x1b[2Jnew
a        70    1h  E: old
"""


def test_the_frame_shows_rates_queues_workers_and_failures() -> None:
    assert drawn(SHOWN) == FRAME.splitlines()


FLEET = """\
SERVERS 3, 5 of 18 workers busy
SERVER  STATE     BUSY  WORKERS  SEEN  WHERE
b       ready        4        8    4s  box-1 4711
c       draining     1        5    4s  http://c:8080
a       leads        0        5    4s  http://a:8080

WORKERS of the server that is asked: 2 of 3 busy, 2 to 8 wanted
"""


def test_the_frame_shows_the_servers_where_there_are_several() -> None:
    lines = drawn(picture([sample(0, servers=3)]))
    at = lines.index("SERVERS 3, 5 of 18 workers busy")
    assert lines[at : at + 7] == FLEET.splitlines()
    assert lines[at - 2].startswith("idle")


@pytest.mark.parametrize("height", [19, 20, 24])
def test_a_frame_with_servers_fits_its_screen(height: int) -> None:
    lines = drawn(picture([sample(0, servers=3)]), height=height)
    assert len(lines) <= height
    assert any(line.startswith("SERVERS 3") for line in lines)


def test_rates_are_of_the_time_between_the_samples() -> None:
    assert SHOWN["rates"] == {"submitted": 500.0, "succeeded": 0.5, "failed": 0.5, "cancelled": 0.0}
    assert picture([sample(0)])["rates"] == {}
    assert drawn(picture([sample(0)]))[1] == "per s:  submitted –  succeeded –  failed –  cancelled –"


def test_a_store_that_was_lost_begins_the_rates_again() -> None:
    assert is_before(sample(0, submitted=5), sample(1, submitted=5, failed=1))
    assert not is_before(sample(0, submitted=5, failed=1), sample(1, submitted=9))


def test_no_line_is_wider_than_sixty_columns_and_every_number_stays() -> None:
    long = SHOWN | {
        "queues": [queue("q" * 64, pending=123_456_789, running=1)],
        "workers": WORKERS | {"workers": [worker(1, type="t" * 64, task_id="i" * 128)]},
    }
    lines = drawn(long, width=60)
    assert max(map(len, lines)) == 60
    assert len(lines) == 16, "nothing is wrapped"
    assert lines[6].split()[1:] == ["123456789", "1", "0"]
    assert lines[10].split()[:2] == ["1", "1m"]
    assert lines[10].endswith("…        1")


def test_a_low_screen_keeps_what_waits_most_and_says_how_much_there_is() -> None:
    many = SHOWN | {"queues": [queue(f"q{number:02}", pending=number) for number in range(40)]}
    lines = drawn(many, height=24)
    assert len(lines) <= 24
    assert lines[4] == "QUEUES  8 of 40"
    assert [line.split()[0] for line in lines[6:14]] == [
        "q39",
        "q38",
        "q37",
        "q36",
        "q35",
        "q34",
        "q33",
        "q32",
    ]


def test_colours_say_what_is_wrong_and_are_left_out_without_them() -> None:
    coloured = "\n".join(drawn(SHOWN, colour=True))
    assert "\x1b[33mpaused" in coloured
    assert "\x1b[31m1m overran" in coloured
    assert "\x1b" not in "\n".join(drawn(SHOWN))


def test_a_server_that_is_away_is_said_so_above_how_it_was() -> None:
    lines = drawn(SHOWN, away="no server answers", now=NOON + 34)
    assert lines[0] == "tq top  AWAY for 30 s:  no server answers"
    assert lines[6].split() == ["mail", "32", "1", "2m", "4"]


# The command


def test_one_frame_and_one_document_are_of_the_server(url: str, tq: CallTq) -> None:
    tq("submit", "fail", "--wait", TQ_URL=url)
    tq("submit", "sleep", "seconds=30", "--queue", "slow", TQ_URL=url)
    done = tq("top", "--json", TQ_URL=url)
    shown = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert list(shown) == ["url", "at", "rates", "states", "queues", "workers", "servers", "failures"]
    assert shown["rates"] == dict.fromkeys(("submitted", "succeeded", "failed", "cancelled"), 0.0)
    assert [each["queue"] for each in shown["queues"]] == ["default", "slow"]
    assert shown["failures"][0]["error"]["message"] == "no luck"
    for done in (tq("top", "--once", TQ_URL=url), tq("top", TQ_URL=url)):
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out, "this is no terminal"
        assert re.search(r"^\d +\ds +sleep +slow +task-", done.out, re.M)
        assert "ValueError: no luck" in done.out


def test_a_server_that_is_not_there_at_the_start_is_one_line(tmp_path: Path) -> None:
    assert "no server answers" in run_tq("top", "--url", "http://127.0.0.1:1", cwd=tmp_path).refused(6)


class Screen:
    """A terminal of 24 lines of 60 columns, with ``tq top`` on it."""

    def __init__(self, url: str, folder: Path, term: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tq", "top", "--url", url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment() | {"TERM": term, "NO_COLOR": "1"},
        )
        self._theirs = theirs
        self.seen = ""

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def wait_for(self, pattern: str) -> str:
        """What was drawn up to *pattern*, without colours; it is taken off."""
        while (found := re.search(pattern, self.seen)) is None:
            self.seen += os.read(self.ours, 65536).decode(errors="replace")
            self.seen = re.sub(r"\x1b\[[0-9;]*m", "", self.seen)
        told, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return told

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())


@contextmanager
def screen(url: str, folder: Path, term: str = "xterm") -> Iterator[Screen]:
    shown = Screen(url, folder, term)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.ours)
        os.close(shown._theirs)


@pytest.mark.parametrize("term", tiered(["", "dumb"]))
def test_a_terminal_that_can_do_nothing_is_shown_it_once(url: str, tmp_path: Path, term: str) -> None:
    with screen(url, tmp_path, term) as top:
        assert "\x1b" not in top.wait_for(r"no failures|FAILURES by cause")
        assert top.process.wait(timeout=10) == 0


@pytest.mark.parametrize(("keys", "code"), tiered([("q", 0), ("xQ", 0), (None, 130)]))
def test_a_key_leaves_and_the_terminal_is_as_it_was(
    url: str, tmp_path: Path, keys: str | None, code: int
) -> None:
    with screen(url, tmp_path) as top:
        top.wait_for(r"FAILURES by cause")
        assert top.settings() != top.before
        if keys is None:
            top.process.send_signal(signal.SIGINT)
        else:
            top.press(keys)
        top.wait_for(r"\x1b\[\?1049l")
        assert top.process.wait(10) == code
        assert top.settings() == top.before


@slow
def test_a_restart_of_the_server_is_shown_and_outlived(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (server, url), screen(url, tmp_path) as top:
        top.wait_for(r"QUEUES")
        server.terminate()
        server.wait(20)
        top.wait_for(r"AWAY for \d+ s:")
        bind = url.removeprefix("http://")
        again = [sys.executable, "-m", "tq", "serve", "--bind", bind, "--log-level", "error"]
        with subprocess.Popen(again, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
            top.wait_for(rf"tq top  {url}")
            top.press("q")
            assert top.process.wait(10) == 0
            process.kill()
