"""From frames to whole messages."""

import pytest
from websockets.frames import Frame, Opcode

from typelets_ws.protocol.errors import Disconnect
from typelets_ws.wire.assembler import FRAGMENTS, Assembler

ROOM = 1000


def text(data: bytes, *, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, data, fin)


def more(data: bytes, *, fin: bool = False) -> Frame:
    return Frame(Opcode.CONT, data, fin)


def disconnect_of(
    assembly: Assembler, frame: Frame, room: int = ROOM
) -> tuple[int, str]:
    with pytest.raises(Disconnect) as caught:
        assembly.add(frame, room)
    return caught.value.close_code, caught.value.reason


def test_a_single_frame_is_a_message() -> None:
    assembly = Assembler()
    assert assembly.add(text("é".encode()), ROOM) == ("é".encode(), True)
    assert assembly.add(text(b""), ROOM) == (b"", True)
    binary = Frame(Opcode.BINARY, b"\xff")
    assert assembly.add(binary, ROOM) == (b"\xff", False)


def test_fragments_are_joined_even_inside_a_character() -> None:
    assembly = Assembler()
    assert assembly.add(text(b"\xc3", fin=False), ROOM) is None
    assert assembly.add(more(b"\xa9"), ROOM) is None
    assert assembly.size == 2
    assert assembly.add(more(b"!", fin=True), ROOM) == ("é!".encode(), True)
    assert assembly.size == 0


def test_fragments_of_a_binary_message_may_be_anything() -> None:
    assembly = Assembler()
    assembly.add(Frame(Opcode.BINARY, b"\xff", False), ROOM)
    assert assembly.add(more(b"\xfe", fin=True), ROOM) == (b"\xff\xfe", False)


def test_a_message_over_the_room_ends_the_connection() -> None:
    assert disconnect_of(Assembler(), text(b"a" * 11), 10) == (1009, "message_too_big")
    assembly = Assembler()
    assembly.add(text(b"a" * 6, fin=False), 10)
    wanted = (1009, "message_too_big")
    assert disconnect_of(assembly, more(b"a" * 5, fin=True), 10) == wanted


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"ok\xf5"])
def test_text_must_be_utf8(bad: bytes) -> None:
    assert disconnect_of(Assembler(), text(bad)) == (1007, "invalid_utf8")


def test_a_message_in_too_many_pieces_is_an_attack() -> None:
    assembly = Assembler()
    assembly.add(text(b"", fin=False), ROOM)
    for _ in range(FRAGMENTS - 1):
        assert assembly.add(more(b""), ROOM) is None
    assert disconnect_of(assembly, more(b"")) == (1009, "too_many_fragments")


def test_what_was_dropped_is_not_continued() -> None:
    assembly = Assembler()
    assembly.add(text(b"a" * 50, fin=False), ROOM)
    assembly.drop()
    assert assembly.size == 0
    assert assembly.add(more(b"b", fin=True), ROOM) is None
