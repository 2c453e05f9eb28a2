"""What the user can mend ends in one line on stderr, and in a code that says which kind it was."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import tomllib
from pathlib import Path

import pytest
from cli_kit import APP, ROOT, CallTq, Done, run_tq, serving
from tiers import tiered

from tq import __version__
from tq.cli.exits import EXIT_MEANINGS
from tq.cli.main import main

pytest_plugins = ("calling",)


def test_a_port_in_use_is_told_of_before_the_store_is_made(tq: CallTq, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = tq("demo", "--bind", f"127.0.0.1:{port}").refused(3)
    assert line.startswith(f"tq: cannot listen on 127.0.0.1:{port}: the port is in use: ")
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_use_is_told_of_with_its_holder(tq: CallTq, tmp_path: Path) -> None:
    with serving("demo", cwd=tmp_path) as (process, _):
        line = tq("demo", "--bind", "127.0.0.1:0").refused(4)
    assert f"tq-demo.db is in use by process {process.pid}: " in line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///./no/such/folder/tq.db", "no/such/folder"),
        ("sqlite:///./a-folder", "is a folder"),
        ("sqlite:///./not-sqlite", "is not a SQLite database"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused(tq: CallTq, tmp_path: Path, url: str, said: str) -> None:
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "not-sqlite").write_text("hello " * 1000)
    assert said in tq("demo", "--bind", "127.0.0.1:0", "--store", url).refused(4)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--wrkers", "3"], "No such option '--wrkers'"),
        (
            ["serve", "--workers", "none"],
            "--workers: 'none' is not allowed: it must be an integer from 1 to 1000, or two as MIN:MAX",
        ),
        (["demo", "--bind", "0.0.0.0:0"], "there are no keys yet, and without one only loopback"),
        (["sreve"], "No such command 'sreve'"),
        (["submit"], "Missing argument 'TYPE'"),
        (["submit", "x", "--url", "localhost:8080"], "it must begin with http:// or https://"),
        (["tasks", "list", "--url", "http://127.0.0.1:99999"], "a port is 1 to 65535"),
        (["tasks", "list", "--url", "http://127.0.0.1:0"], "a port is 1 to 65535"),
        (["submit", "x", "a"], "'a' is not KEY=VALUE"),
        (["submit", "x", "a=1", "b=2", "a=3"], "a is given twice"),
        (["submit", "x", "--payload", "{"], "--payload {: not JSON"),
        (["submit", "x", "--payload", "@nowhere.json"], "--payload @nowhere.json: No such file"),
        (["submit", "x", "--delay", "soon"], "'soon' is not a duration such as 5, 500ms, 5m or 1h"),
    ],
)
def test_bad_usage_is_one_line(tq: CallTq, args: list[str], said: str) -> None:
    assert said in tq(*args).refused(2)


def test_a_process_of_its_own_refuses_in_the_same_words(tmp_path: Path) -> None:
    assert "No such option '--wrkers'" in run_tq("serve", "--wrkers", "3", cwd=tmp_path).refused(2)
    assert "there is no module 'nowhere'" in run_tq("serve", "nowhere", cwd=tmp_path).refused(5)


def test_a_bad_variable_and_a_bad_file_are_named(tq: CallTq, tmp_path: Path) -> None:
    assert "TQ_WORKERS: 'x' is not" in tq("serve", TQ_WORKERS="x").refused(2)
    assert "--workers: 'y' is not" in tq("serve", "--workers", "y", TQ_WORKERS="x").refused(2)
    (tmp_path / "tq.toml").write_text("wrkers = 3")
    assert "tq.toml: unknown key 'wrkers'" in tq("serve").refused(2)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([], "tq: no TaskQueue in app.py or tasks.py of this directory: name one"),
        (["nowhere"], "tq: there is no module 'nowhere' here or on the Python path"),
        (["empty:app"], "tq: empty:app is nothing, not a TaskQueue: name one, as in tasks:app"),
        (["empty:x"], "tq: empty:x is a int, not a TaskQueue: name one, as in tasks:app"),
        (["empty"], "tq: empty is nothing, not a TaskQueue: name one, as in tasks:app"),
        (["bare:app"], "tq: bare:app has no handlers: add some with @app.task"),
        (["bare.py"], "tq: 'bare.py' looks like a file: name a module, as in tasks:app"),
        ([":app"], "tq: '' is not the name of a module: write one as in tasks:app"),
        ([".bare:app"], "tq: '.bare' is not the name of a module: write one as in tasks:app"),
    ],
)
def test_an_app_that_is_not_there_is_one_line(
    tq: CallTq, tmp_path: Path, target: list[str], said: str
) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "bare.py").write_text("from tq.handlers import TaskQueue\napp = TaskQueue()\n")
    assert tq("serve", *target).refused(5).startswith(said)


@pytest.mark.parametrize(
    ("code", "frame", "said"),
    [
        ("def f():\n    1 / 0\nf()\n", ", line 2, in f", "raised ZeroDivisionError: division by zero"),
        ("import no_such_library\n", ", line 1, in <module>", "raised ModuleNotFoundError: No module named"),
        ("def f(:\n", ", line 1", "raised SyntaxError: invalid syntax"),
        ("raise SystemExit('no')\n", ", line 1, in <module>", "raised SystemExit: no"),
    ],
)
def test_an_app_that_raises_shows_its_own_traceback(
    tq: CallTq, tmp_path: Path, code: str, frame: str, said: str
) -> None:
    (tmp_path / "app.py").write_text(code)
    done = tq("serve")
    assert done.code == 5
    *shown, line = done.err.splitlines()
    assert line.startswith(f"tq: importing app {said}")
    assert any(frame in each for each in shown)
    assert not any("importlib" in each or "/tq/" in each for each in shown), "only the user's part"


def test_no_server_at_the_url_is_one_line(tq: CallTq) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert f"tq: no server answers at {url} (" in tq("submit", "x", TQ_URL=url).refused(6)


@pytest.mark.parametrize("name", tiered(["SIGINT", "SIGTERM"]))
def test_a_signal_stops_the_server_in_order(tmp_path: Path, name: str) -> None:
    (tmp_path / "tasks.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (process, url):
        assert run_tq("submit", "add", "a=1", "--wait", "--url", url, cwd=tmp_path).out == "2\n"
        process.send_signal(signal.Signals[name])
        process.wait(timeout=20)
        assert process.stdout is not None
        assert process.stderr is not None
        # What readline has buffered, communicate would not give.
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, err
    assert "types: add, drop, echo, fail, sleep" in out
    assert "POST    /v1/tasks " in out
    assert out.rstrip().endswith("everything that waits stays in the store.")
    logged = [json.loads(line)["event"] for line in err.splitlines()]
    assert logged == ["server.started", "attempt.finished", "server.draining", "server.stopped"]


def test_version_and_help_need_no_settings(tq: CallTq, tmp_path: Path) -> None:
    (tmp_path / "tq.toml").write_text("broken")
    assert tq("--version") == Done(0, f"tq {__version__}\n", "")
    assert tq() == tq("--help")
    _, _, codes = tq().out.partition("Exit codes:\n")
    told = dict(line.split(maxsplit=1) for line in codes.splitlines() if line.strip())
    assert told == {str(int(code)): meaning for code, meaning in EXIT_MEANINGS.items()}


def test_the_console_script_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, attribute = scripts["tq"].partition(":")
    assert getattr(importlib.import_module(module), attribute) is main
