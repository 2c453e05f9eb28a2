"""Servers that ask for keys, and the keys that tests ask with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from raw_http import Api, open_api

from tq.core.keys import KEY_CHANCE_BYTES, KEY_SCOPES, NewKey, Scope, make_key
from tq.core.ops import PutKey
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing.kit import EPOCH_MS


def key(number: int) -> NewKey:
    return make_key(bytes([number]) * KEY_CHANCE_BYTES)


def put(made: NewKey, *scopes: Scope, queues: tuple[str, ...] = (), **more: object) -> PutKey:
    return PutKey(
        key_id=made.id,
        name="k",
        digest=made.digest,
        scopes=scopes,
        queues=queues,
        **more,  # type: ignore[arg-type]
    )


ROOT = key(255)


@asynccontextmanager
async def locked(queue: TaskQueue, *keys: PutKey, **more: Any) -> AsyncIterator[Api]:
    """A server that asks for keys, of which ROOT may do all."""
    store = MemoryStore()
    store.apply([put(ROOT, *KEY_SCOPES), *keys], EPOCH_MS)
    async with open_api(queue, store=store, **more) as api:
        yield api


def bearer(made: NewKey | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {made if isinstance(made, str) else made.text}"}
