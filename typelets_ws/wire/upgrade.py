"""The commonest request: a whole upgrade in one read. Pure. Fast path `upgrade`:

- replaces: the library's handshake, for an upgrade without extensions;
- invariant: for a request that is accepted here, the library would send the same 101,
  but for its `Date` (RFC 6455 section 4.2.2). Anything unusual is left to the library;
- tested by tests/fastpaths/test_upgrade.py and tests/fuzz/test_segmentation.py.

Its gain and when to delete it: `fastpaths`.
"""

import re
from typing import Final, NamedTuple

from websockets.typing import Subprotocol
from websockets.utils import accept_key

__all__ = ["Upgrade", "read_no_upgrade", "read_upgrade"]

_LONGEST: Final = 8_192
"""Bytes in all: the library's limit for one line."""
_MOST_HEADERS: Final = 128
_UNUSUAL: Final = frozenset({"content-length", "transfer-encoding"})
SUBPROTOCOL: Final = Subprotocol("typelets.v1")
"""Accepted when a client offers it (RFC 6455 section 1.9); needed by no client."""
_FIRST: Final = re.compile(r"GET ([!-~]+) HTTP/1\.1")
_HEADER: Final = re.compile(r"^([A-Za-z0-9-]+):([ -~]*)\r$", re.MULTILINE)
_CONNECTION: Final = frozenset({"upgrade", "keep-alive, upgrade"})
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""16 bytes in base64."""
_RESPONSE: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n"
)


class Upgrade(NamedTuple):
    """The used fields of a request, and the response that opens the connection."""

    path: str
    origin: str | None
    forwarded_for: str
    real_ip: str
    response: bytes


def read_upgrade(data: bytes) -> Upgrade | None:
    """Read `data` as one whole upgrade without extensions; None for anything else.

    The caller judges the origin and the limits.
    """
    if not data.endswith(b"\r\n\r\n") or len(data) > _LONGEST or not data.isascii():
        return None
    first, _, lines = data[:-2].decode().partition("\r\n")
    asked = _FIRST.fullmatch(first)
    headers = _headers(lines)
    if asked is None or headers is None or not _asks_for_websocket(headers):
        return None
    offered = headers.get("sec-websocket-protocol")
    if offered not in {None, SUBPROTOCOL}:
        return None
    accepted = f"Sec-WebSocket-Protocol: {offered}\r\n" if offered else ""
    return Upgrade(
        asked[1],
        headers.get("origin"),
        headers.get("x-forwarded-for", ""),
        headers.get("x-real-ip", ""),
        (_RESPONSE % (accept_key(headers["sec-websocket-key"]), accepted)).encode(),
    )


def read_no_upgrade(data: bytes) -> Upgrade | None:
    """In place of `read_upgrade` when the fast path `upgrade` is off."""
    return None


def _headers(lines: str) -> dict[str, str] | None:
    found = _HEADER.findall(lines)
    # If the counts differ, a header line is malformed.
    if len(found) != lines.count("\n") or len(found) > _MOST_HEADERS:
        return None
    headers = {name.lower(): value.strip(" ") for name, value in found}
    if len(headers) < len(found) or not _UNUSUAL.isdisjoint(headers):
        return None
    return headers


def _asks_for_websocket(headers: dict[str, str]) -> bool:
    return (
        headers.get("connection", "").lower() in _CONNECTION
        and headers.get("upgrade", "").lower() == "websocket"
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(headers.get("sec-websocket-key", "")) is not None
    )
