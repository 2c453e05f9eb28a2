from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tq.config import SETTINGS, Address, Config, format_duration, load_config, parse_duration
from tq.core.errors import InvalidInput
from tq.core.limits import Rate
from tq.core.workers import WorkerRange

STORES = "it must be sqlite:///./tq.db, sqlite:////var/lib/tq.db, postgresql://user@host/database or memory:"

STORES = "it must be sqlite:///./tq.db, sqlite:////var/lib/tq.db, postgresql://user@host/database or memory:"


def load(
    tmp_path: Path, flags: Mapping[str, str | None] | None = None, *, toml: str = "", **environ: str
) -> Config:
    if toml:
        (tmp_path / "tq.toml").write_text(toml)
    return load_config(flags or {}, environ=environ, folder=tmp_path)


def test_defaults_are_those_of_the_original(tmp_path: Path) -> None:
    assert load(tmp_path) == Config(
        bind=Address("127.0.0.1", 8080),
        store="sqlite:///./tq.db",
        workers=WorkerRange(5, 5),
        timeout_ms=5_000,
        grace_ms=10_000,
        buffer=100,
        durability="full",
        address_rate=None,
        log_format="auto",
        log_level="info",
        hosts=frozenset(),
        root_path="",
        access_log="off",
    )


def test_flag_wins_over_variable_over_file_over_default(tmp_path: Path) -> None:
    toml = "workers = 2\ntimeout = '2s'\ngrace = 2.5\n"
    flags = {"workers": "4", "timeout": None}
    config = load(tmp_path, flags, toml=toml, TQ_WORKERS="3", TQ_TIMEOUT="3s")
    assert config.workers == WorkerRange(4, 4)
    assert (config.timeout_ms, config.grace_ms, config.buffer) == (3_000, 2_500, 100)


def test_an_empty_variable_is_not_set_and_an_unknown_one_is_none_of_ours(tmp_path: Path) -> None:
    # Kubernetes puts TQ_PORT and the like into every pod beside a service named tq.
    assert load(tmp_path, TQ_WORKERS="", TQ_PORT="tcp://10.0.0.1:80", PATH="x").workers == WorkerRange(5, 5)


def test_a_rate_is_so_many_in_some_time(tmp_path: Path) -> None:
    rates = {
        "100/60s": Rate(limit=100, period_ms=60_000, burst=100),
        "5/m": Rate(limit=5, period_ms=60_000, burst=5),
        "10": Rate(limit=10, period_ms=1_000, burst=10),
        "100000/1d": Rate(limit=100_000, period_ms=86_400_000, burst=100_000),
        "none": None,
    }
    for text, rate in rates.items():
        assert load(tmp_path, {"address_rate": text}).address_rate == rate


def test_workers_are_one_number_or_two(tmp_path: Path) -> None:
    assert load(tmp_path, {"workers": "2:8"}).workers == WorkerRange(2, 8)
    assert load(tmp_path, {"workers": "1:1000"}).workers == WorkerRange(1, 1000)
    assert load(tmp_path, toml="workers = '3:3'").workers == WorkerRange(3, 3)
    assert [str(WorkerRange(*each)) for each in ((2, 8), (3, 3))] == ["2:8", "3"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("wrkers = 3", "tq.toml: unknown key 'wrkers': it must be one of bind, store, workers"),
        (
            "workers = 'many'",
            "workers in tq.toml: 'many' is not allowed: it must be an integer from 1 to 1000, or",
        ),
        ("workers = true", "tq.toml: workers must be a text or a number"),
        ("[server]\nworkers = 1", "tq.toml: unknown key 'server'"),
        ("workers = ", "tq.toml cannot be read: "),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, toml=toml)
    assert caught.value.message.startswith(said)
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tq.toml").write_bytes(b"store = '\xff'")
    with pytest.raises(InvalidInput, match=r"tq\.toml cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("workers", "0", "it must be an integer from 1 to 1000"),
        ("workers", "1001", "it must be an integer from 1 to 1000"),
        ("workers", "8:2", "MIN is over MAX"),
        ("workers", "0:5", "it must be an integer from 1 to 1000, or two as MIN:MAX"),
        ("workers", "1:1001", "it must be an integer from 1 to 1000, or two as MIN:MAX"),
        ("workers", "2:", "it must be an integer from 1 to 1000, or two as MIN:MAX"),
        ("workers", ":8", "it must be an integer from 1 to 1000, or two as MIN:MAX"),
        ("workers", "1:2:3", "it must be an integer from 1 to 1000, or two as MIN:MAX"),
        ("workers", "٣", "it must be an integer from 1 to 1000"),
        ("timeout", "0", "it must be a duration from 1ms to 7d, as in 5, 500ms, 5m or 1h"),
        ("timeout", "8d", "it must be a duration from 1ms to 7d, as in 5, 500ms, 5m or 1h"),
        ("timeout", "soon", "it must be a duration from 1ms to 7d, as in 5, 500ms, 5m or 1h"),
        ("grace", "-1", "it must be a duration from 0 to 1h, as in 10, 500ms or 1m"),
        ("buffer", "0", "it must be an integer from 1 to 10000"),
        ("durability", "none", "it must be full or relaxed"),
        ("address_rate", "many", "it must be none, or N/TIME as in 100/60s or 5/m"),
        ("address_rate", "0/s", "it must be none, or N/TIME as in 100/60s or 5/m"),
        ("address_rate", "100001/s", "it must be none, or N/TIME as in 100/60s or 5/m"),
        ("address_rate", "5/2d", "it must be none, or N/TIME as in 100/60s or 5/m"),
        ("log_format", "xml", "it must be auto, json or text"),
        ("log_level", "INFO", "it must be debug, info, warning or error"),
        ("store", "tq.db", STORES),
        ("store", "sqlite:///", STORES),
        ("bind", "8080", "it must be HOST:PORT with an IP address or localhost, as in"),
        ("bind", "127.0.0.1:65536", "it must be HOST:PORT with an IP address or localhost, as in"),
        ("bind", "127.0.0.1:http", "it must be HOST:PORT with an IP address or localhost, as in"),
        ("bind", "::1:8080", "an IPv6 address stands in brackets, as in [::1]:8080"),
        ("bind", "example.org:8080", "HOST must be an IP address or localhost"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(tmp_path: Path, name: str, text: str, said: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, {name: text})
    assert caught.value.message.startswith(f"{flag}: {text!r} is not allowed: {said}")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, None, **{f"TQ_{name.upper()}": text})
    assert caught.value.message.startswith(f"TQ_{name.upper()}: {text!r} is not allowed: {said}")


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("127.0.0.2:0", "127.0.0.2", 0, "127.0.0.2:0"),
        ("localhost:80", "localhost", 80, "localhost:80"),
        ("[::1]:8080", "::1", 8080, "[::1]:8080"),
    ],
)
def test_a_loopback_address_is_taken(tmp_path: Path, text: str, host: str, port: int, shown: str) -> None:
    address = load(tmp_path, {"bind": text}).bind
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("5", 5_000),
        ("5s", 5_000),
        ("5 s", 5_000),
        ("0.25", 250),
        ("500ms", 500),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1.5h", 5_400_000),
        ("2d", 172_800_000),
        ("0", 0),
    ],
)
def test_a_duration_is_read_in_milliseconds(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "s", "5x", "-5", "5s5s", "1e3", "nan", "5 minutes", ".5", "5."])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        parse_duration(text)


@pytest.mark.parametrize(("ms", "shown"), [(10_000, "10 s"), (750, "0.75 s"), (0, "0 s"), (100_000, "100 s")])
def test_a_duration_is_shown_in_seconds(ms: int, shown: str) -> None:
    assert format_duration(ms) == shown


def test_every_setting_takes_its_own_default(tmp_path: Path) -> None:
    config = load(tmp_path, {setting.name: setting.default for setting in SETTINGS})
    assert config == load(tmp_path)


def test_hosts_and_the_root_path_are_read(tmp_path: Path) -> None:
    config = load(tmp_path, {"host": "Tasks.Example.org, b", "root_path": "/a/tq", "access_log": "on"})
    assert (config.hosts, config.root_path, config.access_log) == (
        frozenset({"tasks.example.org", "b"}),
        "/a/tq",
        "on",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("host", "a:80"), ("host", "http://a"), ("host", "a,"), ("host", "*"), ("access_log", "debug")]
    + [("root_path", each) for each in ("tq", "/", "/tq/", "/a//b", "/a/..", "/é", "/a?b")],
)
def test_a_bad_host_or_root_path_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InvalidInput):
        load(tmp_path, {name: text})
