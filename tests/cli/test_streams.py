"""Output that goes nowhere: readers that have enough, full disks, closed streams. With real pipes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import shell

pytest_plugins = ("calling",)


@pytest.fixture(scope="module")
def many(url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The server of `url`, with 20 tasks of which each is a long line."""
    folder = tmp_path_factory.mktemp("many")
    tasks = ",".join('{"type":"echo","payload":"%s"}' % ("x" * 20_000) for _ in range(20))
    (folder / "tasks.json").write_text(f"[{tasks}]")
    done = subprocess.run(
        [
            "curl",
            "-sSf",
            "-H",
            "content-type: application/json",
            "-d",
            "@tasks.json",
            f"{url}/v1/tasks/batch",
        ],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    assert done.stdout.count(b'"id"') == 20
    return url


@pytest.mark.parametrize(
    "script",
    [
        "tq completion bash | true",
        "tq --help | true",
        "tq tasks list --help | true",
        "tq tasks list --all --json | head -c 10",
        "tq tasks list --all --json 2>&1 | head -c 10",
        "tq tasks list --all | head -1",
        "tq top --once | true",
        "tq doctor | true",
        "_TQ_COMPLETE=bash_source tq | true",
    ],
)
def test_a_reader_that_has_enough_is_no_fault(many: str, tmp_path: Path, script: str) -> None:
    code, _, err = shell(script, tmp_path, TQ_URL=many)
    assert (code, err) == (0, "")


def test_a_tail_ends_once_nobody_reads_it(many: str, tmp_path: Path) -> None:
    submits = 'for n in 1 2 3 4 5 6; do sleep 0.3; tq submit echo n="$n" >&2; done &'
    code, out, _ = shell(f"{submits}\ntq tail | head -2", tmp_path, TQ_URL=many)
    assert code == 0
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["tq tasks list --json", "tq --help", "tq tasks list", "tq top --once"])
def test_output_that_cannot_be_written_is_one_line(many: str, tmp_path: Path, command: str, to: str) -> None:
    code, out, err = shell(f"{command} {to}", tmp_path, TQ_URL=many)
    assert (code, out) == (14, "")
    assert err.startswith("tq: the output cannot be written: "), err
    assert err.count("\n") == 1


def test_without_stderr_the_code_still_tells(many: str, tmp_path: Path) -> None:
    for to in ("2>&-", "2>/dev/full"):
        code, out, _ = shell(f"tq tasks show nowhere {to}", tmp_path, TQ_URL=many)
        assert (code, out) == (8, "")


def test_without_stdin_nobody_is_asked(many: str, tmp_path: Path) -> None:
    code, _, err = shell("tq tasks delete --all <&-", tmp_path, TQ_URL=many)
    assert code == 2
    assert err.startswith("tq: nobody is here to ask")


def test_a_server_needs_nobody_to_read_what_it_says(tmp_path: Path) -> None:
    for to in (">&-", ">/dev/full"):
        script = f"exec timeout -s INT 2 {shlex.quote(sys.executable)} -m tq demo --bind 127.0.0.1:0 {to}"
        code, _, err = shell(script, tmp_path)
        assert "server.stopped" in err, err
        assert "Traceback" not in err
        assert code == 124, "it served until it was told to stop"
