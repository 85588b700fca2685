"""A frame is made once: plain, and deflated when somebody needs it.

The library reads every frame of `whole_text` as the same.
"""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side
from websockets.utils import apply_mask

from typelets_ws.wire.frames import PING, Frame, whole_text

heads = st.builds(
    lambda first, second, more: bytes((first, second)) + more,
    st.sampled_from((0x81, 0x81, 0x82, 0x01, 0xC1, 0x80, 0x89, 0x8A)),
    st.sampled_from((*range(0x80, 0x88), 0xFD, 0xFE, 0xFE, 0xFF, 0x05, 0x7E)),
    st.sampled_from((b"", b"\0\x7d", b"\0\x7e", b"\0\x80", bytes(7) + b"\x7f")),
)
sizes = st.one_of(st.integers(0, 12), st.integers(123, 145))


def by_the_library(data: bytes) -> list[WireFrame]:
    protocol = Protocol(Side.SERVER, state=OPEN, max_size=None)
    protocol.receive_data(data)
    frames = protocol.events_received()
    assert protocol.data_to_send() == []
    assert not protocol.reader.buffer
    return [frame for frame in frames if isinstance(frame, WireFrame)]


@given(heads, sizes)
@example(b"\x81\xff", 131)
def test_nothing_is_read_otherwise_than_by_the_library(head: bytes, size: int) -> None:
    data = head + bytes(n * 37 % 256 for n in range(size))
    text = whole_text(data)
    if text is not None:
        (frame,) = by_the_library(data)
        assert (frame.opcode, frame.fin, frame.data) == (Opcode.TEXT, True, text)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
@example(b"x" * 65_535, b"mask")
def test_each_short_text_frame_is_taken_whole(text: bytes, mask: bytes) -> None:
    size = len(text)
    head = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    data = b"\x81" + head + mask + apply_mask(text, mask)
    assert whole_text(data) == text == by_the_library(data)[0].data


@pytest.mark.parametrize("cut", range(1, 12))
def test_half_a_frame_and_more_than_one_are_left_to_the_library(cut: int) -> None:
    data = b"\x81\x86mask" + b"sixsix"
    assert whole_text(data) is not None
    assert whole_text(data[:-cut]) is None
    assert whole_text(data + data[:cut]) is None


def test_a_short_text_is_one_unmasked_frame() -> None:
    assert Frame(b"hi").plain == b"\x81\x02hi"
    assert PING == b"\x89\x00"


def test_lengths_are_written_as_the_rfc_says() -> None:
    assert Frame(b"a" * 126).plain[:4] == b"\x81\x7e\x00\x7e"
    assert Frame(b"a" * 65_536).plain[:10] == b"\x81\x7f" + (65_536).to_bytes(8, "big")


def test_a_deflated_frame_is_made_once_and_stands_alone() -> None:
    frame = Frame(b"a" * 1000)
    deflated = frame.deflated
    assert deflated[0] == 0xC1
    assert len(deflated) < 100
    assert frame.deflated is deflated
    inflate = zlib.decompressobj(wbits=-12)
    assert inflate.decompress(deflated[2:] + b"\x00\x00\xff\xff") == b"a" * 1000
    assert Frame(b"a" * 1000).deflated == deflated
