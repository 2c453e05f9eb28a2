"""``tq completion``: the script by which a shell completes commands, flags and what a flag may be."""

from __future__ import annotations

from typing import Final

import click

from tq.cli.options import examples

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_TQ_COMPLETE"
"""By which the script of the shell asks ``tq`` what could follow."""


@click.command(
    "completion",
    short_help="Print the script that has a shell complete tq.",
    epilog=examples("tq completion bash", "tq completion fish"),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, *, shell: str) -> None:
    """Print the script by which bash, zsh or fish completes commands, flags and their values.

    The shell is to read it when it starts: eval "$(tq completion bash)" in ~/.bashrc. No server is asked.
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None, "click knows all of SHELLS"
    click.echo(completer(ctx.find_root().command, {}, "tq", VARIABLE).source())
