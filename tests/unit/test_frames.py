"""A frame is made once: plain, and deflated when somebody needs it."""

import zlib

from typelets_ws.frames import PING, Frame


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
