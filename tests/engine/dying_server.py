"""A program for the tests of processes: it has a child make an attempt, and waits to be killed.

Its arguments: the type, the file for the handler, and the function of `tq.engine.child` that stands in for
`die_with_server`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import trio
from lease import run_of

from tq.engine.processes import Children


def main(type: str, file: str, guard: str) -> None:
    code = (
        "import sys; from tq.engine import child;"
        f" child.die_with_server = child.{guard}; child.main(sys.argv[1:])"
    )
    path = json.dumps(sys.path)  # with the folder of this file, where the app is

    async def spawn(connection: int, lifeline: int, /) -> trio.Process:
        return await trio.lowlevel.open_process(
            [sys.executable, "-c", code, str(connection), str(lifeline), "process_app:app", path],
            stdin=subprocess.DEVNULL,
            pass_fds=(connection, lifeline),
            start_new_session=True,
        )

    trio.run(Children(spawn).make, lambda: run_of(type, {"file": file}))


if __name__ == "__main__":
    main(*sys.argv[1:])
