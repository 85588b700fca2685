"""One HTTP request head, read as its bytes arrive. Pure.

The library's `Request.parse` judges every line (RFC 9112 sections 2 to 5); this module
gives it the lines. Invariants, checked by tests/unit/wire/test_request.py:

1. The result does not depend on how the bytes were split into reads.
2. Without a body, and within the library's own limits, the result is the library's.
3. At most `MAX_HEAD` bytes are kept, plus what the last read brought beyond them.

Three things differ from the library. Lines may have `MAX_LINE` bytes instead of 8 KiB,
because cookies of a shared domain are long. A request that announces a body is read and
marked, because health checkers send bodies; the library refuses it without an answer.
Each failure has an HTTP status.
"""

import re
from collections.abc import Generator
from typing import Final

from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.http11 import Request

__all__ = ["MAX_HEAD", "MAX_LINE", "RequestReader"]

MAX_LINE: Final = 16_384
MAX_HEAD: Final = 65_536
"""Both from spec section 1; the second one counts the whole head, in bytes."""
MOST_NAME: Final = 64
"""Of a header's name in the log."""
_NAME: Final = re.compile(rb"[A-Za-z0-9-]+")
_BODY: Final = (b"content-length", b"transfer-encoding")

_Line = Generator[None, None, bytes]


class RequestReader:
    """Reads one request head.

    After `feed` either `request` or `status` is set, or more bytes are needed.
    """

    __slots__ = ("_buffer", "_line_start", "_parser", "has_body", "request", "status")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line_start = 0
        self._parser: Generator[None, None, Request] | None = Request.parse(
            self._read_line
        )
        self.request: Request | None = None
        self.status = 0
        """The HTTP status of a request that cannot be read; 0 otherwise."""
        self.has_body = False
        """True when the head announces a body, chunked or not."""

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self._buffer)

    @property
    def rest(self) -> bytes:
        """Bytes received behind the head."""
        return bytes(self._buffer[self._line_start :])

    @property
    def field(self) -> str | None:
        """The header that was being read, for the log; None where none has a name."""
        line = self._buffer[self._line_start : self._line_start + MOST_NAME]
        name, colon, _ = line.partition(b":")
        named = colon and self._line_start and _NAME.fullmatch(name)
        return name.decode("ascii") if named else None

    def feed(self, data: bytes) -> None:
        """Take bytes; those behind the head are kept in `rest`."""
        self._buffer += data
        if self._parser is None:
            return
        try:
            next(self._parser)
        except StopIteration as done:
            self.request = done.value
        except RequestLineTooLong:
            self.status = 414
        except (HeaderLineTooLong, TooManyHeaders):
            self.status = 431
        except (EOFError, ValueError):  # UnicodeDecodeError is a ValueError
            self.status = 400
        else:
            return
        self._parser = None

    def close(self) -> None:
        """Free everything: the parser and this object refer to each other."""
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        self._buffer.clear()
        self.request = None

    def _read_line(self, _limit: int, too_long: type[Exception]) -> _Line:
        """Give the library the next line; headers about a body are kept from it."""
        while True:
            line = yield from self._next_line(too_long)
            name, colon, value = line.partition(b":")
            if not (colon and name.lower() in _BODY):
                return line
            if value.strip(b" \t\r\n") != b"0":
                self.has_body = True

    def _next_line(self, too_long: type[Exception]) -> _Line:
        buffer, start = self._buffer, self._line_start
        searched = start
        while (end := buffer.find(b"\n", searched) + 1) == 0:
            searched = len(buffer)
            _check_limits(start, searched, too_long)
            yield
        _check_limits(start, end, too_long)
        self._line_start = end
        return bytes(buffer[start:end])


def _check_limits(start: int, end: int, too_long: type[Exception]) -> None:
    if end - start > MAX_LINE:
        raise too_long()
    if end > MAX_HEAD:
        raise TooManyHeaders
