"""`whole_text` and `Frame` do the same as the library.

tests/fuzz/test_segmentation.py compares whole streams, cut at every place.
"""

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from tests.texts import CHARACTERS
from typelets_ws.wire.frames import Frame, is_pong, no_pong, no_text, whole_text

masks = st.binary(min_size=4, max_size=4)


def masked(opcode: Opcode, payload: bytes) -> bytes:
    return WireFrame(opcode, payload).serialize(mask=True)


def by_the_library(data: bytes) -> list[WireFrame]:
    protocol = Protocol(Side.SERVER, state=OPEN, max_size=None)
    protocol.receive_data(data)
    found = protocol.events_received()
    return [frame for frame in found if isinstance(frame, WireFrame)]


@given(st.binary(max_size=70_000))
def test_a_frame_is_written_as_the_library_writes_it(payload: bytes) -> None:
    expected = WireFrame(Opcode.TEXT, payload).serialize(mask=False)
    assert Frame(payload).plain == expected


@given(st.text(CHARACTERS, max_size=300))
def test_a_text_frame_has_the_librarys_payload(text: str) -> None:
    data = masked(Opcode.TEXT, text.encode())
    (frame,) = by_the_library(data)
    assert whole_text(data) == bytes(frame.data) == text.encode()
    assert no_text(data) is None


def test_a_pong_is_recognised() -> None:
    data = masked(Opcode.PONG, b"")
    assert is_pong(data)
    assert not no_pong(data)
    assert [frame.opcode for frame in by_the_library(data)] == [Opcode.PONG]


@given(st.sampled_from(Opcode), st.binary(max_size=20), st.binary(max_size=4))
def test_only_one_whole_text_frame_is_taken(
    opcode: Opcode, payload: bytes, more: bytes
) -> None:
    data = masked(opcode, payload) + more
    if opcode is not Opcode.TEXT or more:
        assert whole_text(data) is None
