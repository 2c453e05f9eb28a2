"""GET / and its files: all of it from this server, kept by version, and under a policy without exceptions."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
import trio.testing
from raw_http import open_api

from tq.dashboard.files import MEDIA, MODULES, dashboard
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
HOME = Path(__file__).resolve().parent.parent.parent / "tq" / "dashboard"
OURS = sorted((HOME / "static").iterdir())
VENDOR = HOME / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())
FILE_LINES_MAX = 400


async def test_the_page_runs_under_a_policy_without_exceptions(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        page = await api.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    (mapped,) = re.findall(r"'(sha256-[^']+)'", policy)
    assert policy.replace(mapped, "HASH").split("; ") == [
        "default-src 'none'",
        "script-src 'self' 'HASH'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-cache"
    assert b"tq" in page.body


async def test_the_page_is_known_by_its_tag_and_takes_any_query(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        tag = (await api.get("/")).headers["etag"]
        again = await api.ask("GET", "/?utm_source=x", headers={"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")


async def test_every_file_that_the_page_names_is_there_and_kept_for_ever(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        html = (await api.get("/")).body.decode()
        named = re.findall(r'(?:href|src)="([^"]*)"', html)
        (imports,) = re.findall(r'<script type="importmap">(.*?)</script>', html)
        imported = [each.removeprefix("./") for each in json.loads(imports)["imports"].values()]
        assert len(imported) == len(MODULES)
        named += imported
        assert {Path(each).name for each in named} == dashboard().by_name.keys(), "all at once, none later"
        for address in named:
            assert address.startswith(f"dashboard/{dashboard().version}/"), "relative, and with its version"
            file = await api.get("/" + address)
            assert file.status == 200, address
            assert file.headers["content-type"] == MEDIA[Path(address).suffix]
            assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert file.headers["x-content-type-options"] == "nosniff"


async def test_a_file_under_another_version_is_served_and_not_kept(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        file = await api.get("/dashboard/older/main.js")
        assert (file.status, file.headers["cache-control"]) == (200, "no-cache")
        again = await api.ask(
            "GET", "/dashboard/older/main.js", headers={"If-None-Match": file.headers["etag"]}
        )
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["index.html", "manifest.json", "update", "preact.LICENSE", "..", "x.js"])
async def test_nothing_else_is_served(name: str, queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        assert (await api.get(f"/dashboard/x/{name}")).status == 404


def test_every_import_leads_to_a_file() -> None:
    files = dashboard().by_name
    found = 0
    for name, content in files.items():
        text = content.decode()
        if name.endswith(".js"):
            for target in re.findall(r'(?:\bfrom|\bimport) ?"(\./[\w.]+|[a-z/]+)"', text):
                file = MODULES.get(target) or target.removeprefix("./")
                assert file in files, f"{name} imports {target}"
                found += 1
    assert found > 60


def test_our_scripts_make_no_html_of_text_and_name_no_other_address() -> None:
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        r"|https?:|//[a-z]+\.|\burl\(|@import| on[a-z]+=\"|style=\"|localStorage\.setItem\(KEY"
    )
    for path in OURS:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert re.findall(sinks, text) == [], path.name


def test_no_file_of_ours_is_long() -> None:
    assert {path.name for path in OURS if len(path.read_text().splitlines()) > FILE_LINES_MAX} == set()


def test_what_was_fetched_is_what_was_published() -> None:
    there = {path.name for path in VENDOR.iterdir() if path.is_file()} - {"manifest.json", "update"}
    assert {each["file"] for each in MANIFEST} == there
    for each in MANIFEST:
        assert sha256((VENDOR / each["file"]).read_bytes()).hexdigest() == each["sha256"], each["file"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", each["version"])
        assert each["licence"] in ("MIT", "Apache-2.0")
    packages = {each["package"] for each in MANIFEST}
    assert packages == {"preact", "htm", "uplot"}
    assert all(f"{package}.LICENSE" in there for package in packages), "each comes with its licence"
