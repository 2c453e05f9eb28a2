"""What hostile clients send: a corpus by family, its mutations, and pieces to make more of.

Nothing here is random but by seed, so what failed once fails again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from itertools import product
from typing import Final

HOST: Final = b"Host: localhost\r\n"
CLOSE: Final = b"Connection: close\r\n"
GET: Final = b"GET /livez HTTP/1.1\r\n" + HOST
POST: Final = b"POST /v1/tasks HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY: Final = b'{"type":"echo","payload":1}'
HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(opcode: int, payload: bytes, *, first: int = 0x80, masked: bool = True) -> bytes:
    """A WebSocket frame. *first* has the bits beside the opcode: the last one, and the reserved."""
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first | opcode, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first | opcode, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first | opcode, mask | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def request_lines() -> Iterator[bytes]:
    rest = b"\r\n" + HOST + CLOSE + b"\r\n"
    versions = [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"http/1.1", b"HTTP/1.10"]
    for version in [
        *versions,
        b"HTTP/1",
        b"HTTP/11",
        b"HTP/1.1",
        b"HTTP/1.1 x",
        b"",
        b"\xff\xfe",
        b"HTTP/+.1",
    ]:
        yield b"GET /livez " + version + rest
    targets = [
        b"", b"*", b"livez", b"?", b"?x", b"//", b"/../..", b"/%", b"/%zz", b"/%00", b"/%ff%fe",
        b"/%0d%0aX:y", b"/%1b[31m", b"http://[", b"http://[/livez", b"http://", b"://", b"http://a b/",
        b"/a\tb", b"/\x00", b"/\x7f", b"/\xc3\x28", b"/a?\xff", b"/livez#x", b"/livez?a=%ff&b",
        b"/" + b"a" * 15_000, b"/" + b"a" * 70_000, b"/" + b"%41" * 4_000, b"localhost:80",
        b"http://evil.example/livez", b"/v1/tasks/%2e", b"/status/" + b"x/" * 500,
        b"/v1/tasks?" + b"&".join([b"a=1"] * 1000), b"/v1/tasks/%F0%9F%98%80",
    ]  # fmt: skip
    for target in targets:
        yield b"GET " + target + b" HTTP/1.1" + rest
    methods = [
        b"",
        b"get",
        b"PRI",
        b"CONNECT",
        b"TRACE",
        b"DEBUG",
        b"G\xcbT",
        b"G ET",
        b"X" * 5_000,
        b"\x00",
        b"M-SEARCH",
    ]
    for method in methods:
        yield method + b" /livez HTTP/1.1" + rest
    yield from (
        b"\r\n" * 50 + GET + CLOSE + b"\r\n",
        b"\n\n" + GET,
        b" " + GET,
        b"\x00" * 1000,
        b"\xff" * 70_000,
    )
    yield from (
        b"\r\n" * 40_000,
        b"GET",
        b"GET /livez",
        b"GET  /livez  HTTP/1.1" + rest,
        b"\x16\x03\x01\x02\x00\x01",
    )


def header_lines() -> Iterator[bytes]:
    lines = [
        b": x", b"X", b"X :y", b" X: y", b"X: y\x00z", b"X: \x01", b"X: \x1b[31m", b"X: \x7f",
        b"X: \x80\xff", b"X\x00: y", b"X\xff: y", b"X: a\rb", b"X: a\nb", b"X: a\r\n b", b"X: a\r\n\tb",
        b"\tX: y", b"X: " + b" " * 9_000, b"X: " + b"y" * 17_000, b"X: " + b"y" * 100_000,
        b"X" * 17_000 + b": y", b"Host: other", b"host: localhost", b"Connection: \xff",
        b"Connection: close, close, keep-alive", b"Connection: " + b"a," * 4_000, b"Cookie: \xff\xfe",
        b"Expect: 100-continue", b"Expect: nonsense", b"Accept: " + b"*/*," * 3_000, b"Authorization: \x02",
        b"X-Forwarded-For: \x0b", b"Range: bytes=0-0,1-1", b"If-None-Match: \"",
        b"Prefer: wait=99999999999999999999", b"Content-Encoding: gzip", b"Trailer: Host",
        b"TE: trailers, deflate;q=0.5", b"Keep-Alive: timeout=1000000",
    ]  # fmt: skip
    for line in lines:
        yield GET + line + b"\r\n" + CLOSE + b"\r\n"
    for count in (99, 100, 101, 1_000, 5_000):
        yield GET + b"".join(b"X%d: y\r\n" % n for n in range(count)) + b"\r\n"
    yield from (
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n",
        GET.replace(b"\r\n", b"\n") + b"\n",
    )
    yield from (
        GET.replace(b"localhost", host) + CLOSE + b"\r\n"
        for host in (b"\xff", b"a,b", b"[::1", b"]", b"@", b"evil.example")
    )
    yield from (
        GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n",
        GET.replace(b"1.1", b"1.0") + b"\r\n",
    )


def lengths() -> Iterator[bytes]:
    values = [
        b"-1", b"+5", b"0x5", b"5.0", b"5 5", b"5,5", b"5,6", b"", b" ", b"\xb2", b"1e3", b"9" * 19,
        b"9" * 50, b"18446744073709551616", b"2147483648", b"00000005", b"5;", b"\x00",
    ]  # fmt: skip
    for value in values:
        yield POST + b"Content-Length: " + value + b"\r\n\r\n" + BODY
    for first, second in product((b"5", b"27"), (b"27", b"0")):
        yield POST + b"Content-Length: " + first + b"\r\nContent-Length: " + second + b"\r\n\r\n" + BODY
    codings = [
        b"chunked", b"Chunked", b"xchunked", b"chunked, chunked", b"gzip, chunked", b"chunked, identity",
        b"identity", b"\x0bchunked", b"chunked\x00", b"", b"chunked;q=1", b"\"chunked\"", b"chun ked",
    ]  # fmt: skip
    for coding in codings:
        head = POST + b"Transfer-Encoding: " + coding + b"\r\n"
        yield head + b"\r\n1b\r\n" + BODY + b"\r\n0\r\n\r\n"
        yield head + b"Content-Length: 6\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    yield POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield POST + b"Content-Length: 100\r\n\r\n" + BODY
    yield GET + b"Content-Length: 5\r\n\r\nhello"
    yield POST + b"Content-Length: 27\r\nExpect: 100-continue\r\n\r\n"


def chunks() -> Iterator[bytes]:
    pieces = [
        b"zz\r\n", b"-1\r\nx\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b" 1\r\nx\r\n", b"1 \r\nx\r\n",
        b"1\nx\n", b"1\r\nxy\r\n", b"1\r\nx", b"\r\n", b"ffffffffffffffff\r\nx", b"f" * 21 + b"\r\n",
        b"7fffffffffffffff\r\nx", b"1;" + b"e" * 20_000 + b"\r\nx\r\n", b"1;a=b;c=\"d\r\nx\r\n",
        b"1\r\nx\r\n" * 5_000, b"0\r\n", b"0\r\nX: y\r\n", b"0\r\n" + b"X: y\r\n" * 3_000 + b"\r\n",
        b"0\r\nX\x00: y\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n",
        b"00000000000000000000000000001\r\nx\r\n", b"1\r\n\xff\r\n0\r\n\r\n", b"1\rx\r0\r\r",
        b"0\r\n\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n" + GET, b"3;\x00\r\nabc\r\n",
        b"1\r\nx\r\n\r\n0\r\n\r\n",
    ]  # fmt: skip
    yield from (CHUNKED + piece for piece in pieces)
    yield from (
        CHUNKED.replace(b"/v1/tasks", path) + b"4\r\nnope\r\n"
        for path in (b"/livez", b"/nope", b"/v1/tasks/batch")
    )


def uploads() -> Iterator[bytes]:
    """Streams of lines, in which silence is borne for longer."""
    ndjson = CHUNKED.replace(b"/v1/tasks", b"/v1/tasks/batch").replace(
        b"application/json", b"application/x-ndjson"
    )
    yield from (
        ndjson + piece
        for piece in (b"1\r\n\n\r\n" * 500, b'5\r\n{"a":\r\n', b"3\r\n\xff\xfe\n\r\n0\r\n\r\n", b"zz\r\n")
    )


def bodies() -> Iterator[bytes]:
    texts = [
        b"", b"{", b"[" * 200_000, b'{"a":' * 50_000, b"nul", b"NaN", b'{"type":"t","payload":NaN}',
        b"\xff\xfe", b"\x00", b'{"type":"t","payload":1e999}', b'{"type":"t","payload":"\\ud800"}',
        b'{"type":"t","type":"u"}', b"\xef\xbb\xbf{}", b'{"type":"t","payload":' + b"9" * 5_000 + b"}",
        b'{"type":"t","payload":"\\u0000"}', b'"' * 1_000, b"{}" * 1_000,
        b'{"type":"' + b"x" * 100_000 + b'"}', b'{"type":"t",' + b'"k":1,' * 10_000 + b'"l":1}',
    ]  # fmt: skip
    for path in (b"/v1/tasks", b"/submit", b"/v1/tasks/batch"):
        for text in texts:
            head = POST.replace(b"/v1/tasks", path) + CLOSE + b"Content-Length: %d\r\n\r\n" % len(text)
            yield head + text


def pipelines() -> Iterator[bytes]:
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    yield from ((GET + b"\r\n") * count for count in (2, 100, 1_500))
    yield from (
        whole * 50,
        whole + b"\x00" * 100,
        GET + b"\r\n" + b"\xff" * 1_000,
        GET + CLOSE + b"\r\n" + whole,
    )
    yield from (
        GET + b"\r\n" + PREFACE,
        GET + b"\r\n" + HANDSHAKE + b"\r\n",
        whole + CHUNKED + b"zz\r\n",
        GET + b"\r\n" + GET,
    )
    yield from (
        GET.replace(b"GET", b"HEAD") + b"\r\n" + whole,
        GET.replace(b"GET", b"OPTIONS") + b"\r\n" + GET + b"\r\n",
    )


def upgrades() -> Iterator[bytes]:
    swaps = [
        (b"websocket", b"WebSocket"), (b"websocket", b"websocket, h2c"), (b"websocket", b"\xff"),
        (b"13", b"8"), (b"13", b"-1"), (b"13", b"13, 13"), (b"13", b""), (b"dGhlIHNhbXBsZSBub25jZQ==", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff"), (b"dGhlIHNhbXBsZSBub25jZQ==", b"x" * 10_000),
        (b"Upgrade\r\nSec", b"keep-alive, Upgrade\r\nSec"), (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Connection: Upgrade", b"Connection: Upgrade, \xff"), (b"GET", b"POST"),
        (b"Upgrade: websocket\r\n", b""), (b"/ws", b"?"), (b"/ws", b"*"), (b"/ws", b"http://["),
        (b"/ws", b"/%ff"), (b"/ws", b"/v1/tasks"), (b"localhost", b"evil.example"),
    ]  # fmt: skip
    yield from (HANDSHAKE.replace(*swap) + b"\r\n" for swap in swaps)
    extras = [
        b"Sec-WebSocket-Protocol: \xff", b"Sec-WebSocket-Protocol: ,,,",
        b"Sec-WebSocket-Extensions: permessage-deflate",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",
        b"Sec-WebSocket-Extensions: \xff", b"Sec-WebSocket-Extensions: " + b"x;" * 5_000,
        b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Origin: null", b"Sec-WebSocket-Key: again",
        b"Upgrade: h2c", b"Connection: HTTP2-Settings", b"Origin: http://evil.example",
    ]  # fmt: skip
    yield from (HANDSHAKE + extra + b"\r\n\r\n" + frame(1, b"early") for extra in extras)
    for settings in (b"AAMAAABkAAQAAP__", b"!!!", b"", b"\xff", b"A" * 10_000):
        upgrade = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
            + settings
            + b"\r\n\r\n"
        )
        yield GET + upgrade
        yield GET + upgrade + PREFACE + h2_frame(4, 0, 0, b"")


def h2() -> Iterator[bytes]:
    headers = b"\x82\x84\x86\x41\x09localhost"
    frames = [
        h2_frame(4, 0, 0, b""), h2_frame(4, 0, 0, b"\x00"), h2_frame(4, 1, 0, b"\x00" * 6),
        h2_frame(4, 0, 1, b""), h2_frame(1, 5, 1, headers), h2_frame(1, 5, 0, headers),
        h2_frame(1, 5, 2, headers), h2_frame(1, 4, 1, b"\xff" * 50), h2_frame(1, 0, 1, headers),
        h2_frame(9, 4, 1, headers), h2_frame(0, 1, 1, b"x"), h2_frame(0, 8, 1, b"\xff"),
        h2_frame(3, 0, 1, b"\0\0\0\0"), h2_frame(3, 0, 0, b""), h2_frame(6, 0, 0, b"x" * 8),
        h2_frame(6, 0, 0, b"x"), h2_frame(7, 0, 0, b"\0" * 8), h2_frame(8, 0, 0, b"\0\0\0\0"),
        h2_frame(8, 0, 0, b"\x7f\xff\xff\xff"), h2_frame(2, 0, 1, b"\0" * 5), h2_frame(5, 4, 1, headers),
        h2_frame(255, 255, 1, b"x" * 100), b"\xff" * 9, b"\xff" * 100,
        h2_frame(4, 0, 0, b"") + h2_frame(1, 5, 1, headers) * 100, h2_frame(6, 0, 0, b"x" * 8) * 1_000,
        h2_frame(3, 0, 1, b"\0" * 4) * 1_000,
    ]  # fmt: skip
    yield from (PREFACE[:cut] for cut in range(1, len(PREFACE) + 1))
    yield from (PREFACE + each for each in frames)


def ws_frames() -> Iterator[bytes]:
    """What is sent after a handshake that was answered."""
    for opcode in range(16):
        yield frame(opcode, b"hello")
        yield frame(opcode, b"hello", masked=False)
        yield frame(opcode, b"hello", first=0)
        yield frame(opcode, b"hello", first=0xC0)
    yield from (
        frame(1, b"\xff\xfe"),
        frame(1, b"\xed\xa0\x80"),
        frame(8, b"\x00"),
        frame(8, b"\x03\xe7"),
        frame(8, b"\x03\xe8\xff"),
    )
    yield from (
        frame(9, b"x" * 126),
        frame(9, b"", first=0),
        frame(8, b"x" * 126),
        frame(9, b"x") * 5_000,
        frame(10, b"x") * 1_000,
    )
    yield from (
        frame(1, b"x" * 65_536),
        frame(1, b"x" * 65_537),
        frame(2, b"x" * 1_000_000),
        frame(1, b"") * 20_000,
    )
    yield frame(1, b"a", first=0) + frame(1, b"b")
    yield frame(1, b"a", first=0) + frame(0, b"x" * 1_000, first=0) * 500
    yield frame(0, b"a", first=0) + frame(0, b"b")
    yield frame(8, b"\x03\xe8") + frame(1, b"late") + frame(8, b"\x03\xe8")
    yield from (
        b"\x81\xff" + b"\xff" * 8,
        b"\x81\xff" + b"\0" * 7 + b"\x01",
        b"\x81\xfe\0\x01" + b"\0" * 5,
        b"\x81",
        b"\xff" * 5_000,
        b"\0" * 5_000,
    )


FAMILIES: Final = (request_lines, header_lines, lengths, chunks, uploads, bodies, pipelines, upgrades, h2)


def corpus() -> list[tuple[str, bytes]]:
    """Each of what a client may send first, with a name."""
    found = [
        (f"{family.__name__}-{number}", sent) for family in FAMILIES for number, sent in enumerate(family())
    ]
    found += [(f"ws_early-{number}", HANDSHAKE + b"\r\n" + sent) for number, sent in enumerate(ws_frames())]
    return found


def splits() -> list[tuple[str, bytes, bytes]]:
    """Requests in two parts, cut at every byte."""
    wholes = {
        "get": GET + CLOSE + b"\r\n",
        "chunked": CHUNKED + b"1b;x=y\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n",
        "handshake": HANDSHAKE + b"\r\n" + frame(1, b"hi"),
        "smuggle": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    }
    return [
        (f"split-{name}-{cut}", whole[:cut], whole[cut:])
        for name, whole in wholes.items()
        for cut in range(1, len(whole))
    ]


def mutations(seed: int, count: int) -> list[tuple[str, bytes]]:
    """*count* entries of the corpus, each damaged in one to four ways; the same for the same seed."""
    rng = random.Random(seed)
    whole = [each for each in corpus() if len(each[1]) < 20_000]
    found = []
    for number in range(count):
        name, sent = rng.choice(whole)
        damaged = bytearray(sent)
        for _ in range(rng.randint(1, 4)):
            _damage(rng, damaged, rng.choice(whole)[1])
        found.append((f"mutation-{seed}-{number}-of-{name}", bytes(damaged)))
    return found


def _damage(rng: random.Random, text: bytearray, other: bytes) -> None:
    at = rng.randrange(len(text) + 1)
    to = min(len(text), at + rng.randint(1, 40))
    match rng.randrange(6):
        case 0:
            text[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        case 1:
            del text[at:to]
        case 2:
            text[at:to] = text[at:to] * rng.randint(2, 20)
        case 3:
            text[at:] = other[rng.randrange(len(other) + 1) :]
        case 4:
            text[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b"\r\n\r\n", b" ", b":", b"\xff"])
        case _:
            if at < len(text):
                text[at] ^= 1 << rng.randrange(8)
