"""``python -m benchmarks [NAMES…] [--quick]``: measure and print one table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import apsw

from benchmarks import databases, limits
from benchmarks.measurements import FULL, MEASUREMENTS, QUICK, Row, folder
from benchmarks.postgres import postgres

EVERY = MEASUREMENTS | {"postgres": postgres}
HEADINGS = ("what", "figure", "this machine's own limit", "ratio", "target", "met?", "")


def main() -> None:
    """Measure what the command line names, or all that needs no PostgreSQL."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Measure the speed and memory of tq beside this machine's own limits."
    )
    names = ", ".join(EVERY)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure: {names}; all but postgres if none"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and less exact, in under a minute")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in EVERY]
    if unknown:
        parser.error(f"there is no measurement {unknown[0]!r}: choose from {names}")
    print(_machine(), flush=True)
    rows: list[Row] = []
    others = OtherWork()
    for name in asked.names or MEASUREMENTS:
        begun = time.perf_counter()
        rows += EVERY[name](QUICK if asked.quick else FULL)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    print(_table(rows))
    print(f"Others used {others.share():.0%} of the cores meanwhile: the less, the more these figures mean.")


class OtherWork:
    """How much of the cores everybody but this process and its servers has used since it was made."""

    def __init__(self) -> None:
        self._begun_s = time.perf_counter()
        self._others_s = self._used_s()

    def share(self) -> float:
        """From 0 to 1."""
        passed_s = (time.perf_counter() - self._begun_s) * (os.cpu_count() or 1)
        return max(0.0, self._used_s() - self._others_s) / passed_s

    @staticmethod
    def _used_s() -> float:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
        )
        busy_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        # Of the servers that have ended: by the time this is asked, all of them.
        return busy_s - sum(os.times()[:4]) - sum(databases.used_s)


def _machine() -> str:
    with folder() as path:
        flush_ms = limits.fsync_ms(path)
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()},"
        f" fsync {flush_ms:.2f} ms; load {os.getloadavg()[0]:.1f} before the start"
    )


def _table(rows: Sequence[Row]) -> str:
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return (row.what, row.figure, row.limit, ratio, row.target, met, row.note)


if __name__ == "__main__":
    main()
