"""Random streams of a client's bytes, valid and not, and random cuts of them."""

import os
import random
from collections.abc import Iterator

from websockets.utils import apply_mask

__all__ = ["cut", "frames", "request", "streams"]

BODIES = (b"", b"x", b'{"type":"ping"}', b"\xc3\xa9", b"\xff", b"\xc3", b"y" * 130)
CLOSES = (b"", b"\x03", b"\x03\xe8", b"\x03\xe9bye", b"\x00\x01", b"\x03\xe8\xff")


def streams(default: int) -> int:
    """How many streams a test tries; `TYPELETS_WS_STREAMS` asks for more."""
    return int(os.environ.get("TYPELETS_WS_STREAMS", default))


def cut(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The bytes in pieces: one by one, whole, or cut at random places."""
    match rng.randrange(4):
        case 0:
            yield from (data[i : i + 1] for i in range(len(data)))
            return
        case 1:
            places = []
        case _:
            places = sorted(rng.choices(range(len(data) + 1), k=rng.randrange(1, 6)))
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        if start < end:
            yield data[start:end]


def _frame(rng: random.Random, opcode: int, body: bytes, *, fin: bool = True) -> bytes:
    first = opcode | (0x80 if fin else 0)
    if rng.random() < 0.01:
        first ^= 1 << rng.randrange(8)
    size, masked = len(body), 0x80 if rng.random() > 0.01 else 0
    kind = rng.random()
    if size < 126 and kind < 0.95:
        head = bytes((first, masked | size))
    elif size < 65_536 and kind < 0.98:
        head = bytes((first, masked | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8)
    if not masked:
        return head + body
    # A mask of zeros shows the payload as it is, also one that looks like a frame.
    mask = rng.choice((b"\0\0\0\0", rng.randbytes(4)))
    return head + mask + apply_mask(body, mask)


def _fragments(rng: random.Random, body: bytes) -> Iterator[bytes]:
    """A message in several frames, control frames between them; it may lack its end."""
    yield _frame(rng, rng.choice((1, 2)), body, fin=False)
    for _ in range(rng.randrange(3)):
        if rng.random() < 0.4:
            yield _frame(rng, rng.choice((9, 10)), body[:20])
        yield _frame(rng, 0, body, fin=False)
    if rng.random() < 0.9:
        yield _frame(rng, 0, body)


def frames(rng: random.Random) -> bytes:
    """Some frames, most of them valid; the last may be cut short."""
    stream = b""
    for _ in range(rng.randrange(1, 8)):
        body = stream[:300] if rng.random() < 0.1 else rng.choice(BODIES)
        match rng.choices(range(7), (35, 5, 20, 15, 10, 8, 7))[0]:
            case 0:
                stream += _frame(rng, 1, body)
            case 1:
                stream += _frame(rng, 2, body)
            case 2:
                stream += b"".join(_fragments(rng, body))
            case 3:
                stream += _frame(rng, 9, body)
            case 4:
                stream += _frame(rng, 10, rng.choice((b"", b"", body)))
            case 5:
                stream += _frame(rng, 8, rng.choice(CLOSES))
            case _:
                stream += rng.choice((_frame(rng, 11, body), rng.randbytes(9)))
    return stream[: rng.randrange(len(stream))] if rng.random() < 0.2 else stream


UPGRADE = (
    b"GET / HTTP/1.1", b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
LINES = (
    b"User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)",
    b"Origin: https://app.example", b"Cookie: a=b", b"X-Forwarded-For: 1.2.3.4",
    b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Sec-WebSocket-Protocol: chat", b"no colon", b"Bad Name: x", b" folded", b"A:\xe9",
    b"Upgrade: h2c", b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Key: short",
    b"B: \x01", b"Content-Length: 0", b"C: " + b"c" * 200,
)  # fmt: skip
REQUEST_LINES = (
    b"HEAD / HTTP/1.1", b"POST / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/2.0",
    b"nonsense", b"", b"GET  / HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /a HTTP/1.1",
)  # fmt: skip


def request(rng: random.Random) -> bytes:
    """A request head, most of them an upgrade; something may be missing or behind."""
    lines = list(UPGRADE)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(LINES))
    if rng.random() < 0.2:
        lines[0] = rng.choice(REQUEST_LINES)
    if rng.random() < 0.15:
        del lines[rng.randrange(len(lines))]
    end = rng.choice((b"\r\n",) * 20 + (b"\n",))
    data = end.join(lines) + end + b"\r\n"
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
    elif rng.random() < 0.3:
        data += rng.choice((frames(rng), b"GET / HTTP/1.1\r\n\r\n", b"x"))
    return data
