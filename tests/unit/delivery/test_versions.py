"""The newest row wins, late ones are brought up to date, and memory is bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.delivery.versions import (
    Evicted,
    VersionCache,
    VersionedRow,
    refresh_changes,
    version_of,
)

KEY, OTHER = ("alice", "note"), ("bob", "note")


def row(number: int, size: int = 0) -> VersionedRow:
    return VersionedRow(
        f"2026-01-01T00:00:00.{number:03d}Z", b"%d" % number + b"x" * size
    )


def test_the_newest_row_is_shown_from_then_on() -> None:
    newest = VersionCache(10, 1000)
    assert newest.latest(KEY, row(2), 0) == row(2)
    assert newest.latest(KEY, row(1), 1) == row(2)
    assert newest.latest(KEY, row(2), 1) == row(2)
    assert newest.latest(KEY, row(3), 1) == row(3)
    assert newest.latest(KEY, row(2), 1) == row(3)


def test_one_user_is_never_shown_anothers_row() -> None:
    newest = VersionCache(10, 1000)
    newest.latest(KEY, row(2), 0)
    assert newest.latest(OTHER, row(1), 0) == row(1)


def test_a_row_is_remembered_for_a_while_from_when_it_was_shown() -> None:
    newest = VersionCache(10, 1000)
    newest.latest(KEY, row(2), 0)
    newest.latest(OTHER, row(5), 5)
    assert newest.latest(KEY, row(1), 9.9) == row(2)
    assert newest.latest(KEY, row(1), 10) == row(1)
    assert newest.latest(OTHER, row(1), 14) == row(5)
    assert len(newest) == 2


def test_over_the_room_the_oldest_texts_are_forgotten_but_not_their_versions() -> None:
    newest = VersionCache(10, 200)
    newest.latest(KEY, row(2, 100), 0)
    newest.latest(OTHER, row(2, 150), 1)
    with pytest.raises(Evicted):
        newest.latest(KEY, row(1), 2)
    assert newest.latest(OTHER, row(1), 2) == row(2, 150)
    assert newest.latest(KEY, row(3), 2) == row(3)
    assert newest.latest(KEY, row(2), 2) == row(3)


def test_a_text_larger_than_the_room_is_shown_and_forgotten() -> None:
    newest = VersionCache(10, 50)
    assert newest.latest(KEY, row(2, 100), 0) == row(2, 100)
    with pytest.raises(Evicted):
        newest.latest(KEY, row(1), 0)


class Plain:
    """What `Newest` promises, said without any thought of what it costs."""

    def __init__(self, keep: float, room: int) -> None:
        self.keep, self.room = keep, room
        self.known: dict[tuple[str, str], tuple[VersionedRow, float, bool]] = {}

    def show(self, key: tuple[str, str], new: VersionedRow, now: float) -> VersionedRow:
        self.known = {k: v for k, v in self.known.items() if v[1] > now - self.keep}
        old, _, whole = self.known.get(key, (new, now, True))
        if old.version > new.version:
            if not whole:
                raise Evicted
            return old
        self.known.pop(key, None)
        self.known[key] = (new, now, True)
        for k, (row, at, _) in list(self.known.items()):
            if self.used > self.room:
                self.known[k] = (row, at, False)
        return new

    @property
    def used(self) -> int:
        return sum(len(row.text) for row, _, whole in self.known.values() if whole)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 9), st.integers(0, 120), st.integers(0, 3)
        ),
        max_size=60,
    )
)
def test_it_is_as_if_every_entry_were_looked_at_each_time(
    steps: list[tuple[int, int, int, int]],
) -> None:
    newest, plain = VersionCache(5, 200), Plain(5, 200)
    now = 0
    for note, number, size, later in steps:
        now += later
        key, new = ("alice", f"{note}"), row(number, size)
        try:
            expected = plain.show(key, new, now)
        except Evicted:
            with pytest.raises(Evicted):
                newest.latest(key, new, now)
        else:
            assert newest.latest(key, new, now) == expected
            assert expected.version >= new.version
        assert newest._used == plain.used <= 200
        assert len(newest) == len(plain.known)


def test_late_changes_get_the_newest_rows_values() -> None:
    new = VersionedRow(
        "v", b'{"title":"new","starred": true,"updatedAt":"now","x":1.0}'
    )
    late = b'{"starred":false,"gone":1,"updatedAt":"then"}'
    text = refresh_changes(late, new)
    assert json.loads(text) == {"starred": True, "updatedAt": "now"}
    assert refresh_changes(b'{"x":0}', new) == b'{"x":1.0}'


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b'{"updatedAt":"2026-01-01T00:00:00.000Z"}', "2026-01-01T00:00:00.000Z"),
        (b'{"updatedAt":"2026-01-01T00:00:00.000+"}', None),
        (b'{"updatedAt":"2026-01-01T00:00:00Z"}', None),
        (b'{"updatedAt":null}', None),
        (b'{"updatedAt":5}', None),
        (b"{}", None),
        (b"[]", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_version_is_a_time_in_canonical_form(text: bytes, version: str) -> None:
    assert version_of(text) == version
