"""What can be sent: the text of a key, of a header and of a path, and what JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final

import msgspec

from tq.core.errors import InvalidInput

PORT_MAX: Final = 65_535


def header_text(text: str, what: str) -> str:
    """*text* as the value of a header, without whitespace at its ends.

    Raises:
        InvalidInput: It cannot be one. *text* is not shown, as it may be a secret and the message be logged.
    """
    text = text.strip()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise InvalidInput(f"{what}: it has spaces or characters that are not printable ASCII")
    return text


def path_text(text: str, what: str) -> str:
    """*text*, which is to be one part of a path.

    Raises:
        InvalidInput: It is empty, or has what UTF-8 cannot hold.
    """
    if not text:
        raise InvalidInput(f"{what}: it is empty")
    return utf8_text(text, what)


def utf8_text(text: str, what: str) -> str:
    """*text*, which UTF-8 can hold: no half of a surrogate pair, as of an argument that is not UTF-8.

    Raises:
        InvalidInput: It cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{what}: {text!a} is not UTF-8") from None
    return text


def json_bytes(value: object, what: str) -> bytes:
    """*value* as JSON.

    Raises:
        InvalidInput: JSON cannot hold it, or would silently hold something else.
    """
    try:
        encoded = msgspec.json.encode(value)
        # NaN and infinity become null; only where there is one need they be looked for. What the hook is
        # asked about is JSON already.
        is_lossy = b"null" in encoded and _has_no_number(msgspec.to_builtins(value, enc_hook=_nothing))
    except UnicodeEncodeError:
        raise InvalidInput(f"{what}: a text in it is not UTF-8") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{what}: JSON cannot hold it: {error}") from None
    if is_lossy:
        raise InvalidInput(f"{what}: JSON cannot hold it: a number in it is NaN or infinite")
    return encoded


def _nothing(_: object) -> None:
    return None


def _has_no_number(value: object) -> bool:
    """Whether a float in *value* is none that JSON has."""
    match value:
        case float():
            return not isfinite(value)
        case Mapping():
            return any(map(_has_no_number, value.values()))
        case list() | tuple():
            return any(map(_has_no_number, value))
        case _:
            return False
