"""Cursors: short, without a secret, and refused unless they are of this database."""

import base64
import uuid
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.delivery.cursors import (
    HORIZON_XIDS,
    Cursor,
    CursorError,
    check,
    decode,
    encode,
)
from typelets_ws.recovery_ports import RowKind, Snapshot

IDENTITY = "5.7712476326264650857.00000001"
xids = st.integers(3, 2**64 - 1)
positions = st.tuples(st.sampled_from(RowKind), st.uuids().map(str))


@given(xids)
def test_a_plain_cursor_is_short_and_comes_back(horizon: int) -> None:
    text = encode(IDENTITY, Cursor(horizon))
    assert len(text) == 20
    assert decode(text)[1] == Cursor(horizon)


@given(xids, st.none() | xids, positions)
def test_a_cursor_between_pages_comes_back(
    horizon: int, since: int | None, after: tuple[RowKind, str]
) -> None:
    cursor = Cursor(horizon, since, after)
    text = encode(IDENTITY, cursor)
    assert len(text) <= 64
    assert decode(text)[1] == cursor


@given(st.text(CHARACTERS) | st.text("AQgw-_09", max_size=60))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        identity, _ = decode(text)
    except CursorError:
        return
    assert len(identity) == 6


@pytest.mark.parametrize("text", ["", "A", "AQ", "Ag" + "A" * 18, "A" * 65, "\ud800"])
def test_malformed_cursors_are_refused(text: str) -> None:
    with pytest.raises(CursorError):
        decode(text)


def test_an_unknown_kind_is_refused() -> None:
    after = (RowKind.NOTE, str(uuid.UUID(int=0)))
    text = encode(IDENTITY, Cursor(5, None, after))
    packed = base64.urlsafe_b64decode(text + "==")
    kind = len(packed) - 17
    for number, known in ((0, True), (1, True), (2, False), (255, False)):
        changed = packed[:kind] + bytes([number]) + packed[kind + 1 :]
        given = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
        with nullcontext() if known else pytest.raises(CursorError):
            decode(given)


def checked(cursor: Cursor, snapshot: Snapshot) -> bool:
    identity, decoded = decode(encode(IDENTITY, cursor))
    try:
        check(identity, decoded, snapshot)
    except CursorError:
        return False
    return True


def test_cursors_of_the_past_of_this_database_are_accepted() -> None:
    newest = HORIZON_XIDS + 1_000
    here = Snapshot(IDENTITY, newest - 5, newest)
    assert checked(Cursor(newest), here)
    assert checked(Cursor(newest - HORIZON_XIDS), here)
    assert not checked(Cursor(newest - HORIZON_XIDS - 1), here), "too old"
    assert not checked(Cursor(newest + 1), here), "from the future: a restored dump"
    assert not checked(Cursor(newest), Snapshot("other", newest, newest))
    after = (RowKind.NOTE, str(uuid.UUID(int=7)))
    assert checked(Cursor(newest, newest - 9, after), here)
    assert checked(Cursor(newest, None, after), here)
    assert not checked(Cursor(newest, newest - HORIZON_XIDS - 1, after), here)
