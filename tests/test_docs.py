"""What a user can name is documented, what is documented is there, and what the documents show works."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from trio.testing import MockClock

from tq.config import load_config
from tq.core.task import State
from tq.handlers import TaskQueue
from tq.testing.kit import finished, open_server, submit

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Reading Markdown


def document(name: str) -> str:
    return (ROOT / name).read_text()


def snippets(text: str, language: str) -> list[str]:
    """The blocks of *text* in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def section(text: str, title: str) -> str:
    """What stands under the heading ``## title`` or ``### title``, to the next that is no lower."""
    found = re.search(rf"^(##|###) {re.escape(title)}\n", text, re.M)
    assert found, f"no section {title!r}"
    after = re.search(rf"^##{'#?' if found[1] == '###' else ''} ", text[found.end() :], re.M)
    return text[found.end() :][: after.start() if after else None]


def test_sections_and_snippets_are_read() -> None:
    text = "## A\n1\n### B\n2\n### C\n3\n## D\n```sh\n4\n```\n"
    assert section(text, "A") == "1\n### B\n2\n### C\n3\n"
    assert (section(text, "B"), section(text, "C")) == ("2\n", "3\n")
    assert snippets(section(text, "D"), "sh") == ["4\n"]


# What there is


def test_help_does_not_wait_for_what_is_heavy() -> None:
    heavy = ("httpx2", "trio", "quart", "apsw", "anyio", "rich")
    code = f"import sys, tq.cli.main; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# What is shown

SNIPPETS = [
    pytest.param(snippet, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, snippet in enumerate(snippets(path.read_text(), "python"))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_python_snippet_runs(snippet: str) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(snippet, "snippet", "exec", flags=flags, dont_inherit=True), names)
    queues = [value for value in names.values() if isinstance(value, TaskQueue)]
    assert all(queue.types for queue in queues), "a queue without a handler"


SHOWN_TESTS = [
    pytest.param(snippet, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, snippet in enumerate(snippets(path.read_text(), "python"))
    if "async def test_" in snippet
]


@pytest.mark.parametrize("shown", SHOWN_TESTS)
async def test_the_test_that_is_shown_passes(shown: str, autojump_clock: MockClock) -> None:
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(shown, "snippet", "exec", dont_inherit=True), names)
    (test,) = [value for key, value in names.items() if key.startswith("test_")]
    assert inspect.iscoroutinefunction(test)
    await (test(autojump_clock) if inspect.signature(test).parameters else test())


async def test_the_handler_of_the_readme_does_the_task_of_the_readme(autojump_clock: MockClock) -> None:
    text = document("README.md")
    (handler,) = snippets(text, "python")
    (body,) = re.findall(r"-d '(\{.*?\})'", section(text, "Submit a task"), re.S)
    names: dict[str, object] = {"__name__": "app"}
    exec(compile(handler, "app.py", "exec", dont_inherit=True), names)
    app = names["app"]
    assert isinstance(app, TaskQueue)
    async with open_server(app) as server:
        task = await finished(server, await submit(server, **json.loads(body)))
    assert task.state is State.SUCCEEDED, task.errors
    assert task.result == '{"sent":"Hello to ada@example.org"}'


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, (
                target
            )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_are_shown_are_taken(path: Path, tmp_path: Path) -> None:
    for snippet in snippets(path.read_text(), "toml"):
        (tmp_path / "tq.toml").write_text(snippet)
        assert load_config({}, environ={}, folder=tmp_path) != load_config(
            {}, environ={}, folder=ROOT / "docs"
        )
        assert tomllib.loads(snippet)


# The folder picture


def pictured(text: str) -> set[str]:
    """The names in the folder picture of *text* that stand under ``tq/``."""
    (picture,) = re.findall(r"^```\n((?:.*\n)*?tq/\n(?:.*\n)*?)```$", text, re.M)
    inside = picture.partition("tq/\n")[2]
    return {line.split()[0] for line in re.match(r"(?:  .*\n)*", inside)[0].splitlines()}  # type: ignore[index]


def test_the_folder_picture_of_the_readme_is_that_of_the_package() -> None:
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "tq").iterdir()
        if not path.name.startswith("__") and path.suffix in ("", ".py")
    }
    assert pictured(document("README.md")) == there


def test_the_folder_picture_is_read() -> None:
    assert pictured("```\nx.toml\ntq/\n  core/   rules\n  a.py  b\ntests/  c\n```\n") == {"core/", "a.py"}
