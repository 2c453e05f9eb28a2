"""``tq submit`` against a real server."""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread, Timer

import pytest
from cli_kit import APP, CallTq, Done, run_tq, serving

from tq.cli import submitting
from tq.cli.submitting import progress_line

pytest_plugins = ("calling",)


@pytest.fixture
def submit(url: str, tq: CallTq) -> CallTq:
    return partial(tq, "submit", TQ_URL=url)


def test_the_id_is_all_there_is_on_stdout(submit: CallTq) -> None:
    assert submit("add", "a=1", "--id", "mine") == Done(0, "mine\n", "")
    assert submit("add", "a=1", "--id", "mine") == Done(0, "mine\n", ""), "again: the same task"


def test_every_field_reaches_the_server(submit: CallTq) -> None:
    args = ["--queue", "slow", "--priority", "high", "--delay", "1h", "--timeout", "500ms"]
    done = submit("add", "a=1", "--json", "--max-attempts", "3", *args)
    task = json.loads(done.out)
    assert done.code == 0
    shown = {name: task[name] for name in ("queue", "priority", "state", "timeout", "max_attempts")}
    assert shown == {
        "queue": "slow",
        "priority": 10,
        "state": "scheduled",
        "timeout": 0.5,
        "max_attempts": 3,
    }


def test_what_a_task_may_have_beside_reaches_the_server(submit: CallTq, tq: CallTq, url: str) -> None:
    submit("add", "a=1", "--id", "root", "--wait")
    done = submit(
        *["add", "a=1", "--id", "full", "--key", "ada", "--tag", "x", "--tag", "y"],
        *["--run-at", "2100-01-01T00:00:00Z", "--deadline", "2100-01-02T00:00:00Z"],
        *["--expires-at", "2100-01-01T12:00:00Z", "--depends-on", "root", "--on-dependency-failure", "run"],
        *["--parent", "root", "--unique-key", "u", "--unique-while", "queued", "--on-conflict", "reject"],
        *["--retry", '{"kind": "fixed", "base": 5}', "--result-ttl", "2d"],
    )
    assert done == Done(0, "full\n", "")
    task = json.loads(tq("tasks", "show", "full", "--json", TQ_URL=url).out)
    assert {name: task[name] for name in ("key", "tags", "run_at", "deadline", "expires_at")} == {
        "key": "ada",
        "tags": ["x", "y"],
        "run_at": "2100-01-01T00:00:00.000Z",
        "deadline": "2100-01-02T00:00:00.000Z",
        "expires_at": "2100-01-01T12:00:00.000Z",
    }
    assert {name: task[name] for name in ("parent_id", "depends_on", "on_dependency_failure", "unique")} == {
        "parent_id": "root",
        "depends_on": ["root"],
        "on_dependency_failure": "run",
        "unique": {"key": "u", "while": "queued", "on_conflict": "reject"},
    }


def test_an_instant_may_be_said_as_a_time_from_now(submit: CallTq, tq: CallTq, url: str) -> None:
    before = time.time()
    submit("add", "a=1", "--id", "soon", "--run-at", "1h", "--deadline", "2h")
    task = json.loads(tq("tasks", "show", "soon", "--json", TQ_URL=url).out)
    ahead = {name: datetime.fromisoformat(task[name]).timestamp() - before for name in ("run_at", "deadline")}
    assert 3599 < ahead["run_at"] < 3630
    assert 7199 < ahead["deadline"] < 7230


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--retry", "fixed"], "--retry: not JSON"),
        (["--on-conflict", "reject"], "--unique-while and --on-conflict are of --unique-key"),
    ],
)
def test_what_contradicts_itself_is_not_sent(submit: CallTq, args: list[str], said: str) -> None:
    assert said in submit("add", "a=1", *args).refused(2)


def test_the_progress_of_a_task_is_one_line_that_no_text_breaks_out_of() -> None:
    task = {"state": "running", "progress": {"fraction": 0.4, "message": "half\x1b[2J\nway"}}
    assert progress_line(task, 80) == r"running [########............]  40% half\x1b[2J\nway"
    assert progress_line(task, 24) == "running [########.....…"
    assert progress_line({"state": "pending"}, 80) == "pending"


def test_wait_prints_the_result(submit: CallTq) -> None:
    done = submit("add", "--wait", "a=41")
    assert (done.code, done.out) == (0, "42\n")
    assert done.err.endswith(" is pending\n"), "where the id can be found meanwhile"


def test_wait_exits_by_the_outcome(submit: CallTq) -> None:
    done = submit("fail", "--wait", "--id", "f")
    assert (done.code, done.out) == (10, "")
    assert done.err.splitlines()[-1] == "tq: f failed (error): no luck"

    done = submit("drop", "--wait", "--id", "d")
    assert (done.code, done.out) == (11, "")
    assert done.err.splitlines()[-1] == "tq: d was cancelled (user)"


def test_wait_ends_in_time(submit: CallTq) -> None:
    done = submit("sleep", "seconds=30", "--wait", "200ms", "--id", "s")
    assert (done.code, done.out) == (12, "")
    assert done.err.splitlines()[-1] == "tq: s has not ended: it is running"


@pytest.mark.parametrize(
    ("values", "payload"),
    [
        (["a=1", "b=x", "c=1x", "d="], {"a": 1, "b": "x", "c": "1x", "d": ""}),
        (["a=true", 'b="1"', "c=[1, 2]", "d=x=y"], {"a": True, "b": "1", "c": [1, 2], "d": "x=y"}),
        (["--payload", '{"a": null}'], {"a": None}),
        (["--payload", "@payload.json"], [1.5]),
        (["--payload", "-"], "from stdin"),
        ([], None),
    ],
)
def test_payload_is_json_where_it_can_be(
    submit: CallTq, tmp_path: Path, values: list[str], payload: object
) -> None:
    (tmp_path / "payload.json").write_text("[1.5]")
    done = submit("echo", *values, "--wait", stdin='"from stdin"')
    assert done.code == 0, done
    assert json.loads(done.out) == payload


def test_what_the_server_refuses_is_told_in_its_words(submit: CallTq) -> None:
    done = submit("unheard-of", "a=1")
    assert (done.code, done.out) == (7, "")
    assert done.err == (
        "tq: refused: type: no handler here does 'unheard-of': it must be one of add, drop, echo, fail, sleep"
        " [unknown_type]\n"
    )
    done = submit("add", "a=x")
    assert done.code == 7
    assert done.err.endswith(" [payload_invalid]\n")


def test_a_url_that_is_no_tq_server_is_told_so(submit: CallTq, url: str) -> None:
    line = submit("add", "a=1", TQ_URL=url + "/elsewhere").refused(8)
    assert "there is nothing at /elsewhere/v1/tasks" in line


def test_a_server_that_stays_away_leaves_the_id(
    tq: CallTq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "GIVE_UP_S", 1.0)
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (process, url):
        stopping = Timer(0.5, process.kill)
        stopping.start()
        done = tq("submit", "sleep", "seconds=1", "--delay", "1h", "--id", "later", "--wait", TQ_URL=url)
        stopping.join()
    assert (done.code, done.out) == (6, "")
    *_, away, last = done.err.splitlines()
    assert away == "tq: later is stored, but its server cannot be asked now; waiting for it"
    assert last.startswith("tq: while waiting for later, which is stored: ")


def test_a_wait_goes_on_through_a_restart_of_the_server(tq: CallTq, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (process, url):
        done: list[Done] = []
        args = ["add", "a=41", "--delay", "3s", "--id", "a", "--wait", "30s"]
        waiting = Thread(target=lambda: done.append(run_tq("submit", *args, "--url", url, cwd=tmp_path)))
        waiting.start()
        while tq("tasks", "show", "a", TQ_URL=url).code != 0:
            time.sleep(0.05)
        process.kill()
        process.wait()
        # It is seen to be away before it comes back.
        time.sleep(1)
        with serving("serve", cwd=tmp_path, bind=url.removeprefix("http://")):
            waiting.join()
    assert (done[0].code, done[0].out) == (0, "42\n"), done
    assert done[0].err.splitlines()[1:] == [
        "tq: a is stored, but its server cannot be asked now; waiting for it"
    ]


def test_a_wait_that_is_over_while_the_server_is_away_says_what_the_task_was(
    tq: CallTq, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", cwd=tmp_path) as (process, url):
        stopping = Timer(0.3, process.kill)
        stopping.start()
        done = tq("submit", "add", "a=1", "--delay", "1h", "--id", "a", "--wait", "2s", TQ_URL=url)
        stopping.join()
    assert (done.code, done.out) == (12, "")
    assert done.err.splitlines()[-1] == "tq: a has not ended: it is scheduled"
