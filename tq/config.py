"""The settings of a server: where they come from, what they may be, and their defaults.

A flag wins over a variable of the environment, that over ``tq.toml`` in the current directory, that over
the default. This module knows text and its rules; it opens no socket and no store.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tq.core.errors import InvalidInput
from tq.core.limits import RATE_LIMIT_MAX, RATE_PERIOD_MAX_MS, Rate
from tq.core.workers import WORKERS_MAX, WorkerRange

FILE: Final = "tq.toml"
PREFIX: Final = "TQ_"
BUFFER_MAX: Final = 10_000
TIMEOUT_MAX_MS: Final = 7 * 24 * 3600 * 1000
GRACE_MAX_MS: Final = 3600 * 1000

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1_000}
_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?) ?(?P<unit>ms|s|m|h|d|)")

_HOST: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_ROOT_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Address(msgspec.Struct, frozen=True):
    """Where to listen. ``host`` is an IP address or ``localhost``; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine reach it."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        """As in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of a server, checked. The name of each outside is that of its Setting."""

    bind: Address
    store: str
    workers: WorkerRange
    timeout_ms: int = msgspec.field(name="timeout")
    grace_ms: int = msgspec.field(name="grace")
    buffer: int
    durability: str
    address_rate: Rate | None
    log_format: str
    log_level: str
    hosts: frozenset[str] = msgspec.field(name="host")
    root_path: str
    access_log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its name, what it means, and the rule for its text.

    ``log_format`` is ``--log-format``, ``TQ_LOG_FORMAT`` and the key ``log_format``. ``parse`` raises
    ValueError, with a reason only where *form* would not tell.
    """

    name: str
    default: str
    form: str
    help: str
    metavar: str
    parse: Callable[[str], object]

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()


def load_config(flags: Mapping[str, str | None], *, environ: Mapping[str, str], folder: Path) -> Config:
    """The settings from *flags*, *environ*, ``tq.toml`` in *folder*, and the defaults, in that order.

    Args:
        flags: By name of setting; None is a flag not given.
        environ: Variables without the prefix are ignored, and so are unknown ones with it; an empty one
            counts as not set.
    Raises:
        InvalidInput: A value breaks its rule or the file does; the message is one line that names the
            flag, variable or key and says what is allowed.
    """
    file = _read_file(folder / FILE)
    values: dict[str, object] = {}
    for setting in SETTINGS:
        for source, text in (
            (setting.flag, flags.get(setting.name)),
            (setting.variable, environ.get(setting.variable) or None),
            (f"{setting.name} in {FILE}", file.get(setting.name)),
            (f"the default of {setting.flag}", setting.default),
        ):
            if text is not None:
                values[setting.name] = _parse(setting, source, text)
                break
    return msgspec.convert(values, Config)


def _parse(setting: Setting, source: str, text: str) -> object:
    try:
        return setting.parse(text)
    except ValueError as error:
        reason = str(error) or f"it must be {setting.form}"
        raise InvalidInput(
            f"{source}: {without_password(text)!r} is not allowed: {reason}", field=setting.name
        ) from None


def _read_file(path: Path) -> dict[str, str]:
    """The settings in *path* as text, by name; none if there is no such file."""
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}", field=path.name) from None
    names = [setting.name for setting in SETTINGS]
    for name, value in entries.items():
        if name not in names:
            raise InvalidInput(f"{path.name}: unknown key {name!r}: it must be one of {', '.join(names)}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidInput(f"{path.name}: {name} must be a text or a number", field=name)
    return {name: str(value) for name, value in entries.items()}


def parse_duration(text: str) -> int:
    """The milliseconds that *text* names: ``5`` and ``5s`` are seconds; ``500ms``, ``5m``, ``1h``, ``2d``.

    Raises:
        ValueError: It is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError
    return round(float(match["number"]) * _UNITS_MS[match["unit"]])


def parse_rate(text: str) -> tuple[int, int]:
    """How many, and in how many milliseconds: ``100/60s``, ``5/m``; ``10`` is in a second.

    Raises:
        ValueError: It is none of these.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:/(\S+))?", text)
    if match is None:
        raise ValueError
    period = match[2] or "1s"
    return int(match[1]), parse_duration(period if period[0] in "0123456789" else f"1{period}")


def _address_rate(text: str) -> Rate | None:
    if text == "none":
        return None
    limit, period_ms = parse_rate(text)
    if not (1 <= limit <= RATE_LIMIT_MAX and 1 <= period_ms <= RATE_PERIOD_MAX_MS):
        raise ValueError
    return Rate(limit=limit, period_ms=period_ms, burst=limit)


def format_duration(ms: int) -> str:
    """*ms* in seconds, for a person: ``0.75 s``."""
    return f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + " s"


def _duration_between(low_ms: int, high_ms: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        ms = parse_duration(text)
        if not low_ms <= ms <= high_ms:
            raise ValueError
        return ms

    return parse


def _integer_between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse


def _workers(text: str) -> WorkerRange:
    least, colon, most = text.partition(":")
    integer = _integer_between(1, WORKERS_MAX)
    range = WorkerRange(integer(least), integer(most if colon else least))
    if not range.is_allowed:
        raise ValueError("MIN is over MAX")
    return range


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return parse


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8080")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError
    if not _is_loopback(host) and not _is_address(host):
        raise ValueError("HOST must be an IP address or localhost")
    return Address(host, int(port))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _store(text: str) -> str:
    is_file = text.startswith("sqlite:///") and text != "sqlite:///"
    if text != "memory:" and not is_file and not is_on_postgres(text):
        raise ValueError
    return text


def is_on_postgres(store: str) -> bool:
    """Whether that is the URL of a store on PostgreSQL."""
    return store.startswith(("postgresql://", "postgres://"))


def without_password(text: str) -> str:
    """*text*, which may be a URL, as it may be shown."""
    text = re.sub(r"(//[^:/?#@]*):.*@", r"\1:***@", text)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", text)


def _hosts(text: str) -> frozenset[str]:
    names = [name.strip().lower() for name in text.split(",")] if text else []
    if not all(_HOST.fullmatch(name) for name in names):
        raise ValueError
    return frozenset(names)


def _root_path(text: str) -> str:
    if not _ROOT_PATH.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise ValueError
    return text


SETTINGS: Final = (
    Setting(
        name="bind",
        default="127.0.0.1:8080",
        form="HOST:PORT with an IP address or localhost, as in 127.0.0.1:8080; port 0 takes a free one",
        help="Where to listen; beyond loopback only once there are keys.",
        metavar="HOST:PORT",
        parse=_address,
    ),
    Setting(
        name="store",
        default="sqlite:///./tq.db",
        form="sqlite:///./tq.db, sqlite:////var/lib/tq.db, postgresql://user@host/database or memory:",
        help="Where tasks are kept.",
        metavar="URL",
        parse=_store,
    ),
    Setting(
        name="workers",
        default="5",
        form=f"an integer from 1 to {WORKERS_MAX}, or two as MIN:MAX",
        help="How many tasks run at the same time; MIN:MAX grows while work waits and shrinks when idle.",
        metavar="N|MIN:MAX",
        parse=_workers,
    ),
    Setting(
        name="timeout",
        default="5s",
        form="a duration from 1ms to 7d, as in 5, 500ms, 5m or 1h",
        help="How long an attempt may take, where neither task nor handler says.",
        metavar="DURATION",
        parse=_duration_between(1, TIMEOUT_MAX_MS),
    ),
    Setting(
        name="grace",
        default="10s",
        form="a duration from 0 to 1h, as in 10, 500ms or 1m",
        help="How long running tasks have to finish at shutdown.",
        metavar="DURATION",
        parse=_duration_between(0, GRACE_MAX_MS),
    ),
    Setting(
        name="buffer",
        default="100",
        form=f"an integer from 1 to {BUFFER_MAX}",
        help="How many claimed tasks, and how many results, may wait in memory.",
        metavar="N",
        parse=_integer_between(1, BUFFER_MAX),
    ),
    Setting(
        name="durability",
        default="full",
        form="full or relaxed",
        help="full: nothing acknowledged is lost at a power cut. relaxed: the last moments may be.",
        metavar="full|relaxed",
        parse=_one_of("full", "relaxed"),
    ),
    Setting(
        name="address_rate",
        default="none",
        form="none, or N/TIME as in 100/60s or 5/m: 1 to 100000 in 1 ms to a day",
        help="How often one address may ask; none: as often as it likes.",
        metavar="N/TIME",
        parse=_address_rate,
    ),
    Setting(
        name="log_format",
        default="auto",
        form="auto, json or text",
        help="How log lines look. auto: text on a terminal, JSON elsewhere.",
        metavar="auto|json|text",
        parse=_one_of("auto", "json", "text"),
    ),
    Setting(
        name="log_level",
        default="info",
        form="debug, info, warning or error",
        help="The least important log lines to write.",
        metavar="debug|info|warning|error",
        parse=_one_of("debug", "info", "warning", "error"),
    ),
    Setting(
        name="host",
        default="",
        form="host names with commas between them, without ports, as in tasks.example.org",
        help="By which names the server may be asked for, beside localhost: those of a reverse proxy.",
        metavar="NAMES",
        parse=_hosts,
    ),
    Setting(
        name="root_path",
        default="",
        form="a path as in /tq, without a slash at its end",
        help="Where a reverse proxy shows the server: it answers below that path alone.",
        metavar="PATH",
        parse=_root_path,
    ),
    Setting(
        name="access_log",
        default="off",
        form="on or off",
        help="on: a log line for each request.",
        metavar="on|off",
        parse=_one_of("on", "off"),
    ),
)
