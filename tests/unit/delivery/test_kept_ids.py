"""Ids kept of users' rows: what has gone, and how much memory it takes."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.delivery.kept_ids import MOST_GONE, MOST_IDS, KeptIds
from typelets_ws.recovery_ports import PackedIds, RowKey, RowKind


def key(number: int, kind: RowKind = RowKind.NOTE, user: str = "alice") -> RowKey:
    return RowKey(user, kind, str(UUID(int=number)))


def packed(*notes: int, folders: tuple[int, ...] = ()) -> PackedIds:
    return PackedIds(
        *(b"".join(UUID(int=n).bytes for n in x) for x in (notes, folders))
    )


def test_rows_that_are_not_in_the_table_any_more_have_gone() -> None:
    kept = KeptIds(100_000, 60.0)
    assert kept.count("alice") is None
    assert kept.replace("alice", packed(1, 2, folders=(3,)), 0.0) == []
    kept.add(key(4))
    kept.add(key(4))
    kept.add(key(1, RowKind.FOLDER))
    assert kept.count("alice") == 5
    gone = kept.replace("alice", packed(2, 5), 1.0)
    assert set(gone) == {
        key(1), key(4), key(3, RowKind.FOLDER), key(1, RowKind.FOLDER),
    }  # fmt: skip
    assert kept.count("alice") == 2


def test_rows_that_were_sent_before_all_ids_are_known() -> None:
    kept = KeptIds(100_000, 60.0)
    kept.add(key(1))
    kept.add(key(2))
    assert kept.count("alice") is None
    assert kept.replace("alice", packed(2, 3), 1.0) == [key(1)]
    assert kept.count("alice") == 2


def test_a_row_that_devices_know_is_gone_is_not_found_again() -> None:
    kept = KeptIds(100_000, 60.0)
    kept.replace("alice", packed(1, 2), 0.0)
    kept.remove(key(1), 10.0)
    kept.remove(RowKey("alice", RowKind.NOTE, "no uuid"), 10.0)
    kept.remove(key(1, user="bob"), 10.0)
    assert kept.count("alice") == 1
    assert kept.replace("alice", packed(2), 20.0) == []
    assert key(1) in kept.gone("alice", 70.0)
    assert kept.gone("alice", 71.0) == kept.gone("bob", 0.0) == []
    kept.add(key(1))
    assert kept.gone("alice", 70.0) == [RowKey("alice", RowKind.NOTE, "no uuid")]
    assert kept.take_gone("alice") == [RowKey("alice", RowKind.NOTE, "no uuid")]
    assert kept.take_gone("alice") == kept.take_gone("bob") == []


@given(st.lists(st.integers(0, 600)), st.lists(st.integers(0, 600)))
def test_ids_are_found_wherever_they_are(added: list[int], removed: list[int]) -> None:
    """Also where the bytes of one begin inside another's."""
    kept = KeptIds(1_000_000, 60.0)
    kept.replace("alice", packed(), 0.0)
    for number in added:
        kept.add(key(number << 60 | number))
    for number in removed:
        kept.remove(key(number << 60 | number), 0.0)
    assert kept.count("alice") == len(set(added) - set(removed))


def test_the_ids_of_a_user_without_devices_are_kept_for_a_while() -> None:
    kept = KeptIds(100_000, 60.0)
    kept.replace("alice", packed(1), 0.0)
    kept.enter("alice", 1_000.0)
    assert kept.count("alice") == 1
    kept.leave("alice", 1_000.0)
    kept.enter("alice", 1_060.0)
    assert kept.count("alice") == 1
    kept.enter("alice", 1_061.0)
    assert kept.count("alice") is None
    kept.leave("bob", 0.0)


def test_memory_is_bounded_and_counted() -> None:
    kept = KeptIds(5_000, 60.0)
    for number in range(100):
        kept.replace(f"user {number}", packed(*range(20)), 0.0)
        kept.count("user 0")
    assert kept.used_bytes <= 5_000
    assert kept.count("user 0") == kept.count("user 99") == 20
    assert kept.count("user 1") is None
    assert kept.replace("many", packed(*range(MOST_IDS + 1)), 0.0) == []
    assert kept.count("many") is None
    for number in range(100):
        kept.replace(f"user {number}", packed(), 0.0)
    assert kept.used_bytes == 500 * 10
    kept.add(key(1, user="another"))
    assert kept.used_bytes == 500 * 8 + 516


def test_deletions_remembered_are_bounded() -> None:
    kept = KeptIds(1_000_000, 60.0)
    kept.replace("alice", packed(), 0.0)
    for number in range(MOST_GONE + 5):
        kept.remove(key(number), 0.0)
    assert len(kept.gone("alice", 0.0)) == MOST_GONE


def test_memory_is_given_back() -> None:
    kept = KeptIds(1_000_000, 60.0)
    kept.add(key(1))
    kept.add(key(2))
    assert kept.used_bytes == 500 + 2 * 16
    kept.remove(key(1), 0.0)
    assert kept.used_bytes == 500 + 16
    kept.replace("alice", packed(*range(MOST_IDS + 1)), 0.0)
    assert kept.used_bytes == 0
