"""Ask a server again and again whether it is well: in a process of its own, to measure the server alone.

``python pulse.py PORT``: until its input ends; then it prints how long each answer took, in ms, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from process import Server, ask_on


def take(server: Server, over: threading.Event) -> list[float]:
    """How long ``/livez`` took, every 20 ms, each time over a new connection. Raises if it is not well."""
    took_ms = []
    while not over.wait(0.02):
        connection = server.connect(timeout_s=5)
        begun = time.perf_counter()
        answer = ask_on(connection, "GET", "/livez")
        took_ms.append((time.perf_counter() - begun) * 1000)
        connection.close()
        assert answer.status == 200, answer
    return took_ms


def main() -> None:
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    server = Server.__new__(Server)
    server.port = int(sys.argv[1])
    print(json.dumps(take(server, over)))


if __name__ == "__main__":
    main()
