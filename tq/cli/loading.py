"""Finds the user's TaskQueue by its name and tells apart whose fault it is if there is none."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from tq.cli.exits import Exit, Fault
from tq.handlers import TaskQueue

APP_MODULES: Final = ("app", "tasks")


def load_app(target: str | None, folder: Path) -> TaskQueue:
    """The TaskQueue that *target*, ``module:name`` or ``module``, names; None looks for one in *folder*.

    It knows its own reference, so that another process can import it.

    Raises:
        Fault: There is none. If the user's own code raised, its traceback has been written to stderr.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    queue: object
    if target is None:
        queue, where, reference = _find_app(folder)
    else:
        module_name, _, attribute = target.partition(":")
        if module_name.endswith(".py") or "/" in module_name:
            raise _no_app(f"{target!r} looks like a file: name a module, as in tasks:app")
        where = target
        module = _import(module_name)
        attribute = attribute or _first(module) or ""
        queue = _attribute(module, attribute) if attribute else None
        reference = f"{module_name}:{attribute}"
    if not isinstance(queue, TaskQueue):
        what = "nothing" if queue is None else f"a {type(queue).__name__}"
        raise _no_app(f"{where} is {what}, not a TaskQueue: name one, as in tasks:app")
    if queue.types == ():
        raise _no_app(f"{where} has no handlers: add some with @app.task(…)")
    queue.reference = reference
    return queue


def _find_app(folder: Path) -> tuple[object, str, str]:
    for name in APP_MODULES:
        if (folder / f"{name}.py").is_file():
            module = _import(name)
            attribute = _first(module)
            if attribute is not None:
                return _attribute(module, attribute), f"{name}.py", f"{name}:{attribute}"
    raise _no_app(
        "no TaskQueue in app.py or tasks.py of this directory: name one, as in `tq serve tasks:app`"
        " (or try `tq demo`)"
    )


def _first(module: ModuleType) -> str | None:
    return next((name for name, value in vars(module).items() if isinstance(value, TaskQueue)), None)


def _attribute(module: ModuleType, path: str) -> object:
    value: object = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _no_app(line: str) -> Fault:
    return Fault(Exit.CANNOT_LOAD_APP, line)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or (name != error.name and not name.startswith(error.name + ".")):
            raise _raised(name, error) from None
        raise _no_app(f"there is no module {error.name!r} here or on the Python path") from None
    except (ValueError, TypeError) as error:
        if not name or ".." in name or name.startswith("."):
            raise _no_app(f"{name!r} is not the name of a module: write one as in tasks:app") from None
        raise _raised(name, error) from None
    except (Exception, SystemExit) as error:
        raise _raised(name, error) from None


def _raised(name: str, error: BaseException) -> Fault:
    """The fault of a module whose own code raised *error*, with the user's part of the traceback shown."""
    own = error.__traceback__
    while own is not None and _is_machinery(own.tb_frame.f_code.co_filename):
        own = own.tb_next
    print("".join(traceback.format_exception(error.with_traceback(own))), end="", file=sys.stderr)
    return _no_app(f"importing {name} raised {type(error).__name__}: {error}")


def _is_machinery(file: str) -> bool:
    return file == __file__ or file == importlib.__file__ or file.startswith("<frozen importlib")
