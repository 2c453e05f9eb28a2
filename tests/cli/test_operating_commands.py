"""``tq queues``, ``tq schedules`` and ``tq workers`` against a real server."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from cli_kit import CallTq, Done

from tq.cli.queues import new_rules

pytest_plugins = ("calling",)


@pytest.fixture
def at(url: str, tq: CallTq) -> CallTq:
    return partial(tq, TQ_URL=url)


def fields(done: Done) -> dict[str, str]:
    """The lines of names and values of *done*."""
    assert done.code == 0, done
    return dict(line.split("\t", 1) for line in done.out.splitlines())


# Queues


def test_a_queue_keeps_the_rules_that_are_not_said(at: CallTq) -> None:
    first = fields(
        at("queues", "set", "mail", "--concurrency", "2", "--rate", "100/60s", "--key-rate", "5/m")
    )
    assert first == {
        "queue": "mail",
        "paused": "false",
        "order": "strict",
        "concurrency": "2",
        "rate": "100/60s",
        "key-concurrency": "",
        "key-rate": "5/60s",
    }
    assert fields(at("queues", "set", "mail", "--burst", "10", "--order", "aging")) == first | {
        "rate": "100/60s burst 10",
        "order": "aging",
    }
    assert fields(at("queues", "set", "mail", "--rate", "none", "--key-concurrency", "1")) == first | {
        "rate": "",
        "order": "aging",
        "key-concurrency": "1",
    }
    again = fields(at("queues", "set", "mail", "--reset", "--concurrency", "3"))
    assert again == first | {"concurrency": "3", "rate": "", "key-rate": ""}


@pytest.mark.parametrize(
    ("said", "rules"),
    [
        ({"rate": {"limit": 1, "period": 2.0}}, {"concurrency": 4, "rate": {"limit": 1, "period": 2.0}}),
        ({"concurrency": "none"}, {"concurrency": None, "rate": {"limit": 9, "period": 1.0, "burst": 2}}),
        ({"burst": 3}, {"concurrency": 4, "rate": {"limit": 9, "period": 1.0, "burst": 3}}),
    ],
)
def test_new_rules_are_the_old_ones_with_what_was_said(said: dict[str, Any], rules: dict[str, Any]) -> None:
    per_key = {"concurrency": 1, "rate": None}
    known = {
        "order": "strict",
        "concurrency": 4,
        "rate": {"limit": 9, "period": 1.0, "burst": 2},
        "per_key": per_key,
    }
    assert new_rules(known, said) == rules | {"order": "strict", "per_key": per_key}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "say which rules"),
        (["--rate", "fast"], "'fast' is not a rate such as 100/60s, 5/m or none"),
        (["--rate", "5/x"], "'5/x' is not a rate such as 100/60s, 5/m or none"),
        (["--burst", "3"], "--burst is of a rate, and there is none"),
        (["--key-burst", "3"], "--key-burst is of a rate, and there is none"),
    ],
)
def test_rules_that_say_nothing_are_refused(at: CallTq, args: list[str], said: str) -> None:
    assert said in at("queues", "set", "plain", *args).refused(2)


def test_queues_are_listed_with_what_waits_in_them_and_purged(at: CallTq) -> None:
    assert at("queues", "pause", "shop") == Done(0, "shop\tpaused\n", "")
    for _ in range(3):
        at("submit", "add", "a=1", "--queue", "shop")
    rows = [line.split("\t") for line in at("queues", "list").out.splitlines()]
    assert ["shop", "yes", "3", "0", "0", "strict", "", ""] in rows
    assert {json.loads(line)["queue"] for line in at("queues", "list", "--json").out.splitlines()} >= {"shop"}
    assert fields(at("queues", "show", "shop"))["pending"] == "3"
    assert at("queues", "purge", "shop", "--dry-run").out == "3 tasks would be cancelled\n"
    assert "say --yes" in at("queues", "purge", "shop").refused(2)
    assert at("queues", "purge", "shop", "--yes").out == "3 of 3 tasks cancelled\n"
    done = at("queues", "resume", "shop", "a b")
    assert (done.code, done.out) == (8, "shop\tgoes on\n")
    assert done.err.startswith("tq: a b: refused: ")


# Schedules


def test_a_schedule_is_made_shown_paused_run_and_deleted(at: CallTq) -> None:
    args = ["a=1", "--every", "1h", "--tag", "x", "--overlap", "allow", "--misfire-grace", "5m", "--json"]
    made = json.loads(at("schedules", "put", "often", "add", *args).out)
    shown = {name: made[name] for name in ("name", "every", "overlap", "misfire_grace", "paused")}
    assert shown == {
        "name": "often",
        "every": 3600.0,
        "overlap": "allow",
        "misfire_grace": 300.0,
        "paused": False,
    }
    assert (made["task"]["payload"], made["task"]["tags"]) == ({"a": 1}, ["x"])
    at("schedules", "put", "nightly", "add", "a=2", "--cron", "0 3 * * *", "--tz", "Europe/Madrid")
    rows = [line.split("\t") for line in at("schedules", "list").out.splitlines()]
    assert [row[:4] for row in rows] == [
        ["nightly", "0 3 * * * (Europe/Madrid)", "add", "no"],
        ["often", "every 3600 s", "add", "no"],
    ]
    assert at("schedules", "pause", "often", "nightly").out == "often\tpaused\nnightly\tpaused\n"
    assert fields(at("schedules", "show", "often"))["paused"] == "true"
    assert at("schedules", "resume", "often").out == "often\tgoes on\n"
    task_id = at("schedules", "run", "often").out.strip()
    assert json.loads(at("tasks", "show", task_id, "--json").out)["schedule"] == "often"
    assert "say --yes" in at("schedules", "delete", "often").refused(2)
    done = at("schedules", "delete", "often", "nope", "nightly", "--yes")
    assert (done.code, done.out) == (8, "often\tdeleted\nnightly\tdeleted\n")
    assert at("schedules", "list") == Done(0, "", "")


def test_a_schedule_that_is_refused_names_the_field(at: CallTq) -> None:
    assert "refused: cron: " in at("schedules", "put", "x", "add", "a=1", "--cron", "soon").refused(7)


# Workers


def test_the_servers_are_seen(at: CallTq) -> None:
    done = at("servers")
    assert done.err == "tq: 1 servers\n"
    [line] = done.out.splitlines()[1:] if done.out.startswith("server\t") else done.out.splitlines()
    cells = line.split("\t")
    [shown] = json.loads(at("servers", "--json").out)["servers"]
    assert cells[0] == shown["id"]
    assert cells[2:4] == [str(shown["pid"]), "leads"]
    assert shown["here"]


def test_the_number_of_workers_is_seen_and_set(at: CallTq) -> None:
    done = at("workers", "3")
    assert [line.split("\t")[:2] for line in done.out.splitlines()] == [
        ["1", "idle"],
        ["2", "idle"],
        ["3", "idle"],
    ]
    assert done.err == "tq: 3 workers, 0 busy; 3 to 3 are wanted\n"
    answer = json.loads(at("workers", "2:4", "--json").out)
    assert (answer["min"], answer["max"]) == (2, 4)
    assert json.loads(at("workers", "--json").out)["max"] == 4
    assert "[invalid_input]" in at("workers", "0").refused(7)


@pytest.mark.parametrize("count", ["many", "1:2:3", ":", "2:"])
def test_what_is_no_number_of_workers_is_not_sent(tq: CallTq, count: str) -> None:
    assert "is no number of workers such as 8 or 2:20" in tq("workers", count).refused(2)
