"""Whether a request may come from where it says: the rules of a server that asks nobody for a key.

A server on loopback is within reach of every web page that its user visits. A page may send requests to
it, and with a name of its own that leads to 127.0.0.1 (DNS rebinding) read the answers too. What gives
pages away is what browsers say of themselves: they cannot be made to lie about `Host`, `Origin` and
`Sec-Fetch-Site`. Other programs say what they like, and are not held off by this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tq.core.errors import NotAllowed

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, so that pages may be let use them: they cannot read the answers."""
PROBES: Final = frozenset({"/livez", "/readyz"})
"""Paths that tell nothing but whether the server is well: probes ask for them by names of any kind."""

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:]*)(?::[0-9]*)?", re.I)
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]", re.I)
_DEFAULT_PORT: Final = re.compile(r":(?:80|443)?$")


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """By which names the server may be asked for, beside localhost and loopback addresses.

    Args:
        names: Of hosts, in lower case, without a port.
    """

    names: frozenset[str] = frozenset()


LOOPBACK: Final = OriginPolicy()


def refusal(
    policy: OriginPolicy, method: str, path: str, headers: Mapping[str, str], *, authority: str | None = None
) -> NotAllowed | None:
    """Why a request may not be, or None.

    Args:
        method: ``WEBSOCKET`` for a handshake: pages may read what comes of it, so it counts as a change.
        headers: By name in lower case.
        authority: Host and port in the request's target, if it is a whole URL: it counts, not `Host`.
    """
    host = headers.get("host") if authority is None else authority
    # Without a host it is HTTP/1.0: no browser.
    if host is not None and path not in PROBES and not _is_known(policy, host):
        return NotAllowed(
            f"this server is not known by the host {host[:100]!r}: ask for it by localhost or 127.0.0.1,"
            " or name that host with --host"
        )
    if method in SAFE_METHODS:
        return None
    if headers.get("sec-fetch-site") == "cross-site":
        return NotAllowed(
            "pages of other sites may not do this: ask from a page of this server, or a program"
        )
    origin = headers.get("origin")
    if origin is not None and not _is_same(origin, host):
        return NotAllowed(
            f"pages of {origin[:100]!r} may not do this: ask from a page of this server, or a program"
        )
    return None


@lru_cache(maxsize=256)
def _is_known(policy: OriginPolicy, host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    return _LOOPBACK.fullmatch(match["name"]) is not None or match["name"].lower() in policy.names


def _is_same(origin: str, host: str | None) -> bool:
    """Whether *origin* is a page of *host*. Its scheme does not count: a proxy may have taken off TLS."""
    scheme, found, authority = origin.partition("://")
    if host is None or not found or scheme not in ("http", "https"):
        return False
    return _DEFAULT_PORT.sub("", authority.lower()) == _DEFAULT_PORT.sub("", host.lower())
