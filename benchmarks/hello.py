"""The limit of the HTTP stack: hello world on bare quart-trio under hypercorn as it comes."""

from __future__ import annotations

import socket

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.post("/v1/tasks")
async def hello() -> tuple[dict[str, str], int]:
    """The least that a POST can do: its body is not even looked at."""
    return {"hello": "world"}, 201


def main() -> None:
    """Serve on a free port and tell its URL as ``tq serve`` does."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    config.accesslog = config.errorlog = None
    print(f"hello listening on http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    trio.run(serve, app, config)


if __name__ == "__main__":
    main()
