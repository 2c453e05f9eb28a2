"""Arguments that are not UTF-8, as a shell hands them on: refused in one line, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_kit import shell
from tiers import tiered

pytest_plugins = ("calling",)


@pytest.mark.parametrize(
    "script",
    tiered(
        [
            r"tq submit echo x=$'\xff'",
            r"tq submit echo $'k\xff=1'",
            r"tq submit $'\xff'",
            r"tq submit echo --payload $'\"\xff\"'",
            r"tq submit echo --tag $'\xff'",
            r"tq submit echo --tag=$'\xff'",
            r"tq submit echo --id $'\xff'",
            r"tq submit echo --depends-on $'\xff'",
            r"tq submit echo --delay $'\xff'",
            r"tq tasks show $'\xff'",
            r"tq tasks cancel a $'\xff'",
            r"tq tasks list --type $'\xff'",
            r"tq tasks list --url $'http://127.0.0.1:1/\xff'",
            r"tq tasks list --url $'http://\xff/'",
            r"tq tail $'\xff'",
            r"tq tail --queue $'\xff'",
            r"tq queues pause $'\xff'",
            r"tq schedules set $'\xff' echo --every 5m",
            r"tq keys create --name $'\xff' --scope read",
            r"tq keys create --name $'\xff' --scope admin --store sqlite:///./tq.db",
            r"tq keys revoke $'\xff'",
            r"tq dead list --error $'\xff'",
            r"tq $'\xff'",
            r"TQ_KEY=$'\xff' tq tasks list",
            r"TQ_URL=$'\xff' tq tasks list",
            r"tq serve $'\xff'",
            r"tq serve --workers $'\xff'",
            r"tq serve --store $'sqlite:///nowhere/\xff.db'",
            r"tq demo --store $'\xff'",
            r"tq demo --bind $'\xff:0'",
            r"TQ_WORKERS=$'\xff' tq demo",
        ],
        quick=10,
    ),
)
def test_an_argument_that_is_not_utf8_is_one_line(url: str, tmp_path: Path, script: str) -> None:
    code, out, err = shell(script, tmp_path, TQ_URL=url)
    assert code in (2, 3, 4, 5), (code, out, err)
    assert err.startswith("tq: "), err
    assert err.count("\n") == 1, err


def test_a_file_may_have_any_name(url: str, tmp_path: Path) -> None:
    (tmp_path / "a\udcff.json").write_text("7")
    code, out, err = shell(r"tq submit echo --payload $'@a\xff.json' --wait", tmp_path, TQ_URL=url)
    assert (code, out) == (0, "7\n"), err
