"""Frames as bytes (RFC 6455 section 5.2). Pure.

Outgoing: a frame is made once, and the same bytes go to every device.

Incoming, fast path `frames`:
- replaces: the library's parser, for a whole text frame and a whole pong;
- invariant: a payload is returned only for bytes from which the library reads the same
  frame and nothing else. `Inbound` calls it between frames and messages only;
- tested by tests/unit/wire/test_frames.py and tests/fuzz/test_segmentation.py.

Its gain and when to delete it: `fastpaths`.
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
    "DEFLATE", "PING", "Frame", "Frames", "close_frame", "inflates", "is_pong",
    "no_pong", "no_text", "plain", "whole_text",
]  # fmt: skip

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
"""A window of 4 KB: the default of the websockets library."""

DEFLATE: Final = ServerPerMessageDeflateFactory(
    # Without context takeover one compressed frame can serve every device.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
    require_client_max_window_bits=False,
)


def plain(text: bytes) -> bytes:
    """Return one text message as an unmasked frame without compression."""
    size = len(text)
    if size < _SIZE_16:
        return _HEAD.pack(_TEXT, size) + text
    if size < 65_536:
        return _HEAD_16.pack(_TEXT, _SIZE_16, size) + text
    return _HEAD_64.pack(_TEXT, 127, size) + text


class Frame:
    """One text message, ready to be written to any number of sockets."""

    __slots__ = ("_deflated", "_text", "plain")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._deflated: bytes | None = None
        self.plain = plain(text)

    @property
    def deflated(self) -> bytes:
        """The frame for devices with permessage-deflate (RFC 7692)."""
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
        """The frames for devices with permessage-deflate."""
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
    """Return a Close frame (RFC 6455 section 5.5.1); `reason` is a constant."""
    return WireFrame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(
        mask=False
    )


def is_pong(data: bytes) -> bool:
    """Return whether `data` is exactly a client's pong to `PING`."""
    return len(data) == _PONG_SIZE and data.startswith(_PONG)


def whole_text(data: bytes) -> bytes | None:
    """Return the payload of `data` if it is exactly one text frame of a client.

    None for anything else, valid or not: fragments, control frames, two frames, half a
    frame, 64 KiB or more, bits of an extension, no mask. UTF-8 is not checked.
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
