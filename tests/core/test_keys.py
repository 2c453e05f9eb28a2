"""What a key looks like, what is kept of it, and what its caller may."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest

import pytest

from tq.core import keys
from tq.core.errors import NotAllowed
from tq.core.keys import Key, KeyId, Scope, caller_of, is_text_of, make_key, parse_key

MADE = make_key(bytes(range(40)))
TEXT = "tq_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627"


def kept(**more: object) -> Key:
    fields: dict[str, object] = {"scopes": (Scope.READ,), **more}
    return Key(id=MADE.id, name="a", digest=MADE.digest, created_at=0, **fields)  # type: ignore[arg-type]


def test_a_key_is_its_id_its_secret_and_a_checksum() -> None:
    assert MADE.id == "0001020304050607"
    assert MADE.text[:-8] == TEXT
    assert len(MADE.text) == 91
    assert parse_key(MADE.text) == KeyId("0001020304050607")
    assert MADE.text not in repr(MADE)


@pytest.mark.parametrize("position", range(3, 91))
def test_a_slip_anywhere_is_seen(position: int) -> None:
    other = "0" if MADE.text[position] != "0" else "1"
    assert parse_key(MADE.text[:position] + other + MADE.text[position + 1 :]) is None


@pytest.mark.parametrize("text", ["", "tq_", MADE.text.upper(), MADE.text + "\n", MADE.text[:-1], "é" * 91])
def test_what_is_no_key_is_none(text: str) -> None:
    assert parse_key(text) is None


def test_only_the_whole_text_fits_what_is_kept() -> None:
    assert is_text_of(kept(), MADE.text)
    assert not is_text_of(kept(), make_key(bytes(range(8)) + bytes(32)).text)
    assert MADE.text[19:83] not in MADE.digest


@pytest.mark.parametrize("text", [MADE.text, MADE.text[:-1] + "x", "x", ""])
def test_digests_are_compared_in_constant_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return compare_digest(first, second)

    monkeypatch.setattr(keys, "compare_digest", compare)
    assert is_text_of(kept(), text) == (text == MADE.text)
    assert compared == [(MADE.digest, sha256(text.encode()).hexdigest())]


def test_a_key_is_good_until_it_expires_or_is_revoked() -> None:
    assert kept().fault(10**15) is None
    assert kept(expires_at=10).fault(9) is None
    assert kept(expires_at=10).fault(10) == "expired"
    assert kept(expires_at=10, revoked_at=5).fault(9) == "revoked"


def test_a_caller_looks_at_its_only_queue_and_must_name_one_of_several() -> None:
    one, two = caller_of(kept(queues=("a",))), caller_of(kept(queues=("a", "b")))
    assert (one.narrowed(None), one.narrowed("a"), two.narrowed("b")) == ("a", "a", "b")
    assert caller_of(kept()).narrowed(None) is None
    for caller, queue in ((one, "b"), (two, None)):
        with pytest.raises(NotAllowed, match="queue"):
            caller.narrowed(queue)
