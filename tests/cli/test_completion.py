"""``tq completion``: what a shell offers, asked as the script asks, and in a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import CallTq, environment, run_tq

pytest_plugins = ("calling",)


def offered(tq: CallTq, *words: str) -> list[str]:
    """What bash would be offered for the last of *words*."""
    variables = {
        "_TQ_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["tq", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = tq(**variables)
    assert (done.code, done.err) == (0, "")
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ta"], ["tail", "tasks"]),
        (["tasks", "re"], ["retry"]),
        (["submit", "--del"], ["--delay"]),
        (["tasks", "list", "--state", "s"], ["scheduled", "succeeded"]),
        (["tasks", "list", "--state", "failed,w"], ["failed,waiting"]),
        (["submit", "x", "--priority", ""], ["low", "normal", "high", "critical"]),
        (["submit", "x", "--on-conflict", "re"], ["reject", "replace"]),
        (["serve", "--log-level", "w"], ["warning"]),
        (["serve", "--durability", ""], ["full", "relaxed"]),
        (["serve", "--bind", "h"], []),
        (["queues", "set", "mail", "--order", "a"], ["aging"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_commands_flags_and_values_of_which_there_are_few_are_offered(
    tq: CallTq, words: list[str], wanted: list[str]
) -> None:
    assert offered(tq, *words) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_by_the_variable_that_is_answered(shell: str, tmp_path: Path) -> None:
    done = run_tq("completion", shell, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert f"_TQ_COMPLETE={shell}_complete" in done.out


def test_another_shell_is_refused(tq: CallTq) -> None:
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in tq("completion", "csh").refused(2)


def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    script = """
        eval "$(tq completion bash)"
        COMP_WORDS=(tq schedules pa) COMP_CWORD=2
        _tq_completion tq
        echo "${COMPREPLY[@]}"
    """
    (tmp_path / "tq").symlink_to(Path(sys.executable).parent / "tq")
    env = environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "pause\n"
