"""From frames to whole messages: fragments joined, UTF-8 checked, sizes bounded. Pure.

`websockets` checks the order of fragments (RFC 6455 section 5.4) and bounds a
message's size; this adds what it leaves to us: the joining, the text's UTF-8, the
tighter bound before authentication, and a bound on the number of fragments.
"""

from typing import Final

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from ..protocol.errors import CloseCode, Disconnect

__all__ = ["Assembler"]

FRAGMENTS: Final = 8_192
"""1 MB in frames of 128 bytes; a message in more pieces is an attack."""


class Assembler:
    """The message that is arriving on one connection."""

    __slots__ = ("_joined", "_pieces", "_text")

    def __init__(self) -> None:
        self._joined: bytearray | None = None
        self._pieces = 0
        self._text = False

    @property
    def size(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._joined or b"")

    @property
    def idle(self) -> bool:
        """True between messages."""
        return self._joined is None

    def drop(self) -> None:
        """Forget the unfinished message."""
        self._joined = None

    def add(self, frame: WireFrame, max_size: int) -> tuple[bytes, bool] | None:
        """Take a data frame; return a whole message and whether it is text.

        Raises `Disconnect` for one over `max_bytes` bytes, in too many pieces, or text
        that is no UTF-8 (1007).
        """
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                data = bytes(frame.data)
                return self.whole(data, max_size, text=self._text), self._text
            self._joined = bytearray(frame.data)
            self._pieces = 1
            return None
        if self._joined is None:
            return None
        self._joined += frame.data
        self._pieces += 1
        if frame.fin:
            data, self._joined = bytes(self._joined), None
            return self.whole(data, max_size, text=self._text), self._text
        if self._pieces > FRAGMENTS:
            raise Disconnect(CloseCode.MESSAGE_TOO_BIG, "too_many_fragments")
        return None

    @staticmethod
    def whole(data: bytes, max_size: int, *, text: bool) -> bytes:
        """Return the data of a message if it may be one. Raises as `add` does."""
        if len(data) > max_size:
            raise Disconnect(CloseCode.MESSAGE_TOO_BIG, "message_too_big")
        if text and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                raise Disconnect(CloseCode.INVALID_DATA, "invalid_utf8") from None
        return data
