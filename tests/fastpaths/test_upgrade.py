"""The fast handshake answers as the library does, with the same 101."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from typelets_ws.wire.upgrade import SUBPROTOCOL, Upgrade, read_upgrade

KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
PLAIN = {
    "Host": "ws.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(
    headers: dict[str, str] | None = None, *more: str, line: str = "GET / HTTP/1.1"
) -> bytes:
    lines = [f"{name}: {value}" for name, value in (headers or PLAIN).items()]
    return "\r\n".join([line, *lines, *more, "", ""]).encode("latin-1")


def selected(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def by_the_library(data: bytes) -> tuple[Request, bytes]:
    protocol = ServerProtocol(select_subprotocol=selected)
    protocol.receive_data(data)
    (found,) = protocol.events_received()
    assert isinstance(found, Request)
    assert not protocol.reader.buffer
    response = protocol.accept(found)
    del response.headers["Date"]
    return found, response.serialize()


def agreed(data: bytes) -> Upgrade:
    upgrade = read_upgrade(data)
    assert upgrade is not None
    found, response = by_the_library(data)
    assert upgrade.response == response
    assert upgrade.path == found.path
    assert upgrade.origin == found.headers.get("Origin")
    assert upgrade.forwarded_for == found.headers.get("X-Forwarded-For", "")
    assert upgrade.real_ip == found.headers.get("X-Real-IP", "")
    return upgrade


def test_a_browser_behind_a_proxy_is_taken() -> None:
    data = request(
        PLAIN,
        "Origin: https://app.example.com",
        "X-Forwarded-For: 203.0.113.7, 10.0.0.1 ",
        "X-Real-IP:203.0.113.7",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Cookie: a=b:c",
        line="GET /ws?x=1 HTTP/1.1",
    )
    upgrade = agreed(data)
    assert upgrade.origin == "https://app.example.com"
    assert upgrade.path == "/ws?x=1"


def test_the_subprotocol_alone_is_taken() -> None:
    agreed(request(PLAIN, "Sec-WebSocket-Protocol: typelets.v1"))


@pytest.mark.parametrize(
    "data",
    [
        request(line="POST / HTTP/1.1"),
        request(line="GET / HTTP/1.0"),
        request(line="GET /a b HTTP/1.1"),
        request(line="GET /"),
        request(PLAIN | {"Upgrade": "h2c"}),
        request(PLAIN | {"Connection": "close"}),
        request(PLAIN | {"Sec-WebSocket-Key": "AAAA"}),
        request(PLAIN | {"Sec-WebSocket-Key": KEY[:-3] + "B=="}),
        request(PLAIN | {"Sec-WebSocket-Version": "8"}),
        request({"Host": "x"}),
        request(PLAIN, "Sec-WebSocket-Protocol: chat"),
        request(PLAIN, "Sec-WebSocket-Protocol: typelets.v1, chat"),
        request(PLAIN, "Sec-WebSocket-Protocol: "),
        request(PLAIN, "Content-Length: 0"),
        request(PLAIN, "Transfer-Encoding: chunked"),
        request(PLAIN, "Origin: https://a", "Origin: https://b"),
        request(PLAIN, f"sec-websocket-key: {KEY}"),
        request(PLAIN, "no colon"),
        request(PLAIN, "Na me: x"),
        request(PLAIN, ": x"),
        request(PLAIN, "Folded: x", " y"),
        request(PLAIN, "Tab:\tx"),
        request(PLAIN, "Nul: \0"),
        request(PLAIN, "Bare: a\nOrigin: https://b"),
        request(PLAIN, "Latin: \xe9"),
        request(PLAIN, f"Long: {'x' * 8_192}"),
        request(PLAIN, *(f"A{n}: 1" for n in range(128))),
        request()[:-1],
        request() + b"x",
        request() + request(),
        b"",
    ],
)
def test_what_is_unusual_is_left_to_the_library(data: bytes) -> None:
    assert read_upgrade(data) is None


@given(st.data())
def test_nothing_is_taken_that_the_library_would_answer_otherwise(
    data: st.DataObject,
) -> None:
    text = bytearray(request(PLAIN, "Origin: https://a", "Keep-Alive: 5"))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b"\r\n", b"\n", b"\r", b" ", b":", b"\t", b"=", b"-", b",", b"a",
                 b"1", b"\0", b"\x7f", b"\xff", b"Z", b"websocket"]
            )
        )  # fmt: skip
    if read_upgrade(bytes(text)) is not None:
        agreed(bytes(text))
