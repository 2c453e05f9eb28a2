"""The commands of ``tq``: their flags and their help, and what every ending turns into.

What is heavy (trio, Quart, the HTTP client) is imported by the command that needs it, so that
``tq --help`` and a refused flag answer at once.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from tq import __version__
from tq.cli.completion import completion_command
from tq.cli.db import db_group
from tq.cli.dead import dead_group
from tq.cli.exits import EXIT_MEANINGS, Exit, Fault, say
from tq.cli.keys import keys_group
from tq.cli.options import AHEAD, FOREVER, Duration, asks, completes, examples, is_duration, task_options
from tq.cli.queues import queues_group
from tq.cli.schedules import schedules_group
from tq.cli.servers import servers_command
from tq.cli.streams import lost_output, open_streams
from tq.cli.tasks import tail_command, tasks_group
from tq.cli.top import top_command
from tq.cli.workers import workers_command
from tq.config import SETTINGS, Config, load_config
from tq.core.errors import InvalidInput

if TYPE_CHECKING:
    from tq.cli.asking import Api

F = TypeVar("F", bound=Callable[..., Any])

RELOAD: Final = "--reload"
DEMO_STORE: Final = "sqlite:///./tq-demo.db"
"""Apart from the default of ``tq serve``: the demo accepts every type, so it would eat real tasks."""


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    open_streams()
    try:
        code = Exit(cli.main(prog_name="tq", standalone_mode=False) or Exit.OK)
        sys.stdout.flush()
    except Fault as fault:
        code = say(fault.line, fault.code)
    except InvalidInput as fault:
        code = say(fault.message, Exit.USAGE)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "tq"
        code = say(f"{error.format_message()} (see {path} --help)", Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        code = Exit.INTERRUPTED
    except _Failed as failed:
        code = _lost_or_ours(failed.error)
    except Exception as error:
        code = _lost_or_ours(error)
    sys.exit(code)


class _Failed(Exception):
    """Carries an OSError past click, which would end the process itself when a pipe is closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _lost_or_ours(error: Exception) -> Exit:
    """What *error*, which nothing expected, turns into: the output is lost, or tq has a fault."""
    if isinstance(error, OSError) and (code := lost_output(error)) is not None:
        return code
    with suppress(OSError):
        traceback.print_exception(error)
    return say("this is a fault of tq, not yours; what was acknowledged is stored", Exit.FAILED)


class _Commands(click.Group):
    """Hands every OSError of a command, and of its help, to `main`."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """The context; this is where help is printed."""
        with _past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """What the command returns."""
        with _past_click():
            return super().invoke(ctx)


@contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Failed(error) from None


_EXAMPLES: Final = examples("tq demo", "tq serve tasks:app", "tq submit email to=ada@example.org --wait")
_EPILOG: Final = f"{_EXAMPLES}\n\n\b\nExit codes:\n" + "\n".join(
    f"  {code:3}  {meaning}" for code, meaning in EXIT_MEANINGS.items()
)


@click.group(
    cls=_Commands, invoke_without_command=True, epilog=_EPILOG, context_settings={"max_content_width": 110}
)
@click.version_option(__version__, prog_name="tq", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A task queue server: one process, an HTTP API, durable, no broker."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _settings(command: F) -> F:
    """Give *command* a flag for every setting, as text: `tq.config` knows what each may be."""
    for setting in reversed(SETTINGS):
        about = f"{setting.help} [default: {setting.default or 'none'}; variable: {setting.variable}]"
        # HOST:PORT and N|MIN:MAX stand for what is written there; full|relaxed is what is written there.
        words = setting.metavar.split("|") if setting.metavar.islower() else ()
        command = click.option(
            setting.flag,
            setting.name,
            metavar=setting.metavar,
            shell_complete=completes(*words) if words else None,
            help=about,
        )(command)
    return command


def _config(flags: Mapping[str, str | None]) -> Config:
    return load_config(flags, environ=os.environ, folder=Path.cwd())


@cli.command(
    short_help="Run a server for your handlers.",
    epilog=examples("tq serve tasks:app --workers 2:20", "tq serve --reload"),
)
@click.argument("app", required=False, metavar="[MODULE:APP]")
@click.option(RELOAD, is_flag=True, help="Start again when Python files change, for development.")
@_settings
def serve(*, app: str | None, reload: bool, **flags: str | None) -> Exit:
    """Run a server for the handlers of a TaskQueue.

    MODULE:APP names it, as in tasks:app. Alone: the first TaskQueue in app.py or tasks.py of the current
    directory.
    """
    config = _config(flags)
    if reload:
        return _reload(config)
    from tq.cli.loading import load_app

    queue = load_app(app, Path.cwd())
    from tq.cli.serving import run

    return run(queue, config)


def _reload(config: Config) -> Exit:
    from tq.cli.printing import note
    from tq.cli.reloading import run

    if config.store == "memory:":
        note("the store is memory: every task is lost when the server starts again")
    command = [sys.executable, *(word for word in sys.orig_argv[1:] if word != RELOAD)]
    return run(command, Path.cwd(), os.environ)


@cli.command(
    short_help="Run a server to try: any type is accepted, some tasks fail.",
    epilog=examples("tq demo", "tq demo --bind 127.0.0.1:9000"),
)
@_settings
def demo(**flags: str | None) -> Exit:
    """Run a server to try: it accepts any type, takes a moment, and fails one time in five.

    Its tasks are kept in ./tq-demo.db, whatever TQ_STORE and tq.toml say; --store chooses another place.
    """
    config = _config({**flags, "store": flags["store"] or DEMO_STORE})
    from tq.cli.serving import run
    from tq.demo import make_demo

    return run(make_demo(random.Random()), config)


class _SubmitCommand(click.Command):
    """Lets ``--wait`` stand alone before KEY=VALUE, which click would take for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a ``--wait`` without a duration after it the longest there is."""
        following = [*args, ""][1:]
        for index, after in enumerate(following):
            if args[index] == "--wait" and not is_duration(after):
                args = [*args[:index], f"--wait={FOREVER}", *args[index + 1 :]]
        return super().parse_args(ctx, args)


@cli.command(
    cls=_SubmitCommand,
    epilog=examples(
        "tq submit email to=ada@example.org --delay 10m",
        "tq submit report --payload @report.json --wait 1m && echo done",
    ),
)
@click.argument("type")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--id", metavar="ID", help="The id of the task; the same request again makes no second task.")
@click.option("--delay", type=Duration(), help="Start no sooner than this from now.")
@click.option("--run-at", type=AHEAD, help="Start no sooner than this instant.")
@click.option("--deadline", type=AHEAD, help="It must have ended by this instant, or in so long: 1h.")
@click.option("--expires-at", type=AHEAD, help="It must have started by this instant, or in so long.")
@click.option("--parent", "parent_id", metavar="ID", help="The task that it is a child of.")
@click.option(
    "--depends-on", metavar="ID", multiple=True, help="A task that must have ended before; may be repeated."
)
@click.option(
    "--on-dependency-failure",
    metavar="WHAT",
    shell_complete=completes("cancel", "run"),
    help="If one of these does not succeed: cancel or run.",
)
@task_options
@click.option(
    "--wait", type=Duration(), metavar="[DURATION]", help="Wait until it ends, or at most this long."
)
@asks
def submit(*, api: Api, wait: int | None, as_json: bool, **fields: Any) -> Exit:
    """Submit a task of TYPE and print its id.

    The payload is the object of the KEY=VALUE; a VALUE that is JSON is taken as such, any other as text.

    With --wait, the result is printed instead, and the exit code says how the task ended: 0 it succeeded,
    10 it failed, 11 it was cancelled, 12 it has not ended yet.
    """
    from tq.cli.submitting import run

    return run(api, fields, wait_ms=wait, as_json=as_json)


@cli.command(
    short_help="Look at this machine and the settings: what is wrong, what to do.",
    epilog=examples("tq doctor", "tq doctor --store sqlite:////var/lib/tq.db"),
)
@_settings
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(*, as_json: bool, **flags: str | None) -> Exit:
    """Look at this machine and at the settings: what is there, what is wrong, what to do."""
    config = _config(flags)
    from tq.doctor import Status, examine, report_json, report_text

    checks = examine(config, timer=time.perf_counter)
    click.echo(report_json(checks) if as_json else report_text(checks))
    return Exit.FAILED if any(check.status is Status.FAIL for check in checks) else Exit.OK


_GROUPS: Final = (tasks_group, dead_group, queues_group, schedules_group, keys_group, db_group)
_SINGLE: Final = (workers_command, servers_command, top_command, tail_command, completion_command)
for _command in (*_GROUPS, *_SINGLE):
    cli.add_command(_command)
