"""The documentation says everything there is, and nothing that is not: settings, commands, codes, events."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import click
import msgspec
import pytest

import tq
import tq.api.problems
from tq import TaskQueue
from tq.api.problems import status_of
from tq.api.routes import ROUTES
from tq.cli.exits import EXIT_MEANINGS
from tq.cli.main import cli
from tq.config import SETTINGS
from tq.core.errors import TqError
from tq.core.retry import RetryKind, RetryPolicy
from tq.core.task import Reason, State, Task
from tq.core.wire import SubmitRequest, task_view
from tq.logs import LEVELS
from tq.testing.kit import finished, open_server, submit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
README = (ROOT / "README.md").read_text()


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands under *heading*, which it must have, to the next of its level."""
    level = heading.split()[0]
    parts = re.split(rf"^{level} ", text, flags=re.M)
    (found,) = [part for part in parts if part.startswith(heading.removeprefix(f"{level} ") + "\n")]
    return found


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in *text*; ``\\|`` is no border."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def code_blocks(path: Path, language: str) -> Iterator[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.M | re.S)
    return (code for named, code in blocks if named == language)


def errors(kind: type[TqError] = TqError) -> Iterator[type[TqError]]:
    """The error tree."""
    yield kind
    for each in kind.__subclasses__():
        yield from errors(each)


def test_every_setting_is_documented_with_its_names_and_default() -> None:
    documented = [row[:4] for row in rows(section(page("configuration.md"), "## Settings"))[2:]]
    assert documented == [
        [f"`{each.flag}`", f"`{each.variable}`", f"`{each.name}`", f"`{each.default}`"] for each in SETTINGS
    ]


def test_every_command_and_flag_is_documented() -> None:
    text = page("cli.md")
    headings = re.findall(r"^## tq (\w+)$", text, re.M)
    assert sorted(headings) == sorted(cli.commands)
    for name, command in cli.commands.items():
        told = set(re.findall(r"--[a-z][a-z-]*", section(text, f"## tq {name}")))
        flags = {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}
        settings = {setting.flag for setting in SETTINGS}
        if settings <= flags and name != "serve":
            # Said once, at ``tq serve``; the others refer to it.
            told |= settings
        assert told == flags, name


def test_every_exit_code_is_documented() -> None:
    documented = [(code, meaning) for code, meaning in rows(section(page("cli.md"), "## Exit codes"))[2:]]
    assert documented == [(str(int(code)), meaning) for code, meaning in EXIT_MEANINGS.items()]


def test_every_error_code_is_documented_with_its_status() -> None:
    table = page("errors.md").partition("## Why a task failed")[0]
    documented = {row[0].strip("`"): int(row[1][:3]) for row in rows(table)[2:]}
    ours = {kind for kind in errors() if kind.__module__.startswith("tq.")}
    assert documented == {kind.code: status_of(kind("")) for kind in ours}


def test_every_event_is_documented_with_level_and_fields() -> None:
    documented = {row[0].strip("`"): row[1:3] for row in rows(page("events.md"))[2:]}
    library = documented.pop("library.logged")
    assert library[1] == "`logger` `message` `traceback`"
    expected = {
        str(kind.__struct_config__.tag): [
            level.name.lower(),
            " ".join(f"`{field}`" for field in kind.__struct_fields__ if field != "at"),
        ]
        for kind, level in LEVELS.items()
    }
    expected["attempt.finished"][0] += "; warning if it ended badly"
    assert documented == expected


def test_every_route_and_field_is_documented() -> None:
    text = page("http-api.md")
    overview = {row[0].strip("`") for row in rows(text)[2 : 2 + len(ROUTES)]}
    routes = {f"{route.method} {route.path.replace('*}', '}')}" for route in ROUTES}
    assert routes - {"GET /status/"} <= overview
    submit = section(text, "## POST /v1/tasks")
    documented = [row[0].strip("`") for row in rows(submit)[2:]]
    assert sorted(documented) == sorted(SubmitRequest.__struct_fields__)


def test_every_field_of_a_task_is_shown() -> None:
    kinds = {"id": "t", "type": "x", "queue": "q", "state": State.FAILED, "reason": Reason.ERROR}
    zeros = dict.fromkeys(["priority", "attempt", "max_attempts", "crashes", "generation", "worker"], 1)
    times = dict.fromkeys(["timeout_ms", "created_at", "run_at", "started_at", "finished_at"], 1)
    rest = {"retry": RetryPolicy(), "result_ttl_ms": None, "server": "s", "cancel_reason": Reason.USER}
    texts = {"payload": "1", "result": "1", "errors": ()}
    task = Task(**kinds, **zeros, **times, **rest, **texts)  # type: ignore[arg-type]
    text = section(page("http-api.md"), "## GET /v1/tasks/{id}")
    missing = [name for name in task_view(task) if f'"{name}":' not in text]
    assert missing == []


def test_every_example_of_json_is_json() -> None:
    for block in [block for path in PAGES for block in code_blocks(path, "json")]:
        msgspec.json.decode(block)


def test_states_and_reasons_are_documented() -> None:
    text = page("index.md")
    missing = [each.value for each in [*State, *Reason] if f"`{each.value}`" not in text]
    assert missing == []


def test_what_a_handler_may_say_is_documented() -> None:
    text = page("handlers.md")
    table = rows(section(text, "## What `@app.task` takes"))[2:]
    parameters = [name for name in signature(TaskQueue.task).parameters if name != "self"]
    assert sorted(row[0].strip("`") for row in table) == sorted(parameters)
    missing = [name for name in tq.__all__ if name not in text]
    missing += [kind for kind in RetryKind if f'"{kind}"' not in text]
    missing += [name for name in RetryPolicy.__struct_fields__ if name not in text]
    missing += [name for name in vars(tq.Context) if name[0] != "_" and f"ctx.{name}" not in text]
    assert [name for name in missing if name not in ("ctx", "task", "clock", "deadline_at")] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_in_the_documentation_runs(path: Path) -> None:
    for block in code_blocks(path, "python"):
        exec(compile(block, path.name, "exec", dont_inherit=True), {"__name__": "snippet"})


async def test_the_handler_of_the_readme_does_its_task(autojump_clock: object) -> None:
    names: dict[str, TaskQueue] = {}
    exec(compile(next(code_blocks(ROOT / "README.md", "python")), "README.md", "exec"), names)
    async with open_server(names["app"]) as server:
        task = await finished(server, await submit(server, type="email", payload={"to": "ada"}))
    assert task.result == '{"sent":"Hello to ada"}'


def picture() -> tuple[set[str], set[str]]:
    """The names at the top of the folder picture in the README, and those in ``tq/``."""
    text = next(code_blocks(ROOT / "README.md", ""))
    inside = set(re.findall(r"^  (\S+)", text, re.M))
    top = (
        set(re.findall(r"(?:^|, | {3,})([A-Za-z_.]+/|[A-Za-z]+\.\w+|Justfile)(?= |,|$)", text, re.M)) - inside
    )
    return top, inside


def test_the_folder_picture_is_the_tree() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    folders = {f"{path.parts[0]}/" for path in files if len(path.parts) > 1 and path.parts[0][0] != "."}
    package = {
        path.parts[1] + ("/" if len(path.parts) > 2 else "")
        for path in files
        if path.parts[0] == "tq" and not path.name.startswith("__")
    }
    top, inside = picture()
    assert inside == package
    assert {name for name in top if name.endswith("/")} == folders
    assert all((ROOT / name).exists() for name in top)


def test_every_page_is_in_the_index() -> None:
    for name in (path.name for path in DOCS.glob("*.md") if path.name != "index.md"):
        assert f"({name})" in page("index.md")
        assert f"(docs/{name})" in README
