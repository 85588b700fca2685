"""Frames are made once: the same bytes go to every device (RFC 6455 section 5.2)."""

import struct
from typing import Final

from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

__all__ = ["DEFLATE", "PING", "Frame"]

PING: Final = WireFrame(Opcode.PING, b"").serialize(mask=False)

_TEXT: Final = 0x80 | Opcode.TEXT
_HEAD: Final = struct.Struct("!BB")
_HEAD_16: Final = struct.Struct("!BBH")
_HEAD_64: Final = struct.Struct("!BBQ")

WINDOW_BITS: Final = 12
"""A 4 KB window: what `websockets` chooses, as a compromise with memory."""

DEFLATE: Final = ServerPerMessageDeflateFactory(
    # Without context takeover one compressed frame can serve every device.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
    require_client_max_window_bits=False,
)


def _head(size: int) -> bytes:
    """The head of an unmasked, unfragmented text frame (RFC 6455 section 5.2)."""
    if size < 126:
        return _HEAD.pack(_TEXT, size)
    if size < 65_536:
        return _HEAD_16.pack(_TEXT, 126, size)
    return _HEAD_64.pack(_TEXT, 127, size)


class Frame:
    """One text message, ready to be written to any number of sockets."""

    __slots__ = ("_deflated", "_text", "plain")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._deflated: bytes | None = None
        self.plain = _head(len(text)) + text

    @property
    def deflated(self) -> bytes:
        """The frame for those who negotiated permessage-deflate (RFC 7692)."""
        if self._deflated is None:
            once = PerMessageDeflate(
                remote_no_context_takeover=True,
                local_no_context_takeover=True,
                remote_max_window_bits=WINDOW_BITS,
                local_max_window_bits=WINDOW_BITS,
            )
            self._deflated = WireFrame(Opcode.TEXT, self._text).serialize(
                mask=False, extensions=[once]
            )
        return self._deflated
