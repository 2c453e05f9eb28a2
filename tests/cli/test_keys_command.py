"""``tq keys``: offline for the first key, or by a server on loopback, and by a server from then on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import APP, CallTq, Done, serving
from tiers import slow

pytest_plugins = ("calling",)

STORE = ("--store", "sqlite:///./tq.db")


def made(done: Done) -> str:
    """The key that was made, after a check that it stands alone on stdout."""
    assert done.code == 0, done
    key = done.out.removesuffix("\n")
    assert (len(key), key[:3], key.split()) == (91, "tq_", [key])
    assert key not in done.err
    return key


@slow
def test_the_first_key_is_made_offline_and_makes_the_others(tq: CallTq, tmp_path: Path) -> None:
    root = made(tq("keys", "create", "--name", "root", "--scope", "admin,read", *STORE))
    assert tq("keys", "list", *STORE).out == f"{root[3:19]}\tread,admin\tall\t\tgood\troot\n"
    (tmp_path / "app.py").write_text(APP)
    with serving("serve", *STORE, cwd=tmp_path) as (_, url):
        ci = ("keys", "create", "--scope", "submit", "--queue", "mail", "--rate", "9/m", "--url", url)
        assert "[unauthorized]" in tq(*ci).refused(13)
        key = made(tq(*ci, "--expires", "1d", TQ_KEY=root))
        assert tq("submit", "add", "--queue", "mail", "a=1", "--url", url, TQ_KEY=key).code == 0
        assert "[not_allowed]" in tq("submit", "add", "a=1", "--url", url, TQ_KEY=key).refused(13)
        own = tq("keys", "current", "--url", url, TQ_KEY=key).out
        assert own.startswith(f"{key[3:19]}\tsubmit\tmail\t9/60s\tuntil ")
        told = json.loads(tq("keys", "current", "--json", "--url", url, TQ_KEY=key).out)
        assert (told["scopes"], told["queues"], told["key"]["id"]) == (["submit"], ["mail"], key[3:19])
        assert "[unauthorized]" in tq("keys", "current", "--url", url).refused(13)
        shown = tq("keys", "list", "--url", url, TQ_KEY=root).out.splitlines()
        assert shown[1].startswith(f"{key[3:19]}\tsubmit\tmail\t9/60s\tuntil ")
        assert shown[1].endswith(f"\t{key[3:19]}")
        revoked = tq("keys", "revoke", key[3:19], "--url", url, TQ_KEY=root)
        assert revoked.out == f"{key[3:19]}\trevoked\n"
        assert "[unauthorized]" in tq("submit", "add", "a=1", "--url", url, TQ_KEY=key).refused(13)
        shown = tq("keys", "list", "--json", "--url", url, TQ_KEY=root).out.splitlines()
        assert json.loads(shown[1])["revoked_at"]
        assert key[19:83] not in "".join(shown)
        # The file is not to be changed behind the back of the server.
        assert "is asked without --store" in tq("keys", "list", *STORE).refused(4)


def test_the_first_key_is_made_by_a_server_on_loopback(tq: CallTq, tmp_path: Path) -> None:
    with serving("demo", "--store", "memory:", cwd=tmp_path) as (_, url):
        assert tq("keys", "current", "--url", url).out == (
            "\tsubmit,read,operate,admin,metrics\tall\t\topen\t\n"
        )
        create = ("keys", "create", "--url", url, "--scope")
        assert "the first key needs admin, for all queues" in tq(*create, "read").refused(7)
        assert "the first key needs admin" in tq(*create, "admin", "--queue", "mail").refused(7)
        view = json.loads(tq(*create, "admin", "--json").out)
        assert tq(*create, "read").refused(13)
        assert made(tq(*create, "read", TQ_KEY=view["key"]))


def test_the_first_key_needs_admin_offline_too(tq: CallTq) -> None:
    create = ("keys", "create", *STORE, "--scope")
    assert "the first key needs admin, for all queues" in tq(*create, "read").refused(7)
    assert tq("keys", "list", *STORE) == Done(0, "", "")
    root = made(tq(*create, "admin"))
    assert made(tq(*create, "read")) != root


def test_what_cannot_be_revoked_does_not_keep_the_others(tq: CallTq) -> None:
    root = made(tq("keys", "create", "--scope", "admin", *STORE))
    done = tq("keys", "revoke", "0" * 16, root[3:19], *STORE)
    assert (done.code, done.out) == (8, f"{root[3:19]}\trevoked\n")
    assert "[not_found]" in done.err


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
def test_beyond_loopback_is_refused_without_keys_and_says_what_to_do(tq: CallTq, bind: str) -> None:
    said = tq("demo", "--bind", bind, *STORE).refused(2)
    assert f"--bind {bind}: there are no keys yet, and without one only loopback is listened on" in said
    assert "make the first with `tq keys create --name NAME --scope admin --store sqlite:///./tq.db`" in said


def test_a_memory_store_beyond_loopback_is_refused_for_good(tq: CallTq) -> None:
    said = tq("demo", "--bind", "0.0.0.0:0", "--store", "memory:").refused(2)
    assert "a store in memory has no keys at the start: choose another with --store" in said


def test_bad_usage_of_keys_is_one_line(tq: CallTq) -> None:
    create = ("keys", "create", *STORE, "--scope")
    assert "'x' is not a rate" in tq(*create, "admin", "--rate", "x").refused(2)
    assert "'root'" in tq(*create, "root").refused(7)
    assert "expires_at" in tq(*create, "admin", "--expires", "yesterday").refused(7)
    assert "an instant to come" in tq(*create, "admin", "--expires", "2020-01-01T00:00:00Z").refused(7)
    assert "keeps no keys" in tq("keys", "list", "--store", "memory:").refused(2)
