"""Frames found and read: sizes, order, and what differs from the library."""

import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode

from tests.collector import uncollected
from tests.hostile.clients import masked
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.wire.reader import FrameReader

PING, TEXT, CLOSE = Opcode.PING, Opcode.TEXT, Opcode.CLOSE


def drive(reader: FrameReader, data: bytes, max_size: int = 1_000) -> list[object]:
    """Feed everything, frame by frame; frames and answers in their order."""
    found: list[object] = []
    at = 0
    while at < len(data) and reader.failure is None:
        end = reader.advance(data, at)
        frame = reader.feed(data[at:end], max_size)
        found += reader.to_send()
        if frame is not None:
            found.append((frame.opcode, bytes(frame.data)))
        at = end
    return found


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_the_end_of_a_frame_is_found_wherever_it_is_cut(size: int) -> None:
    frame = masked(TEXT, b"x" * size)
    for cut in {1, 2, 3, 5, 9, 13, len(frame) - 1} & set(range(1, len(frame))):
        reader = FrameReader([])
        assert reader.advance(frame[:cut], 0) == cut
        assert not reader.between_messages
        assert reader.advance(frame[cut:] + b"next", 0) == len(frame) - cut
        assert (reader.complete, reader.whole) == (True, False)
    reader = FrameReader([])
    assert reader.advance(b"__" + frame + b"next", 2) == len(frame) + 2
    assert reader.whole


def test_a_pong_is_sent_before_the_frame_behind_the_ping() -> None:
    stream = (
        masked(TEXT, b"a", fin=False) + masked(PING, b"p") + masked(Opcode.CONT, b"b")
    )
    assert drive(FrameReader([]), stream) == [
        (TEXT, b"a"), b"\x8a\x01p", (PING, b"p"), (Opcode.CONT, b"b"),
    ]  # fmt: skip


def test_a_close_inside_a_fragmented_message_is_answered() -> None:
    reader = FrameReader([])
    stream = masked(TEXT, b"a", fin=False) + masked(CLOSE, b"\x03\xe8")
    assert drive(reader, stream)[-2:] == [b"\x88\x02\x03\xe8", (CLOSE, b"\x03\xe8")]
    assert reader.failure is None


def test_a_broken_rule_is_a_failure_with_a_close_frame() -> None:
    for data, code in (
        (b"\xff\x80", CloseCode.PROTOCOL_ERROR),
        (masked(CLOSE, b"\x03\xe8\xff"), CloseCode.INVALID_DATA),
        (masked(TEXT, b"x" * 1_001), CloseCode.MESSAGE_TOO_BIG),
    ):
        reader = FrameReader([])
        (sent,) = drive(reader, data)
        assert isinstance(sent, bytes)
        assert int.from_bytes(sent[2:4]) == code
        assert reader.failure is not None
        assert reader.failure.close_code == code


def deflating() -> FrameReader:
    return FrameReader([PerMessageDeflate(True, True, 12, 12)])


def test_no_fragment_is_inflated_without_a_limit() -> None:
    """zlib takes 0 bytes left for no limit; the library refuses the frame before."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -12)
    first = squeezer.compress(b"x" * 1_000) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    rest = squeezer.compress(b"y" * 50_000_000) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    reader = deflating()
    stream = masked(TEXT | 0x40, first, fin=False) + masked(Opcode.CONT, rest[:60_000])
    drive(reader, stream[: len(stream)], max_size=1_000)
    assert reader.failure is not None
    assert reader.failure.close_code == CloseCode.MESSAGE_TOO_BIG


def test_an_extension_needs_the_library_for_every_frame() -> None:
    assert FrameReader([]).needless
    assert not deflating().needless


@pytest.mark.parametrize(
    "data",
    [
        masked(TEXT, b"x" * 500, fin=False),
        masked(TEXT, b"x" * 500)[:100],
        masked(TEXT, b"x" * 5_000),
        masked(11, b"x" * 500),
        masked(CLOSE, b"\x03\xe8"),
    ],
)
def test_a_closed_reader_leaves_nothing_to_the_collector(data: bytes) -> None:
    with uncollected():
        for _ in range(10):
            reader = FrameReader([])
            drive(reader, data)
            reader.close()
            assert reader.held == 0
        del reader
