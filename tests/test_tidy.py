"""The shape of the code: sizes, who may import whom, and where time, chance and identity come from.

Sizes are a ratchet: what is over a limit is listed here by hand, and taken off when it no longer is.
Every check is itself tested with something planted.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
LONG_FILES: dict[str, str] = {}
"""Path and why it is longer."""
LONG_FUNCTIONS: dict[str, str] = {}
"""``path::name`` and why it is longer."""


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@lru_cache(maxsize=1)
def nodes(source: str) -> list[ast.AST]:
    """All of *source*, as it is read: several checks look at one file after another."""
    return list(ast.walk(ast.parse(source)))


OURS = python_files("tq", "tests", "benchmarks", "examples")
PACKAGE = python_files("tq")


# Sizes


def long_functions(source: str) -> list[str]:
    """The names of the functions in *source* that are over the limit."""
    return [
        node.name
        for node in nodes(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]


def is_long(source: str) -> bool:
    return len(source.splitlines()) > FILE_LINES_MAX


def test_no_file_is_longer_than_the_limit() -> None:
    long = {name_of(path) for path in OURS if is_long(path.read_text())}
    assert long == set(LONG_FILES)


def test_no_function_is_longer_than_the_limit() -> None:
    long = {f"{name_of(path)}::{name}" for path in OURS for name in long_functions(path.read_text())}
    assert long == set(LONG_FUNCTIONS)


def test_a_long_file_is_found() -> None:
    assert is_long("pass\n" * (FILE_LINES_MAX + 1))
    assert not is_long("pass\n" * FILE_LINES_MAX)


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * FUNCTION_LINES_MAX
    assert long_functions(f"async def long():\n{body}") == ["long"]
    assert long_functions(f"class A:\n  def long(self):\n{body}") == ["long"]
    assert long_functions("def short():\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)) == []


# Imports

MAY_IMPORT = {
    "core": {"core"},
    "storage": {"core", "storage"},
    "clock": {"core"},
    "context": {"core", "clock"},
    "signature": {"core", "context"},
    "function": {"core", "client", "context", "signature"},
    "handlers": {"core", "context", "function", "signature"},
    "engine": {"core", "storage", "clock", "context", "signature", "handlers", "tracing", "engine"},
    "api": {"core", "storage", "clock", "handlers", "engine", "metrics", "dashboard", "api"},
    "dashboard": {"dashboard"},
    "metrics": {"core", "storage", "clock", "handlers", "engine", "metrics"},
    "config": {"core"},
    "client": {"core", "clock", "client"},
    "logs": {"core"},
    "tracing": {"core", "__init__"},
    "demo": {"context", "handlers"},
    "doctor": {"core", "storage", "api", "config"},
    "cli": {"core", "storage", "clock", "handlers", "engine", "api", "metrics", "config", "logs"}
    | {"demo", "doctor", "tracing", "cli"},
    "__init__": {"core", "client", "context", "function", "handlers"},
    "__main__": {"cli"},
}
"""By part of the package: the parts it may import. Nothing imports ``testing``, which imports all."""

CORE_MAY_IMPORT = {"tq/core/schedule.py": {"cronsim"}}
"""Beside the standard library and msgspec. cronsim is pure: it says which local times match."""

STORES = ("memory", "sqlite", "postgres")


def imported_modules(source: str) -> set[str]:
    """The dotted name of each module that *source* imports, anywhere in it."""
    modules = set()
    for node in nodes(source):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            modules.add(node.module)
            # ``from tq.core import ops`` imports a module too.
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def part_of(path: str) -> str:
    """Which part of the package the file is: ``tq/core/task.py`` is of ``core``."""
    return Path(path).parts[1].removesuffix(".py")


def wrong_imports(path: str, source: str) -> set[str]:
    """What the file at *path* imports and must not."""
    part = part_of(path)
    modules = imported_modules(source)
    parts = {module.split(".")[1] for module in modules if module.startswith("tq.")}
    known = {module.relative_to(ROOT / "tq").parts[0].removesuffix(".py") for module in PACKAGE}
    wrong = {f"tq.{each}" for each in parts & known} - {f"tq.{each}" for each in MAY_IMPORT[part]}
    # The lazy names of ``tq`` itself are for users: through them, anything could import handlers.
    wrong |= {f"tq.{each}" for each in parts - known - {"__version__"}}
    if part == "core":
        allowed = sys.stdlib_module_names | {"msgspec", "tq"} | CORE_MAY_IMPORT.get(path, set())
        wrong |= {module for module in modules if module.split(".")[0] not in allowed}
    return wrong | other_stores(path, modules)


def other_stores(path: str, modules: set[str]) -> set[str]:
    """The stores that the file at *path*, if it is of a store, imports beside its own."""
    own = [store for store in STORES if path.startswith(f"tq/storage/{store}")]
    others = tuple(f"tq.storage.{store}" for store in STORES if store not in own)
    return {module for module in modules if own and module.startswith(others)}


def test_imports_go_one_way() -> None:
    found = {
        name_of(path): wrong
        for path in PACKAGE
        if part_of(name_of(path)) != "testing" and (wrong := wrong_imports(name_of(path), path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("path", "line", "wrong"),
    [
        ("tq/core/task.py", "import trio", {"trio"}),
        ("tq/core/task.py", "from cronsim import CronSim", {"cronsim"}),
        ("tq/core/schedule.py", "import trio", {"trio"}),
        ("tq/core/task.py", "from tq.storage.store import Store", {"tq.storage"}),
        ("tq/core/task.py", "def f():\n    from tq import storage", {"tq.storage"}),
        ("tq/storage/sqlite.py", "import tq.engine.server", {"tq.engine"}),
        ("tq/storage/sqlite_file.py", "from tq.storage.memory import MemoryStore", {"tq.storage.memory"}),
        ("tq/engine/server.py", "from tq.api.routes import ROUTES", {"tq.api"}),
        ("tq/engine/server.py", "from tq import TaskQueue", {"tq.TaskQueue"}),
        ("tq/api/app.py", "from tq.cli.exits import Exit", {"tq.cli"}),
        ("tq/cli/main.py", "from tq.testing.kit import open_server", {"tq.testing"}),
    ],
)
def test_a_wrong_import_is_found(path: str, line: str, wrong: set[str]) -> None:
    found = wrong_imports(path, line)
    assert wrong <= found
    assert all(any(each.startswith(one) for one in wrong) for each in found)


# Time, chance, identity

MAY_ASK_THE_MACHINE = ("tq/clock.py", "tq/cli/")
"""Where clocks, chance and ids come from; everything else is handed them."""

FORBIDDEN = re.compile(
    r"(time|uuid|secrets)\.\w+"
    r"|datetime\.(datetime\.(now|utcnow|today)|date\.today)"
    r"|random\.(?!Random$)\w+"
    r"|os\.(urandom|getrandom)"
)
FORBIDDEN_SQL = re.compile(
    r"\bnow\s*\(|\bcurrent_(timestamp|time|date)\b|'now'|\brandom(blob)?\s*\(|\b(gen_random_uuid|uuidv7)\b"
    # Without an argument these mean now, and so does strftime without a second one.
    r"|\b(date|time|datetime|julianday|unixepoch)\s*\(\s*\)|\bstrftime\s*\(\s*'[^']*'\s*\)",
    re.I,
)


def machine_calls(source: str) -> list[str]:
    """What *source* asks the machine for: each use of a clock, of chance, of an id maker, by full name."""
    names = _imported_names(source)
    found = []
    for node in nodes(source):
        full = _full_name(node, names)
        if full is not None and FORBIDDEN.fullmatch(full):
            found.append(full)
        if isinstance(node, ast.Call) and not node.args and not node.keywords:
            # Without a seed it takes one from the machine.
            found += [f"{name}()" for name in [_full_name(node.func, names)] if name == "random.Random"]
    return found


def _imported_names(source: str) -> dict[str, str]:
    """The full name behind each name that an import binds."""
    names = {}
    for node in nodes(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # ``import a.b`` binds a, ``import a.b as c`` binds c to a.b.
                bound = alias.name if alias.asname else alias.name.split(".")[0]
                names[alias.asname or bound] = bound
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _full_name(node: ast.AST, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, names)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def sql_calls(source: str) -> list[str]:
    """The texts of Python *source*, docstrings aside, that ask a database for time or chance."""
    docs = {id(node.value) for node in nodes(source) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in nodes(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]
    return [text for text in texts if FORBIDDEN_SQL.search(text)]


def test_only_clock_and_command_line_ask_the_machine() -> None:
    found = {
        name_of(path): calls
        for path in PACKAGE
        if not name_of(path).startswith(MAY_ASK_THE_MACHINE)
        and (calls := machine_calls(path.read_text()) + sql_calls(path.read_text()))
    }
    assert found == {}


SQL_MAY_ASK = {
    "tq/storage/migrations/postgres/0004_submit_task.sql": "submit_task: no server is there to pass them in",
}


def test_no_sql_file_asks_for_time_or_chance() -> None:
    files = sorted((ROOT / "tq").rglob("*.sql"))
    assert files
    assert {name_of(path) for path in files if FORBIDDEN_SQL.search(path.read_text())} == set(SQL_MAY_ASK)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", ["time.time"]),
        ("import time as t\nx = t.monotonic_ns", ["time.monotonic_ns"]),
        ("from time import perf_counter as p\np()", ["time.perf_counter"]),
        ("from datetime import datetime\ndatetime.now()", ["datetime.datetime.now"]),
        ("import datetime as d\nd.datetime.utcnow()", ["datetime.datetime.utcnow"]),
        ("import datetime\ndatetime.date.today()", ["datetime.date.today"]),
        ("import random\nrandom.random()", ["random.random"]),
        ("from random import shuffle\nshuffle([])", ["random.shuffle"]),
        ("from random import Random\nRandom()", ["random.Random()"]),
        ("import random\nrandom.SystemRandom()", ["random.SystemRandom"]),
        ("import uuid\nuuid.uuid4()", ["uuid.uuid4"]),
        ("from secrets import token_hex\ntoken_hex()", ["secrets.token_hex"]),
        ("import os\nos.urandom(8)", ["os.urandom"]),
        ("from datetime import datetime, UTC\ndatetime.fromtimestamp(1, UTC)", []),
        ("from random import Random\ndef f(random: Random): random.random()\nRandom(7)", []),
        ("clock.time()\nself.random.random()", []),
    ],
)
def test_a_call_to_the_machine_is_found(source: str, found: list[str]) -> None:
    assert machine_calls(source) == found


@pytest.mark.parametrize(
    ("text", "is_forbidden"),
    [
        ("SELECT now()", True),
        ("created DEFAULT CURRENT_TIMESTAMP", True),
        ("SELECT strftime('%s', 'now')", True),
        ("SELECT datetime('now')", True),
        ("SELECT unixepoch()", True),
        ("SELECT strftime('%s')", True),
        ("SELECT strftime('%s', run_at)", False),
        ("ORDER BY random()", True),
        ("SELECT randomblob(16)", True),
        ("SELECT id FROM task WHERE run_at <= :now", False),
        ("known, not now", False),
    ],
)
def test_sql_that_asks_for_time_or_chance_is_found(text: str, is_forbidden: bool) -> None:
    assert bool(sql_calls(f"sql = {text!r}")) == is_forbidden
    assert sql_calls(f'"""{text}"""') == [], "a docstring may speak of it"


# Files of the project


def uncommented_recipes(justfile: str) -> list[str]:
    """The recipes of *justfile* without a comment above them."""
    found = []
    above = ""
    for line in justfile.splitlines():
        recipe = re.match(r"@?([a-z_][\w-]*)(?: [^:=]*)?:(?!=)", line)
        if recipe and not above.startswith("#"):
            found.append(recipe[1])
        if not line.startswith("["):
            above = line
    return found


def test_every_recipe_has_a_comment() -> None:
    assert uncommented_recipes((ROOT / "Justfile").read_text()) == []


def test_a_recipe_without_a_comment_is_found() -> None:
    text = "# Fine\n[private]\ngood *ARGS: dep\n    echo\n\nbad:\n    echo\n\nx := 'a:b'\n# Fine\nalso:\n"
    assert uncommented_recipes(text) == ["bad"]


# Put together, so that this file does not find itself.
REGISTRY = re.compile(
    "|".join(
        ["py" + "pi[.]org", "python" + "hosted", "npm" + "js[.]", "simple" + "/[a-z]", "--index" + "-url"]
    )
)
MACHINE_PATHS = ["/ro" + "ot/", "/wo" + "rk/", "/fa" + "rm/", "/opt/" + "(wheels|pypi)", "file" + "://"]
MACHINE_PATH = re.compile("|".join(MACHINE_PATHS))


def committed_files() -> Iterator[Path]:
    """What git has, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return (path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def test_no_file_names_a_registry_or_a_path_of_this_machine() -> None:
    found = []
    for path in committed_files():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [
            f"{name_of(path)}: {hit[0]}" for hit in [REGISTRY.search(text), MACHINE_PATH.search(text)] if hit
        ]
    assert found == []


def test_a_registry_and_a_path_are_found() -> None:
    assert REGISTRY.search("https://py" + "pi.org/simple")
    assert MACHINE_PATH.search("see /ro" + "ot/.venv")
    assert not MACHINE_PATH.search("sqlite:////var/lib/tq.db")


def test_requirements_are_pinned_with_hashes_for_every_python() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9-]+)==\S+(?: ; .+?)? \\\n    --hash=sha256:", text, re.M)
    assert len(pins) == len(re.findall(r"^[a-z]", text, re.M)), "a pin without a hash"
    assert {"trio", "quart-trio", "apsw", "psycopg", "opentelemetry-sdk", "pytest", "hatchling"} <= set(pins)
    assert pins.count("quart") == 2, "one for Python 3.13 and newer, one for before"
