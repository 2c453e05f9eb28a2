"""The files of ``deploy/docker`` name what there is, and its script makes keys that a server takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from tiers import slow

from tq.config import SETTINGS, load_config
from tq.core.keys import Scope
from tq.core.queries import GetKeys
from tq.storage.store import open_store

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "deploy/docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def test_every_file_that_is_mounted_is_there() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", ())]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert {file for file in files if not (DOCKER / file).is_file()} == set()
    assert {mount.split(":")[0] for mount in mounts} - {*files} == {*COMPOSE["volumes"]}


def test_what_is_copied_into_the_image_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "names",
    [re.findall(r"\b(TQ_\w+)=", DOCKERFILE), list(COMPOSE["x-tq"]["environment"])],
    ids=["image", "fleet"],
)
def test_settings_that_are_given_are_settings(names: list[str]) -> None:
    assert names
    assert {*names} <= {setting.variable for setting in SETTINGS}


def test_the_image_begins_with_settings_that_are_taken() -> None:
    given = dict(re.findall(r"\b(TQ_\w+)=(\S+)", DOCKERFILE))
    assert load_config({}, environ=given, folder=DOCKER).store == "sqlite:////data/tq.db"


def test_a_server_has_longer_to_stop_than_it_takes() -> None:
    for name in ("tq1", "tq2"):
        service = COMPOSE["services"][name]
        grace = service["environment"]["TQ_GRACE"]
        assert int(service["stop_grace_period"].removesuffix("s")) > int(grace.removesuffix("s")) + 5


def test_prometheus_asks_the_servers_that_there_are() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    asked = {target.partition(":")[0] for each in job["static_configs"] for target in each["targets"]}
    assert asked == {name for name in COMPOSE["services"] if re.fullmatch(r"tq\d", name)}


def make_keys(folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "TQ_STORE": f"sqlite:///{folder}/tq.db"}
    subprocess.run(["sh", DOCKER / "make-keys", folder], env=environ, check=True, capture_output=True)


def test_keys_are_made_once(tmp_path: Path) -> None:
    make_keys(tmp_path)
    made = {name: (tmp_path / name).read_text() for name in ("root", "metrics")}
    make_keys(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in made} == made
    store = open_store(f"sqlite:///{tmp_path}/tq.db")
    try:
        keys = {key.name: key for key in store.read(GetKeys())}
    finally:
        store.close()
    assert {*keys} == {"root", "metrics"}
    assert keys["metrics"].scopes == (Scope.METRICS,)
    assert made["root"].startswith(f"tq_{keys['root'].id}")
    assert (tmp_path / "metrics").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o600


@slow
def test_keys_are_made_anew_for_a_new_store(tmp_path: Path) -> None:
    make_keys(tmp_path)
    before = (tmp_path / "root").read_text()
    (tmp_path / "tq.db").unlink()
    make_keys(tmp_path)
    assert (tmp_path / "root").read_text() != before
