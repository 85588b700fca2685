"""Frames as bytes (RFC 6455 section 5.2).

Out: a frame is made once, and the same bytes go to every device; so do several frames
that leave together. In: nearly all that clients send is one short text frame per
read, which is taken apart here, for a fifth or less of what a parser takes that may
have to wait for more. Whatever is not exactly that is the library's.
"""

import struct
from collections.abc import Sequence
from typing import Final

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Close, Opcode
from websockets.frames import Frame as WireFrame

try:  # as the library does: in C where the platform has it
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = [
    "DEFLATE",
    "PING",
    "Frame",
    "Frames",
    "close_frame",
    "inflates",
    "is_pong",
    "no_pong",
    "no_text",
    "whole_text",
]

PING: Final = WireFrame(Opcode.PING, b"").serialize(mask=False)

_TEXT: Final = 0x80 | Opcode.TEXT
_HEAD: Final = struct.Struct("!BB")
_HEAD_16: Final = struct.Struct("!BBH")
_HEAD_64: Final = struct.Struct("!BBQ")
_MASKED: Final = 0x80
_PONG: Final = bytes((0x80 | Opcode.PONG, _MASKED))
_PONG_SIZE: Final = 6
_SIZE_16: Final = 126
_LEAST_16: Final = bytes((0, _SIZE_16))

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


class Frames(Frame):
    """Several frames that leave in one write."""

    __slots__ = ("_frames",)

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._deflated = None
        self.plain = b"".join([frame.plain for frame in frames])

    @property
    def deflated(self) -> bytes:
        """The same for those who negotiated permessage-deflate."""
        if self._deflated is None:
            self._deflated = b"".join([frame.deflated for frame in self._frames])
        return self._deflated


def inflates(extensions: Sequence[Extension]) -> bool:
    """Return whether a client can inflate `Frame.deflated`.

    A client with a smaller window gets uncompressed frames, which permessage-deflate
    allows (RFC 7692 section 6): a frame for each window would cost more than it saves.
    """
    return any(
        isinstance(extension, PerMessageDeflate)
        and extension.local_max_window_bits >= WINDOW_BITS
        for extension in extensions
    )


def close_frame(code: int, reason: str) -> bytes:
    """Return a Close frame (RFC 6455 section 5.5.1); `reason` is a word of ours."""
    return WireFrame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(
        mask=False
    )


def is_pong(data: bytes) -> bool:
    """Whether `data` is a client's whole answer to `PING`, and no more."""
    return len(data) == _PONG_SIZE and data.startswith(_PONG)


def whole_text(data: bytes) -> bytes | None:
    """The payload of `data` if it is one whole text frame of a client, and no more.

    None for anything else, be it well-formed or not: fragments, control frames, two
    frames, half a frame, 64 KiB or more, an extension's bits, no mask. The payload is
    not checked for UTF-8.
    """
    if len(data) < 6 or data[0] != _TEXT:
        return None
    size, start = data[1] - _MASKED, 2
    if size >= _SIZE_16:
        if size > _SIZE_16 or data[2:4] < _LEAST_16:
            return None
        size, start = int.from_bytes(data[2:4]), 4
    if size != len(data) - start - 4:
        return None
    return apply_mask(data[start + 4 :], data[start : start + 4])


def no_text(data: bytes) -> bytes | None:
    """In place of `whole_text` when the fast path `frames` is off."""
    return None


def no_pong(data: bytes) -> bool:
    """In place of `is_pong` when the fast path `frames` is off."""
    return False
