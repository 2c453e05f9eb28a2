"""Every command of ``tq`` that the help or a page shows is one that ``tq`` takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
import yaml  # type: ignore[import-untyped]  # that of schemathesis; its stubs are not
from pages import blocks, commands
from reference_cli import COMMANDS, LEAVES, examples

from tq.cli.main import cli

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ASSIGNED: Final = re.compile(r"[A-Z_]+=\S*")
INLINE: Final = re.compile(r"(?<!`)`(tq [a-z][^`\n]*)`(?!`)")


def take(words: list[str]) -> None:
    """Have ``tq`` read *words*, which follow its name, and do nothing. Raises click.UsageError."""
    command: click.Command = cli
    path, rest = "tq", words
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, *rest = rest
        if name not in command.commands:
            raise click.UsageError(f"no command {path} {name}")
        command, path = command.commands[name], f"{path} {name}"
    try:
        command.make_context(path, list(rest))
    except click.exceptions.Exit:
        assert {"--help", "--version"} & {*words}, "only these end at once"


def calls(text: str) -> Iterator[list[str]]:
    """What *text*, of shell, gives to ``tq``: the words of each call, without its name."""
    for command in commands(text):
        # Of `prompt$ tq …`, of `a && tq …`, of `curl … | tq …`; not within quotes.
        for part in _parts(shlex.split(command.replace("\\\n", " "), comments=True)):
            while part and (part[0] == "$" or ASSIGNED.fullmatch(part[0])):
                part = part[1:]
            if part and part[0].rpartition("/")[2] == "tq":
                yield part[1:]


def _parts(words: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "||", "|", "&", ";", ">", "2>"):
            found.append([])
        else:
            found[-1].append(word)
    return found


@pytest.mark.parametrize("path", ["tq", *COMMANDS])
def test_the_help_of_every_command_has_examples_that_it_takes(path: str) -> None:
    lines = examples(COMMANDS.get(path, cli))
    assert lines, "no example"
    for line in lines:
        own, *_ = calls(line)
        assert ["tq", *own][: len(path.split())] == path.split()
        take(own)


WITHOUT_JSON = {"tq serve", "tq demo", "tq completion"}
"""Those that run, or print a script."""


def test_every_command_that_prints_data_takes_json() -> None:
    with_json = {
        path for path, command in LEAVES.items() if any("--json" in each.opts for each in command.params)
    }
    assert set(LEAVES) - with_json == WITHOUT_JSON


SHOWN: Final = [
    pytest.param(words, id=f"{path.stem}:{block.line}-{number}")
    for path in PAGES
    for block in blocks(path.read_text())
    if block.language in ("sh", "console", "bash")
    for number, words in enumerate(calls(block.text))
]


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_that_a_page_shows_is_taken(words: list[str]) -> None:
    take(words)


def test_the_commands_of_a_page_are_read() -> None:
    text = "$ tq tasks list  # all\nTQ_KEY=x .venv/bin/tq submit a \\\n  b=1 --wait && tq top | jq '. | tq'\n"
    assert [*calls(text)] == [["tasks", "list"], ["submit", "a", "b=1", "--wait"], ["top"]]
    assert len(SHOWN) > 50


@pytest.mark.parametrize(
    "line", ["tq nothing", "tq tasks nothing", "tq tasks list --nothing", "tq tasks show"]
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    ((*words,),) = calls(line)
    with pytest.raises(click.UsageError):
        take(words)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_command_within_a_sentence_is_one_that_there_is(path: Path) -> None:
    for shown in INLINE.findall(path.read_text()):
        command: click.Command = cli
        for word in shown.split()[1:]:
            if not isinstance(command, click.Group) or not re.fullmatch("[a-z]+", word):
                break
            assert word in command.commands, shown
            command = command.commands[word]


YAML: Final = [
    pytest.param(block.text, id=f"{path.stem}:{block.line}")
    for path in PAGES
    for block in blocks(path.read_text())
    if block.language in ("yaml", "yml")
]


@pytest.mark.parametrize("text", YAML)
def test_yaml_that_is_shown_can_be_read(text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict)
