"""The files of the dashboard, and the page that names them. Knows files only; asks no server.

All files have one version, a digest of all of them, and are named with it: ``dashboard/VERSION/FILE``. So a
browser may keep each for ever, and never runs the modules of two releases together.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_PAGE: Final = "index.html"
_NO_MODULES: Final = ("theme.js",)
MEDIA: Final[Mapping[str, str]] = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served, by the end of its name; everything else in the folders is not."""
MODULES: Final = {"preact": "preact.js", "preact/hooks": "hooks.js", "htm": "htm.js", "uplot": "uplot.js"}
"""By the name under which modules import it: each that is not ours."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files by name, their version, and the page with the policy under which it runs."""

    version: str
    by_name: Mapping[str, bytes]
    page: bytes
    policy: str


@cache
def dashboard() -> Files:
    """The files as they are on disk when they are first asked for."""
    paths = sorted(path for folder in ("static", "vendor") for path in (_HERE / folder).iterdir())
    by_name = {path.name: path.read_bytes() for path in paths if path.suffix in MEDIA}
    version = _digest(by_name)
    imports = {name: f"./dashboard/{version}/{file}" for name, file in MODULES.items()}
    import_map = json.dumps({"imports": imports})
    page = (_HERE / "static" / _PAGE).read_text(encoding="utf-8")
    # Each module is found out about when the one that imports it has come: four times there and back.
    preloads = "\n".join(
        f'<link rel="modulepreload" href="dashboard/{version}/{name}">'
        for name in by_name
        if name.endswith(".js") and name not in _NO_MODULES
    )
    page = page.replace("{preloads}", preloads).replace("{version}", version)
    page = page.replace("{import_map}", import_map)
    return Files(version, by_name, page.encode(), _policy(import_map))


def _digest(files: Mapping[str, bytes]) -> str:
    digest = blake2b(digest_size=8)
    for name, content in files.items():
        digest.update(b"%s %d " % (name.encode(), len(content)) + content)
    return digest.hexdigest()


def _policy(import_map: str) -> str:
    """What the page may do: run and show what this server serves, and ask it. Text is never made HTML."""
    mapped = b64encode(sha256(import_map.encode()).digest()).decode()
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'sha256-{mapped}'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
