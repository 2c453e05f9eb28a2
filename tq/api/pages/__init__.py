"""The page that shows the contract: its parts, put together. It knows the contract by its address only."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent


@cache
def docs_page() -> tuple[bytes, str]:
    """The HTML of the page, and the Content-Security-Policy by which only what is in it runs."""
    style, script = _read("docs.css"), _read("docs.js")
    html = _read("docs.html").replace("/* docs.css */", style).replace("/* docs.js */", script)
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html.encode(), "; ".join(f"{name} {value}" for name, value in policy.items())


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
