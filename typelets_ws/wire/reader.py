"""Frames of one client, given to the library's protocol one at a time. Pure.

The library's `Protocol` judges every byte (RFC 6455, RFC 7692); this module only finds
where a frame ends, so that its caller decides between two frames whether to go on.
Invariants, checked by tests/unit/wire/test_reader.py against the library alone, fed
byte by byte:

1. A frame is fed when all before it were handled: pongs and replies keep their order.
2. The frames found do not depend on how the bytes were split into reads.
3. While a frame is incomplete, its bytes are in the library's buffer, and nowhere else.

One thing differs from the library: a Close inside a fragmented message is answered with
a Close (RFC 6455 section 5.5.1), not with 1002.
"""

from typing import Final

from websockets.extensions import Extension
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN, SEND_EOF, Protocol, Side

from ..protocol.errors import CloseCode, Disconnect
from .assembler import Assembler

__all__ = ["FrameReader"]

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_MASK_SIZE: Final = 4
_FAILURES: Final = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.INVALID_DATA: "invalid_utf8",
    CloseCode.MESSAGE_TOO_BIG: "message_too_big",
    CloseCode.INTERNAL_ERROR: "parser_failed",
}
"""One word for each close code with which the library fails a connection."""


class FrameReader:
    """Finds frames, and has the library read them."""

    __slots__ = (
        "_head",
        "_left",
        "_plain",
        "_protocol",
        "_size",
        "assembler",
        "complete",
        "final",
        "opcode",
        "whole",
    )

    def __init__(self, extensions: list[Extension]) -> None:
        self._protocol = Protocol(Side.SERVER, state=OPEN)
        self._protocol.extensions = extensions
        self._plain = not extensions
        self.assembler = Assembler()
        self._head = b""
        self._left = self._size = 0
        self.opcode = 0
        """Opcode of the frame that `advance` is at, valid or not."""
        self.final = False
        """Its FIN bit."""
        self.complete = True
        """Whether all of it has arrived."""
        self.whole = False
        """Whether all of it was in the last piece."""

    @property
    def between_messages(self) -> bool:
        """True when neither a frame nor a fragmented message is unfinished."""
        return self.complete and self._protocol.current_size is None

    @property
    def needless(self) -> bool:
        """True while a whole frame may be handled without the library."""
        return self._plain and self.complete and self._protocol.current_size is None

    @property
    def held(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._protocol.reader.buffer) + self.assembler.size

    @property
    def failure(self) -> Disconnect | None:
        """Why the library failed the connection, once it has; its Close is queued."""
        sent = self._protocol.close_sent
        if sent is None or self._protocol.close_rcvd_then_sent:
            return None
        return Disconnect(CloseCode(sent.code), _FAILURES[CloseCode(sent.code)])

    def advance(self, data: bytes, at: int) -> int:
        """Return where the frame that starts or goes on at `at` ends in `data`."""
        start = at
        begins = self.complete
        if begins:
            self._head, self._left, self.complete = b"", -1, False
        if self._left < 0:
            at = self._read_head(data, at)
        if self._left >= 0:
            taken = min(self._left, len(data) - at)
            self._left -= taken
            at += taken
            self.complete = not self._left
        self.whole = begins and self.complete and at > start
        return at

    def _read_head(self, data: bytes, at: int) -> int:
        """Take the head's bytes; `_left` is -1 until all of them are there."""
        while True:
            size = _head_size(self._head)
            missing = size - len(self._head)
            if not missing:
                break
            part = data[at : at + missing]
            self._head += part
            at += len(part)
            if len(part) < missing:
                return at
        first, second = self._head[0], self._head[1]
        self.opcode, self.final = first & _OPCODE, bool(first & _FIN)
        length = second & ~_MASKED
        if size > 2:
            length = int.from_bytes(self._head[2:])
        self._size = length
        self._left = length + (_MASK_SIZE if second & _MASKED else 0)
        return at

    def feed(self, piece: bytes, max_size: int) -> WireFrame | None:
        """Have the library read up to where `advance` got; return a complete frame.

        A message may have `max_size` bytes, inflated. `failure` is set when the library
        has failed the connection.
        """
        protocol = self._protocol
        size = protocol.current_size
        if size is not None:
            # A Close that exceeds what is left was refused when its head was read.
            left = max_size - size
            closing = self.complete and self.opcode == Opcode.CLOSE
            if closing and self._size <= left:
                protocol.current_size = None
        protocol.max_message_size = max_size
        protocol.receive_data(piece)
        # An exception that is kept keeps, by its traceback, all that was read.
        protocol.parser_exc = None
        events = protocol.events_received()
        return events[0] if events else None  # type: ignore[return-value]

    def to_send(self) -> list[bytes]:
        """Return what the library answers: pongs and its Close frame."""
        return [data for data in self._protocol.data_to_send() if data != SEND_EOF]

    def close(self) -> None:
        """Free everything: the library's parser is a generator over its protocol."""
        protocol = self._protocol
        protocol.parser.close()
        protocol.parser_exc = None
        protocol.reader.buffer.clear()
        protocol.events.clear()
        self.assembler.drop()


def _head_size(head: bytes) -> int:
    """Return the size of a frame's head without the mask, as far as is known."""
    if len(head) < 2:
        return 2
    match head[1] & ~_MASKED:
        case 126:
            return 4
        case 127:
            return 10
    return 2
