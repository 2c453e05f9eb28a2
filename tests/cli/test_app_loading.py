from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tq.cli.exits import Exit, Fault
from tq.cli.loading import load_app

ONE = "from tq import TaskQueue\n{name} = TaskQueue()\n@{name}.task('{name}')\ndef f() -> None: ...\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder; what is imported from it is forgotten at the end."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("files", "target", "type"),
    [
        ({"mine.py": ["one", "two"]}, "mine:two", "two"),
        ({"mine.py": ["one", "two"]}, "mine", "one"),
        ({"pack/mine.py": ["one"]}, "pack.mine:one", "one"),
        ({"app.py": ["one"], "tasks.py": ["two"]}, None, "one"),
        ({"tasks.py": ["two"]}, None, "two"),
        ({"app.py": [], "tasks.py": ["two"]}, None, "two"),
    ],
)
def test_the_queue_is_found(folder: Path, files: dict[str, list[str]], target: str | None, type: str) -> None:
    for file, names in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("".join(ONE.format(name=name) for name in names))
    assert load_app(target, folder).types == (type,)


def test_the_folder_comes_before_what_is_installed(folder: Path) -> None:
    assert "this" not in sys.modules
    (folder / "this.py").write_text(ONE.format(name="one"))
    assert load_app("this", folder).types == ("one",)


def test_an_attribute_of_an_attribute_is_followed(folder: Path) -> None:
    (folder / "mine.py").write_text(ONE.format(name="one") + "class Site:\n    queue = one\n")
    assert load_app("mine:Site.queue", folder).types == ("one",)
    with pytest.raises(Fault, match=r"mine:Site\.other is nothing") as caught:
        load_app("mine:Site.other", folder)
    assert caught.value.code is Exit.CANNOT_LOAD_APP
