"""From frames to whole messages: fragments joined, UTF-8 checked, sizes bounded. Pure.

The library checks the order of fragments (RFC 6455 section 5.4) and bounds a message's
size. This module joins the fragments, checks the UTF-8 of text, and bounds the number
of fragments. A message of which a fragment was refused is not kept.
"""

from typing import Final

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from ..protocol.errors import ClientError, CloseCode, Disconnect

__all__ = ["Assembler"]

FRAGMENTS: Final = 8_192
"""1 MB in frames of 128 bytes; a message in more pieces is an attack."""


class Assembler:
    """The message that is arriving on one connection."""

    __slots__ = ("_joined", "_pieces", "_refusal", "_text")

    def __init__(self) -> None:
        self._joined: bytearray | None = None
        self._pieces = 0
        self._refusal: ClientError | None = None
        self._text = False

    @property
    def size(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._joined or b"")

    def drop(self) -> None:
        """Free the unfinished message."""
        self._joined = self._refusal = None

    def refuse(self, error: ClientError) -> None:
        """Keep nothing of the message that is arriving, and remember why."""
        self._refusal = error
        if self._joined is not None:
            self._joined.clear()

    def take_refusal(self) -> ClientError | None:
        """Return why the message that has just ended was refused, if it was."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def add(self, frame: WireFrame, max_size: int) -> tuple[bytes, bool] | None:
        """Take a data frame; return a whole message and whether it is text.

        Raises `Disconnect` for one over `max_size` bytes, in too many pieces, or text
        that is no UTF-8 (1007).
        """
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                data = bytes(frame.data)
                return self.whole(data, max_size, text=self._text), self._text
            self._joined = bytearray(frame.data if self._refusal is None else b"")
            self._pieces = 1
            return None
        if self._joined is None:
            return None
        if self._refusal is None:
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
