"""Keys: made, listed, revoked. The text of a key is in one answer, and nowhere else."""

from __future__ import annotations

from tq.api.http import Request, Response, json_response
from tq.core.keys import KeyId, in_order
from tq.core.ops import RevokeKey
from tq.core.queries import GetKeys
from tq.core.requests import read_key
from tq.core.views import key_view
from tq.engine.server import Server


async def create(server: Server, request: Request) -> Response:
    """Make a key; `key` in the answer is shown this once. The first one must be able to make others."""
    made = request.new_key()
    op = read_key(request.body, made, is_first=server.keys.is_empty, now=server.clock.now_ms())
    view = key_view(await server.change(op))
    return json_response({**view, "key": made.text}, status=201, headers=(("cache-control", "no-store"),))


async def list_keys(server: Server, request: Request) -> Response:
    """All keys, the oldest first, also those that are good no more; never their texts."""
    return json_response({"keys": [key_view(key) for key in await server.read(GetKeys())]})


async def get_current(server: Server, request: Request) -> Response:
    """What the caller may do: the scopes, and the queues, null being all of them; and by which key.

    `key` is null on a server that asks for none, where everything is allowed.
    """
    caller = request.caller
    key = server.keys.find(KeyId(caller.name))
    content = {
        "key": None if key is None else key_view(key),
        "scopes": in_order(caller.scopes),
        "queues": None if caller.queues is None else sorted(caller.queues),
    }
    return json_response(content)


async def revoke(server: Server, request: Request) -> Response:
    """Have a key be good no more, at once; it stays in the list. Streams that it opened end."""
    return json_response(key_view(await server.change(RevokeKey(KeyId(request.params["key_id"])))))
