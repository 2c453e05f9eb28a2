"""The generated parts of the reference are those that the code would write now."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from reference import DOCS, PARTS, UnknownPart, filled, names_in, pages
from reference_cli import COMMANDS
from reference_http import takes
from reference_python import signature, text_of

import tq
import tq.testing
from tq.cli.exits import EXIT_MEANINGS, Exit


@pytest.mark.parametrize("path", [*pages()], ids=lambda path: path.stem)
def test_a_page_has_what_the_code_would_write(path: Path) -> None:
    text = path.read_text()
    assert text == filled(text), "run `just docs`"


def test_every_part_is_on_one_page() -> None:
    found = Counter(name for path in pages() for name in names_in(path.read_text()))
    assert found == Counter([*PARTS])


def test_every_command_has_its_section() -> None:
    lines = (DOCS / "reference/cli.md").read_text().splitlines()
    titles = [line.lstrip("# ") for line in lines if line.startswith(("## tq ", "### tq "))]
    assert sorted(titles) == sorted(COMMANDS)


def test_every_exit_code_has_a_meaning() -> None:
    assert set(EXIT_MEANINGS) == set(Exit)


def test_all_that_is_exported_is_told_of() -> None:
    text = (DOCS / "reference/python.md").read_text()
    for name in [*tq.__all__, *tq.testing.__all__]:
        assert f"### {name}\n" in text or f"`{name}`" in text, name


PAGE = """By hand.

<!-- generated: a -->

old

<!-- end -->

By hand too.

<!-- generated: b -->
<!-- end -->
"""


def test_only_what_is_generated_is_written() -> None:
    parts = {"a": lambda: "new\n", "b": lambda: "| x |\n"}
    new = filled(PAGE, parts)
    assert new == PAGE.replace("old", "new").replace("b -->\n", "b -->\n\n| x |\n\n")
    assert filled(new, parts) == new
    assert names_in(new) == ["a", "b"]


def test_a_part_that_nothing_writes_is_found() -> None:
    with pytest.raises(UnknownPart, match="b"):
        filled(PAGE, {"a": str})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"anyOf": [{"type": "number", "minimum": 0.001, "maximum": 604800}, {"type": "null"}]},
            "number, 0.001 to 604,800",
        ),
        ({"type": "integer", "minimum": -100}, "integer, at least −100"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 16}, "list, at most 16 of: text"),
        ({"type": "string", "pattern": "^[0-9a-f]{12}$"}, "text that matches `^[0-9a-f]{12}$`"),
        ({"$ref": "#/components/schemas/RetryRequest"}, "[RetryRequest](#retryrequest)"),
        ({"$ref": "#/components/schemas/OnFailure"}, "`cancel`, `run`"),
        ({}, "any JSON"),
    ],
)
def test_a_schema_is_put_in_words(schema: dict[str, object], words: str) -> None:
    assert takes(schema) == words


async def shown(a: int, *, b: str = "x", clock: object = object()) -> list[str]:
    """Shows *a*, with ``code``.

    Args:
        a, b: What is
            shown.
    Raises:
        ValueError: It is odd.
    """
    return [b] * a


def test_a_signature_and_its_docstring_are_written() -> None:
    assert (
        signature("shown", shown) == "async shown(a: int, *, b: str = 'x', clock: object = ...) -> list[str]"
    )
    assert text_of(shown) == (
        "Shows `a`, with `code`.\n\nArgs:\n\n- `a`, `b`: What is\n  shown.\n\n"
        "Raises:\n\n- `ValueError`: It is odd."
    )
