"""The command line as a process of its own, where a test needs one; else see the fixture ``tq``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

APP = """
from tq import Cancel, TaskQueue

app = TaskQueue()

@app.task("add")
async def add(a: int, b: int = 1) -> int:
    return a + b

@app.task("fail", max_attempts=1)
def fail() -> None:
    raise ValueError("no luck")

@app.task("drop")
def drop() -> None:
    raise Cancel("not wanted")

@app.task("echo")
async def echo(payload: object) -> object:
    return payload

@app.task("sleep", timeout=60)
async def sleep(seconds: float) -> None:
    import trio
    await trio.sleep(seconds)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def refused(self, code: int) -> str:
        """The one line of a refusal with *code*, after a check that nothing else was said."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("tq: "), self
        assert self.err.count("\n") == 1, self
        return self.err


CallTq = Callable[..., Done]
"""The fixture ``tq`` of `calling`: arguments, and by name ``stdin`` and variables of the environment."""


def environment() -> dict[str, str]:
    """This process's variables, without any setting of tq, but with its code to be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


def run_tq(*args: str, cwd: Path) -> Done:
    """``tq`` *args* in a process of its own, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tq", *args],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def shell(script: str, cwd: Path, **env: str) -> tuple[int, str, str]:
    """What bash makes of *script*, in which ``tq`` is the command line: the code of the first of a pipe."""
    tq = f'tq() {{ {shlex.quote(sys.executable)} -m tq "$@"; }}'
    done = subprocess.run(
        ["bash", "-c", f"{tq}\n{script}\nexit ${{PIPESTATUS[0]}}"],
        cwd=cwd,
        env=environment() | env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@contextmanager
def serving(*args: str, cwd: Path, bind: str = "127.0.0.1:0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``tq`` *args*, on a free port if not told: the process, and its URL. Killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tq", *args, "--bind", bind],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert " listening on http://" in first, first + process.communicate()[1]
        yield process, first.split()[-1]
    finally:
        process.kill()
        process.communicate()
