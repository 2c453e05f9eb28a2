"""A real browser for tests: the machine's own, or Debian's, or the one that an npm package carries.

Where none of them can be had, what needs one fails with a line that says what to do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
INSTALL_S: Final = 300
WATCH: Final = """
window.__ran = [];
document.addEventListener("securitypolicyviolation", event =>
  console.error("policy:", event.violatedDirective, event.blockedURI, event.sample));
"""
PATIENCE_MS: Final = 10_000
SIZE: Final[ViewportSize] = {"width": 1280, "height": 800}
LEAVE: Final = """() => {
  document.querySelectorAll("dialog").forEach(each => each.close());
  document.querySelector(".told button")?.click();
  location.hash = "#/nowhere";
}"""
"""Close what is open, take away what is told, and be on no page."""
CARRIER: Final = "@sparticuz/chromium@147.0.0"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tq-chromium"
UNBROTLI: Final = """
  const [from, to] = process.argv.slice(1), {createReadStream, createWriteStream} = require("fs");
  createReadStream(from).pipe(require("zlib").createBrotliDecompress()).pipe(createWriteStream(to));
"""
LOCK: Final = Path(tempfile.gettempdir()) / "tq-browser.lock"


class NoBrowser(Exception):
    """There is none, and none could be installed."""


def find_browser() -> str:
    """The browser of this machine, or one that is made to be there. Raises NoBrowser."""
    # One of all the workers of a run installs it, the others wait.
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _on_path() or _installed() or _unpacked()
    if found is None:
        raise NoBrowser(
            "no Chromium on this machine: install it (apt-get install chromium), or put it on PATH as one of "
            + ", ".join(NAMES)
        )
    return found


def _on_path() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _installed() -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    with suppress(subprocess.SubprocessError):
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "chromium"]):
            subprocess.run(command, capture_output=True, timeout=INSTALL_S, check=True)
    return _on_path()


def _unpacked() -> str | None:
    """The browser of the npm package, unpacked into the cache of the user once and for all."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return None
    folder = CACHE / CARRIER.rpartition("@")[2]
    start = folder / "chromium"
    if not start.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(subprocess.SubprocessError):
            _unpack(folder, start)
    return str(start) if start.exists() else None


def _unpack(folder: Path, start: Path) -> None:
    """Raises SubprocessError: it cannot be fetched, or is not what it was."""

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=INSTALL_S, check=True, text=True
        )
        return done.stdout.strip()

    archive = run("npm", "pack", "--silent", CARRIER)
    run("tar", "-xzf", archive, "--strip-components=2", "package/bin")
    for packed in sorted(folder.glob("*.br")):
        run("node", "-e", UNBROTLI, packed.name, packed.stem)
        packed.unlink()
    for libraries in sorted(folder.glob("*.tar")):
        run("tar", "-xf", libraries.name)
        libraries.unlink()
    (folder / archive).unlink()
    program = (folder / "chromium").rename(folder / "chromium-itself")
    program.chmod(0o755)
    start.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{folder}/lib" exec "{program}" "$@"\n')
    start.chmod(0o755)


@contextmanager
def open_profile() -> Iterator[BrowserContext]:
    """A browser as one reader has it: pages share what it keeps of files. Raises NoBrowser."""
    with open_browser() as browser:
        # In the locale C, a browser may give its pages a language that there is not.
        context = browser.new_context(viewport=SIZE, locale="en-US")
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.add_init_script(WATCH)
        yield context


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with nobody at it. Raises NoBrowser."""
    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Desk:
    """A page in the browser, at a server; it fails if it complained.

    That is: a line on its console, an error that nobody caught, a breach of its policy, a script slipped in.
    ``wanted`` counts, by a part of their text, the complaints that a test provokes.
    """

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)

    def open(self, address: str = "") -> Page:
        """Go to a place of the dashboard, such as ``#/tasks``; it is loaded unless it is there already."""
        if not self.page.url.startswith(self.base):
            self.page.goto(self.base + address)
        else:
            self.page.evaluate(LEAVE)
            self.page.locator("h1", has_text="Nothing here").wait_for()
            self.page.evaluate("address => { location.hash = address; }", address or "#/overview")
            if address != "#/nowhere":
                self.page.locator("h1", has_text="Nothing here").wait_for(state="detached")
        self.page.locator("main h1").wait_for()
        return self.page

    def tidy(self) -> None:
        """Leave nothing of what one test did to the page to the next."""
        self.complaints.clear()
        self.wanted.clear()
        self.page.set_viewport_size(SIZE)
        self.page.emulate_media(color_scheme=None)

    def expect_complaint(self, text: str) -> None:
        """From now on until it is tidied, complaints that have *text* in them are wanted: one at least."""
        self.wanted[text] = 0

    def complain(self, complaint: str) -> None:
        """Take note of *complaint*."""
        for text in self.wanted:
            if text in complaint:
                self.wanted[text] += 1
                return
        self.complaints.append(complaint)

    def check(self) -> None:
        """Fail if there was a complaint that was not wanted, or a wanted one did not come."""
        ran = self.page.evaluate("window.__ran")
        if self.wanted:
            # What was asked for and is refused later would be complained of in the test that comes next.
            self.page.goto("about:blank")
        assert self.complaints == []
        assert [text for text, times in self.wanted.items() if not times] == [], "wanted, and not come"
        assert ran == []


def _told(message: ConsoleMessage) -> str:
    """What a line of the console says, and of what: the line alone does not name the request that failed."""
    return f"{message.type}: {message.text} ({message.location['url']})"


@contextmanager
def sit_down(context: BrowserContext, base: str) -> Iterator[Desk]:
    """A desk with a page of its own, that is checked at the end."""
    page = context.new_page()
    desk = Desk(page, base)
    page.on("console", lambda each: desk.complain(_told(each)))
    page.on("pageerror", lambda each: desk.complain(f"error: {each}"))
    page.on("dialog", lambda each: desk.complain(f"dialog: {each.message}"))
    try:
        yield desk
        desk.check()
    finally:
        page.close()
