"""``tq keys``: keys made, listed, revoked, by a server or in a store that none has open; and one's own."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
import msgspec

from tq.cli.exits import Exit, Fault, say
from tq.cli.options import AHEAD, Rate, asks, examples, json_option, rate_text, refuse_unsendable, url_option
from tq.core.errors import NotFound, StorageError, TqError
from tq.core.keys import KEY_CHANCE_BYTES, Key, KeyId, make_key
from tq.core.ops import PutKey, RevokeKey
from tq.core.queries import GetKeys
from tq.core.requests import read_key
from tq.core.views import key_view

if TYPE_CHECKING:
    from tq.cli.asking import Api
    from tq.storage.store import Store

F = TypeVar("F", bound=Callable[..., Any])
COLUMNS = ("id", "scopes", "queues", "rate", "state", "name")


class Keeper(Protocol):
    """Where keys are. All it answers with are views as the API gives them. Raises Fault."""

    def create(self, body: Mapping[str, object]) -> dict[str, Any]:
        """The key that *body* asks for, with its text as ``key``."""
        ...

    def listed(self) -> list[dict[str, Any]]:
        """All keys, the oldest first."""
        ...

    def revoke(self, key_id: str) -> dict[str, Any]:
        """The key, revoked."""
        ...


class ByServer:
    """The keys of a server, as it lets us."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, body: Mapping[str, object]) -> dict[str, Any]:
        """See Keeper."""
        return self._api.change("POST", "/v1/keys", body, has="key")

    def listed(self) -> list[dict[str, Any]]:
        """See Keeper."""
        keys: list[dict[str, Any]] = self._api.get("/v1/keys", has="keys")["keys"]
        return keys

    def revoke(self, key_id: str) -> dict[str, Any]:
        """See Keeper."""
        from tq.cli.asking import part

        return self._api.change("DELETE", f"/v1/keys/{part(key_id)}")


class InStore:
    """The keys of a store that this process has open."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, body: Mapping[str, object]) -> dict[str, Any]:
        """See Keeper."""
        made = make_key(os.urandom(KEY_CHANCE_BYTES))
        try:
            op = read_key(msgspec.json.encode(body), made, is_first=not self.listed(), now=_now_ms())
        except TqError as error:
            raise _refused(error) from None
        return {**key_view(self._apply(op)), "key": made.text}

    def listed(self) -> list[dict[str, Any]]:
        """See Keeper."""
        return [key_view(key) for key in self._store.read(GetKeys())]

    def revoke(self, key_id: str) -> dict[str, Any]:
        """See Keeper."""
        return key_view(self._apply(RevokeKey(KeyId(key_id))))

    def _apply(self, op: PutKey | RevokeKey) -> Key:
        [reply] = self._store.apply([op], _now_ms())
        if isinstance(reply, TqError):
            raise _refused(reply)
        assert isinstance(reply, Key)
        return reply


def _refused(error: TqError) -> Fault:
    code = Exit.NOT_FOUND if isinstance(error, NotFound) else Exit.REFUSED
    return Fault(code, f"refused: {error.message} [{error.code}]")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _keeper(url: str, store: str | None) -> Iterator[Keeper]:
    if store is None:
        from tq.cli.asking import Api

        with closing(Api(url)) as api:
            yield ByServer(api)
        return
    if store == "memory:":
        raise click.UsageError("--store memory: keeps no keys: name a file, as in sqlite:///./tq.db")
    from tq.storage.store import open_store

    try:
        opened = open_store(store)
    except StorageError as error:
        raise Fault(
            Exit.CANNOT_OPEN_STORE, f"{error.message}; a server that has it open is asked without --store"
        ) from None
    with closing(opened):
        yield InStore(opened)


def _keeps(command: F) -> F:
    """Give *command* ``keeper`` and ``as_json``, with the options that say so."""

    @json_option
    @url_option
    @click.option("--store", metavar="URL", help="A store that no server has open, instead.")
    @functools.wraps(command)
    def run(*, url: str, store: str | None, **rest: Any) -> Exit:
        refuse_unsendable(url=url, **rest)
        with _keeper(url, store) as keeper:
            return Exit(command(keeper=keeper, **rest) or Exit.OK)

    return run  # type: ignore[return-value]


@click.group(
    "keys",
    short_help="Make, list and revoke keys; see what yours may do.",
    epilog=examples("tq keys create --name ci --scope submit", "tq keys list"),
)
def keys_group() -> None:
    """Make, list and revoke keys: by a server, or in a store that no server has open."""


@keys_group.command(
    "create",
    epilog=examples(
        "tq keys create --name root --scope admin,read --store sqlite:///./tq.db",
        "tq keys create --name ci --scope submit,read --queue mail --expires 90d --rate 100/m",
    ),
)
@click.option("--scope", metavar="SCOPE,…", required=True, help="submit, read, operate, admin, metrics.")
@click.option("--name", metavar="TEXT", help="What people call it. [default: its id]")
@click.option(
    "--queue", "queues", metavar="NAME", multiple=True, help="Limit it to this queue; may be repeated."
)
@click.option("--expires", type=AHEAD, help="Until when it is good, or for how long: 90d.")
@click.option("--rate", type=Rate(), metavar="N/TIME", help="How often it may ask: 100/60s, 5/m.")
@_keeps
def create_command(
    *,
    keeper: Keeper,
    scope: str,
    name: str | None,
    queues: tuple[str, ...],
    expires: str | None,
    rate: Mapping[str, Any] | None,
    as_json: bool,
) -> None:
    """Make a key and print it, this once.

    The first key needs the scope admin, for all queues: from then on nobody is let in without a key.
    """
    from tq.cli.printing import note, print_json

    body = {"scopes": scope.split(","), "name": name, "queues": queues, "expires_at": expires, "rate": rate}
    view = keeper.create({field: value for field, value in body.items() if value})
    if as_json:
        print_json(view)
        return
    click.echo(view["key"])
    note(f"this is the key {view['id']}; it is not shown again: clients send it if it is in TQ_KEY")


@keys_group.command("list", epilog=examples("tq keys list", "tq keys list --store sqlite:///./tq.db"))
@_keeps
def list_command(*, keeper: Keeper, as_json: bool) -> None:
    """List all keys, the oldest first, also those that are good no more. What is printed is no key."""
    from tq.cli.printing import print_json, print_table

    views = keeper.listed()
    if as_json:
        for view in views:
            print_json(view)
        return
    now_ms = _now_ms()
    print_table(COLUMNS, [_row(view, now_ms) for view in views])


def _row(view: Mapping[str, Any], now_ms: int) -> tuple[object, ...]:
    queues = ",".join(view.get("queues", [])) or "all"
    scopes = ",".join(view["scopes"])
    return view["id"], scopes, queues, rate_text(view.get("rate")), _state(view, now_ms), view["name"]


def _state(view: Mapping[str, Any], now_ms: int) -> str:
    if "revoked_at" in view:
        return f"revoked {view['revoked_at']}"
    if "expires_at" not in view:
        return "good"
    from tq.core.fields import parse_instant

    has_expired = parse_instant("expires_at", view["expires_at"]) <= now_ms
    return f"{'expired' if has_expired else 'until'} {view['expires_at']}"


@keys_group.command("current", epilog=examples("tq keys current", "tq keys current --json"))
@asks
def current_command(*, api: Api, as_json: bool) -> None:
    """Show what the key in TQ_KEY is good for. Any key may ask; without keys, everything is allowed."""
    from tq.cli.printing import note, print_json, print_table

    answer = api.get("/v1/keys/current", has="scopes")
    if as_json:
        print_json(answer)
    elif answer["key"] is None:
        print_table(COLUMNS, [("", ",".join(answer["scopes"]), "all", "", "open", "")])
        note("this server asks for no key: everything is allowed")
    else:
        print_table(COLUMNS, [_row(answer["key"], _now_ms())])


@keys_group.command("revoke", epilog=examples("tq keys revoke 0199f3a6b1c9d2e4"))
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_keeps
def revoke_command(*, keeper: Keeper, ids: tuple[str, ...], as_json: bool) -> Exit:
    """Have keys be good no more, on every server within 5 s. They stay in the list."""
    from tq.cli.printing import print_json

    worst = Exit.OK
    for key_id in ids:
        try:
            view = keeper.revoke(key_id)
        except Fault as fault:
            worst = worst or say(fault.line, fault.code)
        else:
            if as_json:
                print_json(view)
            else:
                click.echo(f"{view['id']}\trevoked")
    return worst
