"""Every store: keys, of which it never has the text."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from storage_kit import NOW, do, refusal

from tq.core import keys, ops
from tq.core.errors import Conflict, NotFound
from tq.core.keys import Key, KeyId, Scope
from tq.core.limits import Rate
from tq.core.queries import GetKeys
from tq.storage.store import Store

pytest_plugins = ("every_store",)

RATE = Rate(limit=100, period_ms=60_000, burst=100)


def put(key_id: str, **given: object) -> ops.PutKey:
    fields: dict[str, object] = {"name": "ci", "digest": "d" * 64, "scopes": (Scope.SUBMIT,), **given}
    return ops.PutKey(key_id=KeyId(key_id), **fields)  # type: ignore[arg-type]


def revoke(name: str) -> ops.RevokeKey:
    return ops.RevokeKey(KeyId(name))


def names(store: Store) -> list[str]:
    return [key.id for key in store.read(GetKeys())]


def test_new_key_is_kept_as_given(store: Store) -> None:
    scopes = (Scope.SUBMIT, Scope.READ)
    op = put("k", name="ñ", scopes=scopes, queues=("a", "b"), rate=RATE, expires_at=NOW + 5)

    made = do(store, op, NOW + 1)

    assert made == Key(
        id=KeyId("k"),
        name="ñ",
        digest="d" * 64,
        scopes=scopes,
        queues=("a", "b"),
        rate=RATE,
        created_at=NOW + 1,
        expires_at=NOW + 5,
        revoked_at=None,
    )
    assert store.read(GetKeys()) == (made,)
    assert store.snapshot().keys == (made,)


def test_keys_are_listed_oldest_first_then_by_id(store: Store) -> None:
    assert names(store) == []
    do(store, put("b"), NOW + 1)
    do(store, put("c"), NOW)
    do(store, put("a"), NOW + 1)

    assert names(store) == ["c", "a", "b"]


def test_an_id_is_taken_once(store: Store) -> None:
    do(store, put("k"))

    assert refusal(Conflict, store, put("k", digest="e" * 64)).fields == {"key_id": "k"}


def test_revoked_key_stays_in_the_list_with_its_first_instant(store: Store) -> None:
    made = do(store, put("k"))

    assert do(store, revoke("k"), NOW + 7) == replace(made, revoked_at=NOW + 7)
    assert do(store, revoke("k"), NOW + 9).revoked_at == NOW + 7
    assert store.read(GetKeys()) == (replace(made, revoked_at=NOW + 7),)
    assert refusal(Conflict, store, put("k")).code == "conflict"


def test_unknown_key_is_not_revoked(store: Store) -> None:
    do(store, put("k"))

    assert refusal(NotFound, store, revoke("K")).fields == {"key_id": "K"}


def test_the_first_that_was_revoked_makes_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory_keys", "sqlite_keys", "postgres_keys"):
        monkeypatch.setattr(f"tq.storage.{module}.KEYS_MAX", 3)
    assert keys.KEYS_MAX == 1_000
    for name in "abc":
        do(store, put(name))
    assert refusal(Conflict, store, put("d")).fields == {"limit": 3}

    do(store, revoke("c"), NOW + 1)
    do(store, revoke("a"), NOW + 2)
    do(store, put("d"), NOW + 3)
    assert names(store) == ["a", "b", "d"]
    do(store, put("e"), NOW + 4)
    assert names(store) == ["b", "d", "e"]
    refusal(Conflict, store, put("f"))
