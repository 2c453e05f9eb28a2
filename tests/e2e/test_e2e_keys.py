"""Keys and real servers: where they listen, and that the secret of a key is kept nowhere."""

from __future__ import annotations

import subprocess
import sys
import time

from process import PATIENCE_S, Server, Site
from tiers import slow

pytestmark = slow

pytest_plugins = ("site_fixture",)


def first_key(site: Site, *more: str) -> str:
    """A key that may do all, made in the store of *site* while no server has it."""
    create = [sys.executable, "-m", "tq", "keys", "create", "--store", f"sqlite:///{site.db}"]
    scopes = "submit,read,operate,admin,metrics"
    done = subprocess.run([*create, "--scope", scopes, *more], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_server_listens_beyond_loopback_once_there_is_a_key(site: Site) -> None:
    bind = "0.0.0.0:0"
    refused = site.spawn(bind=bind)
    assert refused.wait_exit(since=time.monotonic(), within_s=PATIENCE_S) == 2
    said = refused.output.text()
    assert said.startswith(f"tq: --bind {bind}: there are no keys yet")
    assert said.endswith(
        f"make the first with `tq keys create --name NAME --scope admin --store sqlite:///{site.db}`"
    )

    key = first_key(site)
    server = site.spawn(bind=bind)
    line = server.output.wait("listening on http://0.0.0.0:")
    server.port = int(line.rpartition(":")[2])
    assert server.get("/v1/stats").status == 401
    # By any name: pages of strangers have no key to send.
    named = {"Host": "tq.example.org"}
    assert server.ask("GET", "/v1/stats", headers=named).status == 401
    assert server.ask("GET", "/v1/stats", headers=named | bearer(key)).status == 200
    assert server.get("/livez").status == 200
    server.stop()


def ask_in_every_way(server: Server, key: str) -> list[str]:
    """Use *key* well and badly, and make others of it; the secrets of all of them."""
    texts = [key]
    for name in ("a", "b"):
        made = server.post("/v1/keys", {"name": name, "scopes": ["read"]}, bearer(key))
        assert made.status == 201
        texts.append(made.json["key"])
    assert server.ask("DELETE", f"/v1/keys/{texts[1][3:19]}", headers=bearer(key)).status == 200
    for text in texts:
        whole, without, cut = bearer(text), {"Authorization": text}, bearer(text[:-1])
        for headers in (whole, without, cut, {"Authorization": f"Basic {text}"}):
            server.ask("GET", "/v1/stats", headers=headers)
            server.post("/v1/tasks", {"type": "echo", "payload": 1, "id": "t"}, headers)
        assert server.ask("GET", f"/v1/stats?key={text}", headers=bearer(key)).status == 400
        server.ask("GET", f"/v1/{text}", headers=bearer(key))
    return [text[19:83] for text in texts]


def test_the_secret_of_a_key_is_in_no_log_no_metric_and_no_store(site: Site) -> None:
    key = first_key(site, "--name", "root")
    server = site.start(log_level="debug")
    secrets = ask_in_every_way(server, key)
    metrics = server.ask("GET", "/metrics", headers=bearer(key))
    listed = server.ask("GET", "/v1/keys", headers=bearer(key))
    assert (metrics.status, listed.status) == (200, 200)
    server.stop()
    places = {
        "log": server.output.text().encode(),
        "metrics": metrics.body,
        "list": listed.body,
        **{path.name: path.read_bytes() for path in site.folder.iterdir() if path.is_file()},
    }
    assert b"key.created" in places["log"]
    assert b"root" in places["tq.db"]
    for secret in secrets:
        assert len(secret) == 64
        assert [name for name, content in places.items() if secret.encode() in content] == []


def test_keys_outlive_the_server_and_so_does_their_revocation(site: Site) -> None:
    key = first_key(site)
    server = site.start()
    made = server.post("/v1/keys", {"scopes": ["read"]}, bearer(key)).json
    kept = server.post("/v1/keys", {"scopes": ["read"]}, bearer(key)).json
    assert server.ask("DELETE", f"/v1/keys/{made['id']}", headers=bearer(key)).status == 200
    server.kill()
    server = site.start()
    statuses = [server.ask("GET", "/v1/stats", headers=bearer(each["key"])).status for each in (made, kept)]
    assert statuses == [401, 200]
    server.stop()
