"""``tq tasks`` and ``tq dead`` against a real server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Timer

import click
import pytest
from cli_kit import APP, CallTq, Done, environment, serving
from tiers import slow

from tq.cli import bulk

pytest_plugins = ("calling",)

Answered = Callable[[str], list[str]]


@pytest.fixture
def at(url: str, tq: CallTq) -> Iterator[CallTq]:
    """``tq`` for the server, which is left empty."""
    call = partial(tq, TQ_URL=url)
    yield call
    assert call("tasks", "cancel", "--all", "--yes").code == 0
    wait_until(lambda: call("tasks", "list", "--state", "waiting,running").out == "")
    assert call("tasks", "delete", "--all", "--yes").code == 0


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")


def failed(call: CallTq, *ids: str) -> None:
    for each in ids:
        assert call("submit", "fail", "--id", each, "--tag", "bad", "--wait").code == 10


def ids(done: Done) -> list[str]:
    assert done.code == 0, done
    return [line.split("\t")[0] for line in done.out.splitlines()]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Answered:
    """Puts somebody there who gives an answer; returns the questions that were asked."""

    def answer(text: str) -> list[str]:
        asked: list[str] = []

        def confirm(question: str, **_: object) -> bool:
            asked.append(question)
            return text == "y"

        monkeypatch.setattr(bulk, "can_ask", lambda: True)
        monkeypatch.setattr(click, "confirm", confirm)
        return asked

    return answer


# Looking


def test_tasks_are_listed_newest_first_by_their_filters(at: CallTq) -> None:
    for number in range(3):
        at("submit", "add", f"a={number}", "--id", f"n{number}", "--tag", "odd" if number % 2 else "even")
    at("submit", "echo", "user=7", "--id", "e", "--key", "ada", "--queue", "side", "--wait")
    assert ids(at("tasks", "list")) == ["e", "n2", "n1", "n0"]
    assert ids(at("tasks", "list", "--tag", "even")) == ["n2", "n0"]
    assert ids(at("tasks", "list", "--type", "add", "--where", "payload.a:1")) == ["n1"]
    assert ids(at("tasks", "list", "--key", "ada", "--queue", "side", "--created-after", "1h")) == ["e"]
    assert ids(at("tasks", "list", "--created-before", "1h")) == []
    assert "[invalid_input]" in at("tasks", "list", "--state", "done").refused(7)


def test_a_list_turns_the_pages_up_to_its_limit(at: CallTq) -> None:
    for number in range(5):
        at("submit", "add", "a=1", "--id", f"n{number}", "--delay", "1h")
    some = at("tasks", "list", "--limit", "2")
    assert ids(some) == ["n4", "n3"]
    assert some.err == "tq: there are more than 2: see --limit and --all\n"
    assert at("tasks", "list", "--limit", "5").err == ""
    assert ids(at("tasks", "list", "--limit", "2", "--all")) == ["n4", "n3", "n2", "n1", "n0"]


def test_a_list_is_a_line_of_tabs_or_of_json_for_each(at: CallTq) -> None:
    at("submit", "echo", "--payload", r'"\u001b[2J"', "--id", "e", "--wait")
    line = at("tasks", "list").out
    assert line.split("\t")[:6] == ["e", "echo", "default", "succeeded", "ok", "1/20"]
    done = at("tasks", "list", "--json")
    assert "\x1b" not in done.out
    assert [json.loads(each)["payload"] for each in done.out.splitlines()] == ["\x1b[2J"]


def test_a_task_is_shown_with_its_errors(at: CallTq) -> None:
    failed(at, "f")
    out = at("tasks", "show", "f").out
    assert "\nstate\tfailed\n" in out
    assert '\ntags\t["bad"]\n' in out
    assert ' type=ValueError message="no luck" ' in out
    assert '\n        raise ValueError("no luck")\n' in out
    assert json.loads(at("tasks", "show", "f", "--json").out)["reason"] == "error"
    assert "[not_found]" in at("tasks", "show", "nope").refused(8)
    assert "no task ..:" in at("tasks", "show", "..").refused(8)


def test_a_tree_is_indented_by_its_depth(at: CallTq) -> None:
    at("submit", "add", "a=1", "--id", "top", "--wait")
    for name, parent in (("one", "top"), ("two", "one"), ("three", "top")):
        at("submit", "add", "a=1", "--id", name, "--parent", parent, "--delay", "1h")
    assert at("tasks", "tree", "top").out == (
        "top  add  succeeded  ok\n  one  add  scheduled\n    two  add  scheduled\n  three  add  scheduled\n"
    )
    assert json.loads(at("tasks", "tree", "top", "--json").out)["tree"]["children"][1]["id"] == "three"


def test_a_person_gets_a_table_as_wide_as_the_screen(at: CallTq, url: str, tmp_path: Path) -> None:
    at("submit", "add", "a=1", "--id", "x" * 100, "--wait")
    ours, theirs = pty.openpty()
    args = [sys.executable, "-m", "tq", "tasks", "list", "--url", url]
    env = environment() | {"COLUMNS": "70"}
    subprocess.run(args, stdout=theirs, env=env, cwd=tmp_path, timeout=30, check=True)
    head, row = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    os.close(theirs)
    assert head.split() == ["ID", "TYPE", "QUEUE", "STATE", "REASON", "ATTEMPT", "CREATED", "PROGRESS"]
    assert row.startswith("xxxx")
    assert "…" in row
    assert len(row) <= 70


# Following


def test_a_tail_prints_to_the_end_and_exits_by_the_outcome(at: CallTq) -> None:
    at("submit", "add", "a=1", "--id", "t", "--delay", "300ms")
    done = at("tasks", "tail", "t")
    assert (done.code, done.err) == (0, "")
    words = [[word for word in line.split() if not word.startswith("20")] for line in done.out.splitlines()]
    assert [each[0] for each in words] == ["snapshot", "task.started", "attempt.finished", "end"]
    assert words[0][1:] == ["id=t", "type=add", "queue=default", "state=scheduled", "attempt=0"]
    assert words[3][1:] == [
        "id=t",
        "type=add",
        "queue=default",
        "state=succeeded",
        "reason=ok",
        "attempt=1",
        "result=2",
    ]
    failed(at, "f")
    assert at("tasks", "tail", "f").code == 10
    at("submit", "drop", "--id", "d", "--wait")
    assert at("tasks", "tail", "d", "--json").code == 11
    assert at("tail", "t").out.splitlines()[-1].endswith(" state=succeeded reason=ok attempt=1 result=2")
    assert "[not_found]" in at("tasks", "tail", "nope").refused(8)
    assert "leave them out, or ID" in at("tasks", "tail", "t", "--queue", "q").refused(2)


@slow
def test_a_tail_outlives_a_restart_of_the_server(tq: CallTq, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (process, url):
        tq("submit", "add", "a=41", "--id", "t", "--delay", "4s", TQ_URL=url)
        again: list[subprocess.Popen[bytes]] = []

        def restart() -> None:
            process.terminate()
            process.wait()
            bind = url.removeprefix("http://")
            again.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tq", "serve", "--bind", bind],
                    cwd=tmp_path,
                    env=environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )

        restarting = Timer(1, restart)
        restarting.start()
        done = tq("tasks", "tail", "t", TQ_URL=url)
        restarting.join()
        again[0].kill()
        again[0].wait()
    assert done.code == 0, done
    assert done.out.splitlines()[-1].endswith(" state=succeeded reason=ok attempt=1 result=42")
    assert "tq: the stream broke off; coming back\n" in done.err


def test_all_that_happens_is_told_until_an_interrupt(at: CallTq, url: str, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "tq", "tasks", "tail", "--type", "add", "--url", url]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline().startswith("opened ")
        at("submit", "echo", "--wait")
        at("submit", "add", "a=1", "--id", "t", "--wait")
        told = [tail.stdout.readline() for _ in range(3)]
        tail.send_signal(2)
        assert tail.wait(10) == 130
    assert ["task_id=t" in line for line in told] == [True, True, True]
    assert "attempt.finished" in told[2]


# Changing


def test_tasks_are_changed_by_their_ids_and_one_refusal_stops_none(at: CallTq) -> None:
    for name in ("a", "b"):
        at("submit", "add", "a=1", "--id", name, "--delay", "1h")
    done = at("tasks", "cancel", "a", "nope", "b")
    assert (done.code, done.out) == (8, "a\tcancelled\nb\tcancelled\n")
    assert done.err.startswith("tq: nope: refused: no task nope: ")
    assert at("tasks", "cancel", "a").refused(7).endswith("[illegal_transition]\n")
    # By the time it is told, a worker may have taken it.
    assert at("tasks", "retry", "a").out in {"a\tpending\n", "a\trunning\n", "a\tsucceeded\n"}
    assert at("tasks", "delete", "b").refused(2).startswith("tq: nobody is here to ask")
    assert at("tasks", "delete", "b", "--yes") == Done(0, "b\tdeleted\n", "")
    assert "[not_found]" in at("tasks", "show", "b").refused(8)


def test_a_running_task_is_told_to_be_stopping(at: CallTq) -> None:
    at("submit", "sleep", "seconds=30", "--id", "s")
    wait_until(lambda: ids(at("tasks", "list", "--state", "running")) == ["s"])
    done = at("tasks", "cancel", "s")
    assert (done.code, done.out) in [(0, "s\tstopping\n"), (0, "s\tcancelled\n")]


def test_children_are_cancelled_too_unless_told_otherwise(at: CallTq) -> None:
    at("submit", "add", "a=1", "--id", "p", "--delay", "1h")
    at("submit", "add", "a=1", "--id", "c", "--parent", "p", "--delay", "1h")
    at("tasks", "cancel", "p", "--no-cascade")
    assert ids(at("tasks", "list", "--state", "scheduled")) == ["c"]
    at("tasks", "retry", "p")
    at("submit", "add", "a=1", "--id", "p2", "--delay", "1h", "--tag", "x")
    at("submit", "add", "a=1", "--id", "c2", "--parent", "p2", "--delay", "1h")
    at("tasks", "cancel", "--tag", "x", "--yes")
    # A child is cancelled soon after its parent, not before the command has ended.
    wait_until(lambda: ids(at("tasks", "list", "--state", "scheduled")) == ["c"])


def test_a_filter_is_counted_and_asked_about_first(at: CallTq, answered: Answered) -> None:
    for name in ("a", "b"):
        at("submit", "add", "a=1", "--id", name, "--tag", "x", "--delay", "1h")
    at("submit", "add", "a=1", "--id", "c", "--delay", "1h")
    assert at("tasks", "cancel", "--tag", "x", "--dry-run").out == "2 tasks would be cancelled\n"
    asked = answered("n")
    assert at("tasks", "cancel", "--tag", "x").refused(130) == "tq: nothing was changed\n"
    assert asked == ["2 tasks would be cancelled. Go on?"]
    assert ids(at("tasks", "list", "--state", "scheduled")) == ["c", "b", "a"]
    asked = answered("y")
    assert at("tasks", "cancel", "--tag", "nobody").out == "0 tasks would be cancelled\n"
    assert asked == [], "nothing to ask about"
    assert at("tasks", "cancel", "--tag", "x") == Done(0, "2 of 2 tasks cancelled\n", "")
    assert ids(at("tasks", "list", "--state", "scheduled")) == ["c"]
    assert len(asked) == 1


def test_where_nobody_can_be_asked_nothing_is_changed_without_yes(at: CallTq) -> None:
    at("submit", "add", "a=1", "--id", "a", "--tag", "x", "--delay", "1h")
    for command in (["tasks", "cancel", "--tag", "x"], ["tasks", "delete", "--all"], ["dead", "purge"]):
        assert "say --yes" in at(*command).refused(2)
    assert ids(at("tasks", "list", "--state", "scheduled")) == ["a"]
    done = at("tasks", "cancel", "--tag", "x", "--yes", "--json")
    assert json.loads(done.out) == {"dry_run": False, "matched": 1, "changed": 1, "more": False}


def test_a_limit_leaves_the_rest(at: CallTq) -> None:
    for name in ("a", "b", "c"):
        at("submit", "add", "a=1", "--id", name, "--delay", "1h")
    done = at("tasks", "cancel", "--all", "--limit", "2", "--yes")
    assert (done.code, done.out) == (0, "2 of 2 tasks cancelled\n")
    assert done.err == "tq: there are more than one request may change: the same again goes on\n"


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
def test_a_change_must_say_which_tasks_it_means(tq: CallTq, action: str) -> None:
    assert "say which tasks are meant" in tq("tasks", action, "--yes").refused(2)
    assert "either IDs or filters" in tq("tasks", action, "a", "--tag", "x").refused(2)
    assert "either IDs or filters" in tq("tasks", action, "a", "--all").refused(2)
    assert "are of filters" in tq("tasks", action, "a", "--dry-run").refused(2)


# Dead letters


def test_failures_are_listed_by_cause_or_one_by_one(at: CallTq) -> None:
    failed(at, "f1", "f2")
    (group,) = at("dead", "list").out.splitlines()
    fingerprint, count, kind, _, latest, error = group.split("\t")
    assert (count, kind, latest, error) == ("2", "fail", "f2", "ValueError: no luck")
    assert json.loads(at("dead", "list", "--json").out)["fingerprint"] == fingerprint
    assert ids(at("dead", "list", "--all")) == ["f2", "f1"]
    assert ids(at("dead", "list", "--fingerprint", fingerprint, "--limit", "1")) == ["f2"]
    assert ids(at("dead", "list", "--error", "rain")) == []
    assert "for other states there is tq tasks" in at("dead", "list", "--state", "pending").refused(2)


def test_failures_are_retried_and_purged_and_nothing_else_is(at: CallTq, answered: Answered) -> None:
    failed(at, "f1", "f2")
    at("submit", "drop", "--id", "d", "--wait")
    at("submit", "add", "a=1", "--id", "s", "--wait")
    assert at("dead", "retry", "--dry-run").out == "2 tasks would be retried\n"
    assert at("dead", "retry", "--all", "--dry-run").out == "2 tasks would be retried\n"
    assert at("dead", "purge", "--all", "--dry-run").out == "2 tasks would be deleted\n"
    assert "by filters or by --all" in at("dead", "purge", "--all", "--type", "fail").refused(2)
    assert at("dead", "retry", "--error", "no luck", "--yes").out == "2 of 2 tasks retried\n"
    wait_until(lambda: sorted(ids(at("dead", "list", "--all"))) == ["f1", "f2"])
    asked = answered("y")
    assert at("dead", "purge").out == "2 of 2 tasks deleted\n"
    assert asked == ["2 tasks would be deleted. Go on?"]
    assert sorted(ids(at("tasks", "list"))) == ["d", "s"]
