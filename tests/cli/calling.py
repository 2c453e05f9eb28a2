"""The fixtures ``tq``, the command line in this process, and ``url``, a server for it to ask.

A plugin that modules ask for by name, not a conftest.py: mypy cannot have two modules of that name.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import APP, CallTq, Done, serving

from tq.cli.main import main


@pytest.fixture
def tq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CallTq:
    """``tq`` in this process, in an empty folder, to its end; modules it imported are forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [name for name in os.environ if name.startswith("TQ_")]:
        monkeypatch.delenv(name)

    def call(*args: str, stdin: str = "", **env: str) -> Done:
        known = set(sys.modules)
        with monkeypatch.context() as here:
            here.setattr(sys, "argv", ["tq", *args])
            here.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            for name, value in env.items():
                here.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of `cli_kit.APP` in a process of its own, for the tests of one file."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "app.py").write_text(APP)
    with serving("serve", "--store", "memory:", cwd=folder) as (_, url):
        yield url
