"""``tq serve --reload``: what counts as a change, and a real server that is started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from cli_kit import environment, run_tq
from tiers import slow

from tq.cli import reloading
from tq.cli.reloading import changed, look

APP = """
from tq import TaskQueue

app = TaskQueue()

@app.task("say")
async def say() -> str:
    return "{}"
"""


# Files


def test_python_files_are_seen_and_what_is_none_of_the_app_is_not(tmp_path: Path) -> None:
    for name in ("app.py", "shop/mail.py", "tq.db", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for folder in (".git", "__pycache__", "node_modules", "env"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").touch()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert list(look(tmp_path)) == ["app.py", "shop/mail.py"]


def test_a_change_is_told_by_its_file() -> None:
    before = {"a.py": (1, 1), "b.py": (1, 1)}
    assert changed(before, dict(before)) is None
    assert changed(before, before | {"b.py": (2, 1)}) == "b.py changed"
    assert changed(before, before | {"b.py": (1, 2)}) == "b.py changed"
    assert changed(before, before | {"c.py": (1, 1)}) == "c.py changed"
    assert changed(before, {}) == "a.py and 1 more changed"


def test_no_more_files_are_seen_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "FILES_MAX", 3)
    for number in range(5):
        (tmp_path / f"{number}.py").touch()
    (tmp_path / "3.py").unlink()
    assert list(look(tmp_path)) == ["0.py", "1.py", "2.py"]


# The server


class Reloading:
    """``tq serve --reload`` in a folder, and what it says."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tq", "serve", "--reload", "--bind", "127.0.0.1:0", *flags],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, pattern: str) -> str:
        """The next line that has *pattern*."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"it ended without saying {pattern}")

    def url(self) -> str:
        """Of the server, when it listens."""
        return self.wait_for("listening on").split()[-1]

    def say(self) -> str:
        """What the handler of the server that listens next returns."""
        headers = {"content-type": "application/json", "prefer": "wait=20"}
        request = Request(self.url() + "/v1/tasks", b'{"type": "say"}', headers)
        with urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["result"])


@contextmanager
def reloading_server(folder: Path, *flags: str) -> Iterator[Reloading]:
    server = Reloading(folder, *flags)
    try:
        yield server
    finally:
        # Both: the server is in a group of its own.
        children = _children(server.process.pid)
        server.process.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.communicate()


def _children(pid: int) -> list[int]:
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in done.stdout.split()]


@slow
def test_a_change_starts_the_server_again_and_a_broken_app_waits_for_the_next(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP.format("one"))
    with reloading_server(tmp_path) as server:
        assert server.say() == "one"
        app.write_text(APP.format("two"))
        assert server.wait_for("changed") == "tq: app.py changed: starting again\n"
        assert server.say() == "two"
        app.write_text("def f(:\n")
        server.wait_for("SyntaxError")
        assert server.wait_for("has ended") == (
            "tq: the server has ended (5): a change will start it again\n"
        )
        app.write_text(APP.format("six"))
        assert server.wait_for("changed") == "tq: app.py changed: starting\n"
        assert server.say() == "six"
        server.process.terminate()
        server.wait_for("server.stopped")
        assert server.process.wait(20) == 0


@slow
def test_a_server_in_memory_warns_and_ctrl_c_ends_both(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format("one"))
    with reloading_server(tmp_path, "--store", "memory:") as server:
        server.wait_for("^tq: the store is memory: every task is lost when the server starts again$")
        server.url()
        (child,) = _children(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_broken_app_that_is_given_up_ends_by_its_code(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import nothing_like_this\n")
    with reloading_server(tmp_path) as server:
        server.wait_for("has ended")
        server.process.terminate()
        assert server.process.wait(20) == 5


def test_a_wrong_setting_starts_nothing(tmp_path: Path) -> None:
    assert "--workers: 'x' is not" in run_tq("serve", "--reload", "--workers", "x", cwd=tmp_path).refused(2)
