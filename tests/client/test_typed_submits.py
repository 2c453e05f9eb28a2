"""What type checkers say of submits, and of calls: by one run of mypy over right and wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import slow

CALLS = """
from typing import Any
from tq import AsyncClient, Client, Context, TaskQueue

app = TaskQueue()

@app.task("email", timeout=30)
async def send_email(to: str, subject: str = "Hello", *, urgent: bool = False) -> dict[str, str]:
    return {"id": to}

@app.task("album")
def album(ctx: Context, photos: list[str], size: int = 3) -> int:
    return len(photos)

@app.task("count")
async def count(payload: list[int]) -> int:
    return len(payload)

@app.task("any")
def anything(payload: Any) -> None: ...

@app.task("object")
def an_object(payload: object) -> None: ...

@app.task("nothing")
def nothing() -> None: ...

@app.task("only")
def only(ctx: Context) -> None: ...

@app.task("late")
async def late(to: str, ctx: Context) -> None: ...

@app.task("spread")
def spread(**kwargs: int) -> None: ...

@app.schedule("@daily", payload={"to": "ada"})
@app.task("daily")
async def daily(to: str) -> None: ...

async def in_a_handler(ctx: Context) -> None:
    id: str = await send_email.submit("ada")
    await send_email.submit(to="ada", subject="Hi", urgent=True)
    await send_email.options(delay=30, priority="high", tags=["a"]).submit(to="ada")
    await album.submit(["a"], size=1)
    album.submit_sync(photos=["a"])
    await count.submit([1, 2])
    await anything.submit({"a": 1})
    await anything.submit(1)
    await an_object.submit(None)
    await nothing.submit()
    await only.submit()
    spread.submit_sync(a=1, b=2)
    await daily.submit(to="ada")

    await send_email.submit()                       # call-arg
    await send_email.submit(to=1)                   # arg-type
    await send_email.submit("ada", "Hi", True)      # call-arg
    await send_email.submit(to="ada", cc="bob")     # call-arg
    await send_email.options(prioritet="high").submit(to="ada")     # call-arg
    await send_email.options(delay=30).submit(to=1)                 # arg-type
    await album.submit(ctx, ["a"])                  # arg-type
    album.submit_sync(photos="a")                   # arg-type
    await count.submit(["a"])                       # list-item
    await nothing.submit(1)                         # call-arg
    await only.submit(ctx)                          # call-arg
    spread.submit_sync(a="x")                       # arg-type
    await daily.submit()                            # call-arg
    # The Context cannot be taken out of the middle: put it first.
    await late.submit(to="ada")                     # call-arg

async def by_a_client(client: AsyncClient, blocking: Client) -> None:
    await (await client.submit(send_email, "ada", urgent=True)).wait()
    blocking.submit(send_email, to="ada").wait()
    blocking.submit(album.options(id="a"), photos=[])
    blocking.submit("email", {"to": "ada"}, delay=30)
    blocking.submit_many(send_email.body(to=each) for each in ["ada", "bob"])

    await client.submit(send_email, to=1)           # arg-type call-overload
    blocking.submit(album)                          # call-arg call-overload
    blocking.submit(album, ["a"], size="x")         # arg-type call-overload
    blocking.submit(send_email, to="ada", delay=30)  # call-arg call-overload
    blocking.submit("email", to="ada")              # call-arg call-overload
    send_email.body(to=1)                           # arg-type

async def as_functions(ctx: Context) -> None:
    found: dict[str, str] = await send_email("ada")
    number: int = album(ctx, ["a"]) + album(ctx=ctx, photos=["a"])
    await late("ada", ctx)

    send_email("ada")                               # unused-coroutine
    album(["a"])                                    # call-arg arg-type
    text: str = album(ctx, ["a"])                   # assignment
"""


@slow
@pytest.mark.timeout(240)
def test_mypy_tells_right_calls_from_wrong_ones(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "c")]
    done = subprocess.run(
        [*command, "--hide-error-context", str(file)], capture_output=True, text=True, check=False
    )
    said: dict[int, set[str]] = {}
    for line, code in re.findall(r"calls\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M):
        said.setdefault(int(line), set()).add(code)
    wrong = {
        number: set(line.partition("  # ")[2].split())
        for number, line in enumerate(CALLS.splitlines(), 1)
        if "  # " in line and not line.lstrip().startswith("#")
    }
    assert {line: said[line] for line in said if not said[line] & wrong.get(line, set())} == {}, done.stdout
    assert wrong.keys() - said.keys() == set(), "nothing is said of these lines"
