"""Every curl of every page is run, on the virtual clock, and answers what the page shows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio
from pages import Answered, Asked, Mismatch, NotRunnable, Step, blocks, check, nap, request, steps
from quart.testing.utils import sentinel
from quart_trio import QuartTrio
from trio.testing import MockClock

from tq.api.app import make_app
from tq.demo import make_demo
from tq.handlers import TaskQueue
from tq.storage.store import Store, open_store
from tq.testing import open_server

ROOT = Path(__file__).resolve().parent.parent.parent
ALL = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
PAGES = {name: text for name, text in ALL.items() if steps(text)}
OF_THE_DEMO = {"getting-started.md"}


def app_of(name: str, text: str) -> TaskQueue:
    """What the examples of a page run against: its first TaskQueue, or one that takes every type."""
    if name in OF_THE_DEMO:
        return make_demo(Random(3))
    for block in blocks(text):
        if block.language == "python" and "TaskQueue()" in block.text:
            names: dict[str, object] = {"__name__": "app"}
            exec(compile(block.text, f"{name}:{block.line}", "exec", dont_inherit=True), names)
            app = names["app"]
            assert isinstance(app, TaskQueue)
            return app
    any_type = TaskQueue()

    @any_type.task("*")
    async def work(payload: object) -> object:
        return payload

    return any_type


async def faults_of(name: str, text: str, store: Store | None = None) -> list[str]:
    """Run the commands of a page from top to bottom; what is wrong with them."""
    faults = []
    async with open_server(app_of(name, text), store=store) as server:
        door = make_app(server)
        for step in steps(text):
            try:
                await run_step(door, step)
            except (Mismatch, NotRunnable) as fault:
                faults.append(f"{name}:{step.line}: {step.command.strip()}\n{fault}")
    return faults


async def run_step(door: QuartTrio, step: Step) -> None:
    """Run one command. Raises Mismatch, NotRunnable."""
    seconds = nap(step.command)
    if seconds is None:
        check(step.answer, await ask(door, request(step.command)))
    else:
        await trio.sleep(seconds)


async def ask(door: QuartTrio, asked: Asked) -> Answered:
    open_it = partial(door.test_client().open, asked.path, method=asked.method, headers=asked.headers)
    answer = await open_it(data=asked.body, json=sentinel)
    body = await answer.get_data(as_text=False)
    assert isinstance(body, bytes)
    return Answered(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/tq.db"], ids=["memory", "sqlite"])
@pytest.mark.parametrize("name", PAGES)
async def test_the_examples_of_a_page_answer_what_it_shows(
    name: str, url: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = open_store(url.format(tmp_path))
    assert "\n\n".join(await faults_of(name, PAGES[name], store)) == ""


def hidden(text: str) -> list[int]:
    """The lines of the blocks of *text* that have a curl which is not run, and do not say so."""
    shown = ("sh", "python", "console")
    return [block.line for block in blocks(text) if "curl " in block.text and block.language not in shown]


def test_no_curl_is_hidden_from_being_run() -> None:
    assert {name: hidden(text) for name, text in ALL.items() if hidden(text)} == {}
    assert hidden("```\ncurl x\n```\n\n```bash\ncurl y\n```\n\n```sh\ncurl z\n```\n") == [1, 5]


PAGE = """
```python
from tq import TaskQueue

app = TaskQueue()


@app.task("double")
async def double(n: int) -> int:
    return 2 * n
```

```sh
curl http://127.0.0.1:8080/v1/tasks -H 'content-type: application/json' \\
     -d '{"type": "double", "id": "a", "payload": {"n": 21}, "delay": 60}'
sleep 61
curl http://127.0.0.1:8080/v1/tasks/a
```

```json
{"state": "succeeded", "result": RESULT}
```
"""


async def test_a_page_that_shows_what_is_right_passes(autojump_clock: MockClock) -> None:
    assert await faults_of("page.md", PAGE.replace("RESULT", "42")) == []
    assert trio.current_time() == 61


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("RESULT", "43", "page.md:13: curl http://127.0.0.1:8080/v1/tasks/a\nthe answer.result: 43 is shown"),
        ("sleep 61", "sleep 59", "'succeeded' is shown, not 'scheduled'"),
        ("sleep 61", "rm -r x", "page.md:13: rm -r x\n"),
        ('"delay": 60', '"dealy": 60', "no error is shown, not 422"),
    ],
)
async def test_a_page_that_is_wrong_is_found(
    autojump_clock: MockClock, right: str, wrong: str, fault: str
) -> None:
    faults = await faults_of("page.md", PAGE.replace(right, wrong).replace("RESULT", "42"))
    assert fault in faults[0]
