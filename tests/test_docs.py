"""What a user can name is documented, what is documented is there, and what the documents show works."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from trio.testing import MockClock

from tq.api.problems import status_of
from tq.api.routes import ROUTES
from tq.cli.exits import EXIT_MEANINGS, Exit
from tq.cli.main import cli
from tq.config import SETTINGS, load_config
from tq.core.errors import TqError
from tq.core.events import Event
from tq.core.task import State
from tq.handlers import TaskQueue
from tq.logs import LEVELS
from tq.testing.kit import finished, open_server, submit

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIBRARY_LOGGED = "library.logged"
"""The one line of the log that is no event of ours."""

# Reading Markdown


def document(name: str) -> str:
    return (ROOT / name).read_text()


def rows(text: str, *, head: str) -> dict[str, list[str]]:
    """The rows of the first table of *text* whose first column is *head*, by what stands in that column."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {head} |"):
            break
    else:
        raise AssertionError(f"no table with {head!r}")
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        found[cells[0].strip("`")] = cells
    return found


def names_in(text: str) -> set[str]:
    """What *text* has in backticks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)))


def snippets(text: str, language: str) -> list[str]:
    """The blocks of *text* in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def section(text: str, title: str) -> str:
    """What stands under the heading ``## title`` or ``### title``, to the next that is no lower."""
    found = re.search(rf"^(##|###) {re.escape(title)}\n", text, re.M)
    assert found, f"no section {title!r}"
    after = re.search(rf"^##{'#?' if found[1] == '###' else ''} ", text[found.end() :], re.M)
    return text[found.end() :][: after.start() if after else None]


def test_tables_sections_names_and_snippets_are_read() -> None:
    text = "## A\n| x | y |\n|---|---|\n| `a\\|b` | `c` |\n| d | e |\n\n## B\n```sh\n`no`\n```\n"
    assert rows(text, head="x") == {"a\\|b": ["`a\\|b`", "`c`"], "d": ["d", "e"]}
    assert section(text, "B") == "```sh\n`no`\n```\n"
    assert names_in(section(text, "A")) == {"a\\|b", "c"}
    assert names_in(section(text, "B")) == set()
    assert snippets(text, "sh") == ["`no`\n"]
    nested = "## A\n1\n### B\n2\n### C\n3\n## D\n4\n"
    assert section(nested, "A") == "1\n### B\n2\n### C\n3\n"
    assert (section(nested, "B"), section(nested, "C"), section(nested, "D")) == ("2\n", "3\n", "4\n")
    with pytest.raises(AssertionError, match="no table"):
        rows(text, head="z")


# What there is


def test_every_setting_is_documented_with_its_names_and_its_default() -> None:
    told = rows(document("docs/reference/configuration.md"), head="flag")
    assert {flag: [cell.strip("`") for cell in cells[1:4]] for flag, cells in told.items()} == {
        setting.flag: [setting.variable, setting.name, setting.default] for setting in SETTINGS
    }


def commands(group: click.Group, path: str = "tq") -> Iterator[tuple[str, click.Command]]:
    """Every command below *group*, groups of commands included, with the words that call it."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands(cli))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, click.Group)}


def flags_in(text: str) -> set[str]:
    """The flags that *text* has in backticks, also with a value: ``--id ID``."""
    return set(re.findall(r"(?<![\w-])--[\w-]+", " ".join(names_in(text))))


def test_every_command_and_every_option_is_documented() -> None:
    text = document("docs/reference/cli.md")
    settings = {setting.flag for setting in SETTINGS}
    # What is told of once, for many commands. "The flags are those of `tq serve`" is enough, elsewhere.
    asking = set(rows(section(text, "Asking a server"), head="flag"))
    asking = {flag.split()[0] for flag in asking}
    filters = flags_in(section(text, "Filters"))
    for path, command in LEAVES.items():
        here = section(text, path)
        told = flags_in(here)
        options = {opt for each in command.params if isinstance(each, click.Option) for opt in each.opts}
        elsewhere = asking | (filters if "(#filters)" in here else set())
        elsewhere |= set() if path == "tq serve" else settings
        assert told <= options, f"{path}: told of, and not there"
        assert options - told <= elsewhere, f"{path}: not told of"
    assert set(re.findall(r"^###? (tq .+)$", text, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("path", LEAVES)
def test_the_help_of_every_command_has_examples_that_it_takes(path: str) -> None:
    _, _, shown = (LEAVES[path].epilog or "").partition("Examples:\n")
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert lines, "no example"
    for line in lines:
        words = shlex.split(re.split(r" (?:\||&&) ", line)[0])
        own = path.split()
        assert words[: len(own)] == own, line
        LEAVES[path].make_context(path, words[len(own) :])


WITHOUT_JSON = {"tq serve", "tq demo", "tq completion"}
"""Those that run, or print a script."""


def test_every_command_that_prints_data_takes_json() -> None:
    takes = {
        path for path, command in LEAVES.items() if any("--json" in each.opts for each in command.params)
    }
    assert set(LEAVES) - takes == WITHOUT_JSON


def test_help_does_not_wait_for_what_is_heavy() -> None:
    heavy = ("httpx2", "trio", "quart", "apsw", "anyio", "rich")
    code = f"import sys, tq.cli.main; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_exit_code_is_documented_in_the_words_of_the_help() -> None:
    told = {
        int(code): cells[1] for code, cells in rows(document("docs/reference/cli.md"), head="code").items()
    }
    assert told == {int(code): meaning for code, meaning in EXIT_MEANINGS.items()}
    assert set(EXIT_MEANINGS) == set(Exit)


def family(kind: type[TqError]) -> Iterator[type[TqError]]:
    """*kind* and everything that inherits from it, in tq itself."""
    if kind.__module__.startswith("tq."):
        yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def test_every_error_is_documented_with_its_status() -> None:
    told = rows(document("docs/reference/errors.md"), head="code")
    kinds = {kind.code: kind for kind in family(TqError)}
    assert set(told) == set(kinds)
    for code, cells in told.items():
        status = str(status_of(kinds[code]("…")))
        assert re.match(rf"{status}\b", cells[1]), f"{code} is answered with {status}, not {cells[1]}"


def test_every_event_is_documented_with_its_level_and_its_fields() -> None:
    told = rows(document("docs/reference/events.md"), head="event")
    kinds = {str(kind.__struct_config__.tag): kind for kind in Event.__subclasses__()}
    assert set(told) == {*kinds, LIBRARY_LOGGED}
    for name, kind in kinds.items():
        _, level, fields, _ = told[name]
        assert level.startswith(LEVELS[kind].name.lower()), name
        assert re.findall(r"`(\w+)`", fields) == [each for each in kind.__struct_fields__ if each != "at"], (
            name
        )


def test_every_route_is_documented() -> None:
    text = document("docs/reference/http-api.md")
    assert set(rows(text, head="route")) == {
        f"{route.method} {route.path.replace('*}', '}')}" for route in ROUTES
    }


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
