"""A request head: read like the library does, but for bodies and longer lines."""

import pytest

from tests.collector import uncollected
from typelets_ws.wire.request import MAX_HEAD, MAX_LINE, RequestReader

HEAD = b"GET /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\nA: 2\r\n\r\n"


def read(*pieces: bytes) -> RequestReader:
    reader = RequestReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def test_a_request_is_read_and_what_is_behind_it_is_kept() -> None:
    reader = read(HEAD + b"behind")
    assert reader.request is not None
    assert (reader.request.method, reader.request.path) == ("GET", "/a?b")
    assert reader.request.headers.get_all("A") == ["1", "2"]
    assert (reader.rest, reader.status, reader.has_body) == (b"behind", 0, False)
    reader.feed(b" more")
    assert reader.rest == b"behind more"


def test_one_byte_at_a_time_is_the_same() -> None:
    reader = read(*(HEAD[i : i + 1] for i in range(len(HEAD))))
    assert reader.request is not None
    assert reader.rest == b""


@pytest.mark.parametrize(
    ("line", "has_body"),
    [
        (b"Content-Length: 0", False),
        (b"content-length: 5", True),
        (b"Content-Length: nonsense", True),
        (b"TRANSFER-ENCODING: chunked", True),
    ],
)
def test_a_body_is_announced(line: bytes, has_body: bool) -> None:
    reader = read(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")
    assert reader.request is not None
    assert reader.has_body is has_body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET /\xff HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n", 400),
        (b"GET /" + b"p" * MAX_LINE, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_LINE, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 129, 431),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"a" * 8_000 + b"\r\n") * 9, 431),
    ],
)
def test_what_cannot_be_read_has_a_status_as_soon_as_it_is_known(
    data: bytes, status: int
) -> None:
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        reader = read(*pieces)
        assert (reader.status, reader.request) == (status, None)
        reader.feed(b"more")
        assert reader.status == status


def test_lines_and_heads_up_to_the_limits_are_read() -> None:
    line = b"A: " + b"a" * (MAX_LINE - 5) + b"\r\n"
    first = b"GET / HTTP/1.1\r\n"
    short = b"B: " + b"b" * (MAX_HEAD - 3 * MAX_LINE - len(first) - 7) + b"\r\n"
    head = first + line * 3 + short + b"\r\n"
    assert len(head) == MAX_HEAD
    assert read(head).request is not None
    assert read(head[:-2] + b"C: c\r\n\r\n").status == 431


@pytest.mark.parametrize("data", [HEAD, HEAD[:20], b"nonsense\r\n"])
def test_a_closed_reader_leaves_nothing_to_the_collector(data: bytes) -> None:
    with uncollected():
        for _ in range(10):
            reader = read(data)
            reader.close()
            assert reader.size == 0
        del reader
