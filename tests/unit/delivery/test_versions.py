"""Versions and ids read from the JSON of rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.delivery.versions import head_of, version_at, version_of

AT = "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b'{"updatedAt":"2026-01-01T00:00:00.000Z"}', AT),
        (b'{"a":"\\ud83d","updatedAt":"2026-01-01T00:00:00.000Z"}', AT),
        (b'{"updatedAt":"2026-01-01T00:00:00Z"}', None),
        (b'{"updatedAt":"2026-01-01 00:00:00.000Z"}', None),
        (b'{"updatedAt":5}', None),
        (b'{"updatedAt":null}', None),
        (b"{}", None),
        (b"[]", None),
        (b"no json", None),
    ],
)
def test_a_version_is_a_time_in_canonical_form(
    text: bytes, version: str | None
) -> None:
    assert version_of(text) == version


def test_the_id_is_read_in_lower_case() -> None:
    assert head_of(b'{"id":"AB","updatedAt":"x"}') == ("ab", None)
    assert head_of(b'{"id":"AB","x":"\\ud800"}') == ("ab", None)
    assert head_of(b'{"id":7}') == (None, None)
    assert head_of(b'{"id":"AB","x":"\\ud800"') == (None, None)


def test_a_time_as_a_version() -> None:
    assert version_at(1_767_225_600_123) == "2026-01-01T00:00:00.123Z"


@given(st.integers(0, 4_000_000_000_000), st.integers(0, 4_000_000_000_000))
def test_times_as_versions_sort_by_time(first: int, second: int) -> None:
    assert (version_at(first) < version_at(second)) is (first < second)
    assert version_of(b'{"updatedAt":"%s"}' % version_at(first).encode())
