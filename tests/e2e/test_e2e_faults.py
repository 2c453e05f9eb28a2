"""Servers, connections and PostgreSQL that fail under load: nothing acknowledged is lost, nothing runs twice.

TQ_FAULTS says how many faults of each kind, TQ_FAULT_LEASES how often a lease of 15 s is waited out (0: it is
ended by hand in the database), TQ_FAULT_SERVERS how many servers start at once. ``just test-faults`` gives
more of each than the run of all tests.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest
from fault_proxy import Cut
from fault_world import DEAF_S, LEASE_S, RESUMED_S, TAKEN_OVER_S, World
from postgres_server import PostgresServer, new_database, private_server
from process import SHUTDOWN_SLACK_S, Site
from tiers import slow

FAULTS: Final = int(os.environ.get("TQ_FAULTS", "1"))
LEASES: Final = int(os.environ.get("TQ_FAULT_LEASES", "0"))
SERVERS: Final = int(os.environ.get("TQ_FAULT_SERVERS", "3"))
SEED: Final = os.environ.get("TQ_FAULT_SEED", "1")

pytestmark = pytest.mark.timeout(120 + 20 * FAULTS + 90 * LEASES)

LONG: Final = pytest.mark.skipif(not LEASES, reason="takes its time: see `just test-faults`")

TERMINATE: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'tq%%' ORDER BY hash_numeric(pid + %s) LIMIT 1
"""
"""Any one of the connections of servers."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with private_server() as server:
        yield server


@contextmanager
def new_world(postgres: PostgresServer, folder: Path, *, options: str = "") -> Iterator[World]:
    """No servers, on a database of their own."""
    with (
        new_database(postgres.url()) as url,
        closing(Site(folder)) as site,
        closing(World(site, postgres.port, url, options=options, seed=SEED)) as world,
    ):
        yield world


@pytest.fixture(scope="module")
def fleet(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three servers, started at once on an empty database, for tests that leave some behind."""
    with new_world(postgres, tmp_path_factory.mktemp("fleet")) as world:
        world.add(3)
        yield world


@pytest.fixture
def random() -> Random:
    return Random(SEED)


def report(world: World, what: str, seconds: list[float] | None = None) -> None:
    """Shown by ``just test-faults``."""
    times = f"p50 {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s; " if seconds else ""
    print(f"\n{what}: {times}{len(world.journal.acknowledged)} tasks so far", flush=True)


# The database


def test_crash_of_the_database_loses_nothing_acknowledged(
    fleet: World, postgres: PostgresServer, random: Random
) -> None:
    resumed: list[float] = []
    with fleet.load():
        for _ in range(FAULTS):
            time.sleep(random.uniform(0.1, 0.4))
            postgres.restart("immediate")
            resumed += fleet.wait_resumed(time.monotonic())
    fleet.check()
    report(fleet, f"{FAULTS} crashes of the database, resumed", resumed)
    assert max(resumed) <= RESUMED_S


def test_connections_may_be_terminated_at_any_moment(fleet: World, random: Random) -> None:
    with fleet.load():
        ended = terminate_again_and_again(fleet, random)
    fleet.check()
    report(fleet, f"{ended} connections terminated")
    assert ended > FAULTS


def terminate_again_and_again(world: World, random: Random) -> int:
    """How many there were."""
    ended = 0
    for _ in range(5 * FAULTS):
        time.sleep(random.uniform(0, 0.1))
        ended += len(world.execute(TERMINATE, random.randrange(1_000_000)))
    return ended


@slow
def test_two_connections_are_enough(postgres: PostgresServer, tmp_path: Path, random: Random) -> None:
    with new_world(postgres, tmp_path, options="pool=2") as world:
        world.add(1)
        with world.load():
            ended = terminate_again_and_again(world, random)
            for _ in range(FAULTS):
                world.wait_resumed(time.monotonic())
                assert world.servers[0].get("/v1/tasks?limit=10").status == 200
            [(count,)] = world.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'tq%%'"
            )
        world.check()
        report(world, f"{ended} connections terminated of a pool of 2")
    assert count <= 2


# The way to it


@pytest.mark.parametrize("cut", Cut)
def test_commit_that_is_cut_is_done_once(fleet: World, random: Random, cut: Cut) -> None:
    with fleet.load():
        for n in range(2 * FAULTS):
            time.sleep(random.uniform(0, 0.1))
            fleet.way(fleet.servers[n % 3]).cut_at_commit(cut)
    fleet.check()
    report(fleet, f"{2 * FAULTS} commits cut {cut.name}")


@slow
def test_connections_that_are_reset_are_made_anew(fleet: World, random: Random) -> None:
    resumed: list[float] = []
    with fleet.load():
        for n in range(2 * FAULTS):
            time.sleep(random.uniform(0, 0.2))
            fleet.way(fleet.servers[n % 3]).reset()
            resumed += fleet.wait_resumed(time.monotonic())
    fleet.check()
    report(fleet, f"{2 * FAULTS} resets of all connections of a server, resumed", resumed)
    assert max(resumed) <= RESUMED_S


@slow
def test_slow_way_only_takes_longer(fleet: World, random: Random) -> None:
    with fleet.load():
        for n in range(FAULTS):
            server = fleet.servers[n % 3]
            fleet.way(server).delay_s = random.uniform(0.005, 0.02)
            for _ in range(3):
                fleet.submit(server)
            fleet.way(server).delay_s = 0
    fleet.check()
    report(fleet, f"{FAULTS} slow ways")


@slow
@pytest.mark.parametrize("heal", ["release", "forget"] if LEASES else ["release"])
def test_server_that_was_cut_off_works_again(fleet: World, heal: str) -> None:
    """With `forget` what it had open says nothing for ever."""
    resumed: list[float] = []
    with fleet.load():
        for n in range(LEASES or 1):
            server = fleet.servers[n % 3]
            fleet.have_nap(server, ms=1_000)
            fleet.way(server).hold()
            fleet.lose(server)
            time.sleep(LEASE_S + 10 if LEASES else 0.5)
            getattr(fleet.way(server), heal)()
            resumed += fleet.wait_resumed(time.monotonic())
    fleet.check()
    report(fleet, f"{LEASES or 1} black holes, then {heal}, resumed", resumed)
    assert max(resumed) <= RESUMED_S + (10 if heal == "forget" else 0)


@LONG
def test_server_that_hears_nothing_notices(fleet: World) -> None:
    deaf = []
    for n in range(LEASES):
        with fleet.load():
            deaf.append(fleet.way(fleet.servers[n % 3]).deafen())
    deaf.append(fleet.way(fleet.servers[0]).deafen())
    fleet.check()
    report(fleet, f"{LEASES} listeners under load and one at rest deaf, until they listened anew", deaf)
    assert max(deaf) <= DEAF_S


@LONG
def test_server_that_is_cut_off_ends_in_time(fleet: World) -> None:
    leaving = fleet.spawn(grace=1)
    fleet.admit(leaving)
    with fleet.load():
        fleet.have_nap(leaving, ms=500)
        fleet.way(leaving).hold()
        fleet.remove(leaving)
        told = fleet.lose(leaving)
        leaving.send(signal.SIGTERM)
        code = leaving.wait_exit(since=told, within_s=1 + SHUTDOWN_SLACK_S)
        seconds = time.monotonic() - told
        fleet.way(leaving).close()
    fleet.check()
    report(fleet, "SIGTERM to a server that was cut off, ended", [seconds])
    assert code == 0


# The servers


def test_what_a_killed_server_ran_is_run_by_another(fleet: World) -> None:
    again: list[float] = []
    for _ in range(LEASES or 1):
        # Where a lease is not waited out, neither is the leader's, nor is another server.
        victim, spare = (fleet.servers[0], fleet.spawn()) if LEASES else (fleet.follower(), None)
        with fleet.load():
            fleet.have_nap(victim, ms=1_500)
            killed = fleet.kill(victim)
            left = fleet.unended(victim)
            if not LEASES:
                fleet.end_lease(victim)
            again += fleet.wait_again(left, since=killed)
            if spare is not None:
                fleet.admit(spare)
        fleet.check()
    report(fleet, f"{LEASES or 1} servers killed, {len(again)} tasks taken over", again)
    assert again
    assert max(again) <= TAKEN_OVER_S


def test_late_results_of_a_server_that_stood_still_are_refused(fleet: World) -> None:
    again: list[float] = []
    for _ in range(LEASES or 1):
        still = fleet.servers[0] if LEASES else fleet.follower()
        with fleet.load():
            fleet.have_nap(still, ms=1_500)
            stopped = fleet.stand_still(still)
            left = fleet.unended(still)
            if not LEASES:
                fleet.end_lease(still)
            again += fleet.wait_again(left, since=stopped)
            fleet.go_on(still)
            fleet.wait_ended(left, still)
        fleet.check()
        for task_id in left:
            assert still.output.wait("lease.refused", f'"{task_id}"')
    report(fleet, f"{LEASES or 1} servers stood still, {len(again)} tasks taken over", again)
    assert again
    assert max(again) <= TAKEN_OVER_S


@slow
def test_rolling_restart_is_not_noticed(fleet: World) -> None:
    restarted = 0
    for _ in range(max(1, FAULTS // 10)):
        with fleet.load():
            for old in list(fleet.servers) if LEASES else fleet.servers[:1]:
                new = fleet.spawn()
                fleet.admit(new)
                fleet.stop(old)
                restarted += 1
        fleet.check()
    report(fleet, f"{restarted} of {len(fleet.servers)} servers restarted one by one")


@pytest.mark.skipif(SERVERS <= 3, reason="the fleet did")
def test_servers_may_start_at_once_on_an_empty_database(postgres: PostgresServer, tmp_path: Path) -> None:
    with new_world(postgres, tmp_path) as world:
        began = time.monotonic()
        world.add(SERVERS)
        with world.load():
            started = world.wait_resumed(began)
        world.check()
        report(world, f"{SERVERS} servers started at once, worked", started)
