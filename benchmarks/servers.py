"""Servers in processes of their own, and what Linux says of these processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import Address

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens at *address*."""

    pid: int
    address: Address

    def resident_mb(self) -> float:
        """Resident memory, in MB of a million bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve_tq(folder: Path, *, store: str | None = None, app: str = "app") -> Iterator[Server]:
    """A tq server with its store in *folder*, as users run it but without the log line of each attempt."""
    url = store or f"sqlite:///{folder / 'tq.db'}"
    command = ["tq", "serve", f"benchmarks.app:{app}", "--bind", "127.0.0.1:0", "--log-level", "warning"]
    with _process(folder, [*command, "--store", url]) as server:
        yield server


@contextmanager
def serve_hello(folder: Path) -> Iterator[Server]:
    """The hello-world server."""
    with _process(folder, ["benchmarks.hello"]) as server:
        yield server


@contextmanager
def _process(folder: Path, command: list[str]) -> Iterator[Server]:
    """``python -m`` *command* from the line on that tells its address to the end of the block."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
    with (folder / "stderr").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environ,
        )
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.search(r"http://([\d.]+):(\d+)", first)
            if found is None:
                raise SystemExit(f"{command[0]} did not start: {(folder / 'stderr').read_text()}")
            yield Server(process.pid, (found[1], int(found[2])))
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        trouble = (folder / "stderr").read_text()
        if trouble:
            print(f"{command[0]} said: {trouble[-2000:]}", file=sys.stderr)
