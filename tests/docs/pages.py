"""Pages of the documentation as programs: their commands, the answers they show, and how to compare.

A block in ``sh`` that has a ``curl`` is run from top to bottom. If the block straight after it is in ``json``
or ``http``, that is what its last command answers; what stands elsewhere is only to be read. In an answer
``…`` stands for anything: for a value, within a text, for the rest of an array. What is not shown may be
there.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus

SERVER: Final = "http://127.0.0.1:8080"
ANSWERS: Final = ("json", "http")
FORM: Final = "application/x-www-form-urlencoded"
"""What curl says that a body is, unless it is told."""


class NotRunnable(Exception):
    """A command of a page that means more than is understood here."""


class Mismatch(Exception):
    """An answer is not the one that is shown."""


@dataclass(frozen=True)
class Block:
    """A fenced block; *line* is that of its fence, from 1."""

    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Step:
    """A command of a page, and the block that shows its answer, if one does."""

    line: int
    command: str
    answer: Block | None = None


@dataclass
class Asked:
    """A request, as a curl command says it."""

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes


# Reading a page


def blocks(text: str) -> list[Block]:
    """The fenced blocks of *text*, in order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in found]


def steps(text: str) -> list[Step]:
    """What the page *text* has to be run, in order."""
    every = blocks(text)
    by_line = {block.line: block for block in every}
    found: list[Step] = []
    for block in every:
        if block.language == "sh" and "curl" in block.text:
            *before, last = commands(block.text)
            after = by_line.get(_line_after(block))
            answer = after if after is not None and after.language in ANSWERS else None
            found += [*(Step(block.line, each) for each in before), Step(block.line, last, answer)]
    return found


def _line_after(block: Block) -> int:
    """Where a block has its fence that follows *block*, with one blank line between."""
    return block.line + block.text.count("\n") + 3


def commands(text: str) -> Iterator[str]:
    """The commands of a block of shell, each whole, without comments."""
    command = ""
    for line in text.splitlines(keepends=True):
        command += line
        if _is_whole(command):
            if command.strip() and not command.lstrip().startswith("#"):
                yield command
            command = ""
    if command:
        raise NotRunnable(f"it does not end: {command}")


def _is_whole(command: str) -> bool:
    if command.rstrip(" \n").endswith(("|", "\\")):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


# Reading a command


def nap(command: str) -> float | None:
    """The seconds that *command* sleeps; None: it is another one."""
    match = re.fullmatch(r"sleep (\d+(?:\.\d+)?)(?:\s+#.*)?", command.strip())
    return None if match is None else float(match[1])


def request(command: str) -> Asked:
    """The request that *command*, a curl, makes. What is piped into it is run.

    Raises:
        NotRunnable: It is no such thing, or has an option that is not known here.
    """
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    given = b""
    if "|" in words:
        bar = words.index("|")
        given, words = _output(words[:bar]), words[bar + 1 :]
    if not words or words[0] != "curl":
        raise NotRunnable(command)
    asked = Asked()
    rest = iter(words[1:])
    for word in rest:
        _read_word(asked, word, rest, given)
    asked.method = asked.method or ("POST" if asked.body else "GET")
    if asked.body:
        asked.headers.setdefault("content-type", FORM)
    return asked


def _read_word(asked: Asked, word: str, rest: Iterator[str], given: bytes) -> None:
    match word:
        case "-X" | "--request":
            asked.method = next(rest)
        case "-H" | "--header":
            name, _, value = next(rest).partition(":")
            asked.headers[name.strip().lower()] = value.strip()
        case "-d" | "--data" | "--data-binary":
            data = next(rest)
            asked.body = given if data == "@-" else data.encode()
        case "-G" | "--get":
            asked.method = "GET"
        case "--data-urlencode":
            name, _, value = next(rest).partition("=")
            asked.path += f"{'&' if '?' in asked.path else '?'}{name}={quote_plus(value)}"
        case "-i" | "--include" | "-s" | "--silent" | "-N" | "--no-buffer":
            pass
        case _ if word.startswith(SERVER):
            asked.path = word.removeprefix(SERVER) + asked.path
        case _:
            raise NotRunnable(f"{word!r} is not known here")


def _output(words: list[str]) -> bytes:
    if words[0] not in ("printf", "echo"):
        raise NotRunnable(f"{words[0]!r} is not run here")
    return subprocess.run(["sh", "-c", shlex.join(words)], check=True, capture_output=True).stdout


# Comparing an answer


def check(shown: Block | None, answered: Answered) -> None:
    """Return if *answered* is what is *shown*; a page that shows nothing wants no error.

    Raises:
        Mismatch: Saying where, and what was answered.
    """
    if shown is None:
        _want(answered.status < 400, "the answer", "no error", answered)
        return
    text = shown.text
    if shown.language == "http":
        head, _, text = text.partition("\n\n")
        _check_head(head, answered)
    documents = read_shown(text)
    if not any("status" in one and "code" in one for one in documents if isinstance(one, dict)):
        _want(answered.status < 400, "the answer", "no error", answered)
    given = [json.loads(line) for line in _documents(answered)]
    if len(documents) != len(given):
        raise Mismatch(f"{len(documents)} documents are shown, not these {len(given)}: {given}")
    for one, other in zip(documents, given, strict=True):
        compare(one, other, "the answer")


def _documents(answered: Answered) -> list[bytes]:
    if answered.headers.get("content-type", "").startswith("application/x-ndjson"):
        return answered.body.splitlines()
    return [answered.body] if answered.body else []


def _check_head(head: str, answered: Answered) -> None:
    first, *lines = head.splitlines()
    _want(first.split()[1] == str(answered.status), "the status", first, answered)
    for line in lines:
        name, _, value = line.partition(":")
        compare(value.strip(), answered.headers.get(name.lower()), f"header {name}")


def _want(holds: bool, where: str, shown: str, answered: Answered) -> None:
    if not holds:
        raise Mismatch(f"{where}: {shown} is shown, not {answered.status} {answered.body.decode()}")


def read_shown(text: str) -> list[Any]:
    """The JSON documents in *text*, in which ``…`` may stand for a value or for the rest."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    for index in range(0, len(parts), 2):
        # Keys that are not shown are ignored anyhow.
        parts[index] = re.sub(r"(?:,\s*|(?<={)\s*)…\s*}", "}", parts[index])
        parts[index] = parts[index].replace("…", '"…"')
    plain, found, at = "".join(parts).strip(), [], 0
    while at < len(plain):
        document, end = json.JSONDecoder().raw_decode(plain, at)
        found.append(document)
        at = end + len(plain[end:]) - len(plain[end:].lstrip())
    return found


def compare(shown: Any, given: Any, where: str) -> None:
    """Return if *given* is what is *shown*. Raises Mismatch."""
    match shown, given:
        case "…", _:
            return
        case dict(), dict():
            for name, value in shown.items():
                if name not in given:
                    raise Mismatch(f"{where} has no {name}: {given}")
                compare(value, given[name], f"{where}.{name}")
        case [*first, "…"], list() if len(given) >= len(first):
            compare(first, given[: len(first)], where)
        case list(), list() if len(shown) == len(given):
            for index, (one, other) in enumerate(zip(shown, given, strict=True)):
                compare(one, other, f"{where}[{index}]")
        case str(), str() if re.fullmatch(".*".join(map(re.escape, shown.split("…"))), given, re.S):
            return
        case _ if shown == given and isinstance(shown, bool) == isinstance(given, bool):
            return
        case _:
            raise Mismatch(f"{where}: {shown!r} is shown, not {given!r}")
