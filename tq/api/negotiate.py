"""What a client says it can take, and has: media types, compression, entity tags (RFC 9110, 8.8, 12, 13).

Header values in, answers out. A header that makes no sense is as if it were not there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from tq.api.http import Response
from tq.api.problems import NotAcceptable
from tq.clock import RunSync

COMPRESS_MIN: Final = 1024
"""Bytes of a body from which on it may be compressed."""
COMPRESS_MAX: Final = 8 * 1024 * 1024
"""Bytes of a body up to which it is: what a client asks for must not cost seconds of a processor."""
COMPRESS_INLINE_MAX: Final = 64 * 1024
"""Bytes of a body that are compressed at once, in under a millisecond; more of them, in a thread."""
_GZIP: Final = 31
"""What zlib calls the gzip format. It tells no time, so that equal bodies stay equal."""
_GZIP_MARK: Final = "-gzip"
"""Behind the tag of a compressed body: other bytes, so another strong tag (RFC 9110, 8.8.3.3)."""

_RANGE: Final = re.compile(r"(?P<type>[!#$%&'*+.^_`|~0-9a-z-]+)/(?P<subtype>[!#$%&'*+.^_`|~0-9a-z-]+)")
_QUALITY: Final = re.compile(r"q\s*=\s*(?P<value>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_TAG: Final = re.compile(r'(?:W/)?"(?P<tag>[^"]*)"')


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """The members of a list such as ``a;q=0.5, b``, in lower case, each with its quality."""
    for member in header.lower().split(","):
        name, *parameters = member.split(";")
        quality = 1.0
        for parameter in parameters:
            if match := _QUALITY.fullmatch(parameter.strip()):
                quality = float(match["value"])
        if name.strip():
            yield name.strip(), quality


@lru_cache(maxsize=256)
def accepts(accept: str, media: str) -> bool:
    """Whether *accept* takes *media*: of the ranges that fit, the narrowest says."""
    ranges = {name: quality for name, quality in _weighted(accept) if _RANGE.fullmatch(name)}
    if not ranges:
        return True
    media = media.partition(";")[0]
    fitting = (media, media.partition("/")[0] + "/*", "*/*")
    return next((ranges[each] for each in fitting if each in ranges), 0.0) > 0


def wanted(accept: str, media: str) -> float:
    """How much *accept* wants *media*, which it names: its greatest quality; 0 if it names it not."""
    media = media.partition(";")[0]
    return max((quality for name, quality in _weighted(accept) if name == media), default=0.0)


def check_accept(headers: Mapping[str, str], offered: tuple[str, ...]) -> None:
    """Return if one of *offered* may be answered with. Raises NotAcceptable."""
    accept = headers.get("accept", "*/*")
    if accept == "*/*" or any(accepts(accept, media) for media in offered):
        return
    raise NotAcceptable(
        f"the answer is {' or '.join(offered)}, which Accept leaves out: ask for that, or for */*",
        accepted=list(offered),
    )


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: str) -> bool:
    """Whether *accept_encoding* asks for gzip, by name or with ``*``."""
    codings = dict(_weighted(accept_encoding))
    return codings.get("gzip", codings.get("x-gzip", codings.get("*", 0.0))) > 0


def has_tag(if_none_match: str, tag: str) -> bool:
    """Whether the client has what *tag* stands for, compressed or not."""
    if if_none_match.strip() == "*":
        return True
    return any(match["tag"].removesuffix(_GZIP_MARK) == tag for match in _TAG.finditer(if_none_match))


async def negotiated(response: Response, asked: Mapping[str, str], run_sync: RunSync) -> Response:
    """*response* to a GET as its headers want it: 304 for what the client has, else compressed if asked for.

    Args:
        asked: The headers of the request, by name in lower case.
        run_sync: Where a large body is compressed.
    """
    body, headers, tag = response.body, response.headers, response.tag
    if response.status != 200 or not isinstance(body, bytes):
        return response
    may_code = COMPRESS_MIN <= len(body) <= COMPRESS_MAX
    is_coded = may_code and takes_gzip(asked.get("accept-encoding", ""))
    if may_code:
        headers = (*headers, ("vary", "accept-encoding"))
    if tag is not None:
        headers = (*headers, ("etag", f'"{tag}{_GZIP_MARK if is_coded else ""}"'))
        if has_tag(asked.get("if-none-match", ""), tag):
            return Response(304, headers=headers)
    if is_coded:
        body = await _compressed(body, run_sync)
        headers = (*headers, ("content-encoding", "gzip"))
    return replace(response, body=body, headers=headers)


async def _compressed(body: bytes, run_sync: RunSync) -> bytes:
    compress = partial(zlib.compress, body, 1, _GZIP)
    return compress() if len(body) <= COMPRESS_INLINE_MAX else await run_sync(compress)
