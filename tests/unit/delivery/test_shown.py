"""What was shown of rows: staleness, verification, memory."""

import json
from typing import Any

from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.shown_row import is_complete
from typelets_ws.ports import VersionedRow
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

KEY = RowKey("alice", RowKind.NOTE, "n1")
NAMES = [
    "id", "userId", "folderId", "title", "content", "type", "encryptedTitle",
    "encryptedContent", "iv", "salt", "starred", "archived", "deleted", "hidden",
    "hiddenAt", "tags", "createdAt", "updatedAt",
]  # fmt: skip


def at(number: int) -> str:
    return f"2026-01-01T00:00:00.{number:03d}Z"


def stored(number: int, **fields: Any) -> StoredRow:
    row = dict.fromkeys(NAMES) | {"updatedAt": at(number)} | fields
    return StoredRow(KEY, f"{number}", False, at(number), json.dumps(row).encode())


def show(shown: ShownRows, row: StoredRow, *names: str, **more: Any) -> None:
    """An event of an update that names these fields."""
    whole = json.loads(row.text)
    changes = {name: whole[name] for name in (*names, "updatedAt")}
    shown.updated(KEY, json.dumps(changes).encode(), row.text, row.updated_at, **more)


def alone(row: StoredRow) -> VersionedRow:
    return VersionedRow(row.text, row.updated_at)


def is_held(shown: ShownRows, row: StoredRow, *, changed: bool = True) -> bool:
    known = shown.get(KEY)
    assert known is not None
    return known.is_held(row, changed=changed)


def of_alice(max_bytes: int = 100_000) -> ShownRows:
    shown = ShownRows(max_bytes)
    shown.add_user("alice")
    return shown


def test_nothing_is_noted_of_users_without_a_device() -> None:
    shown = ShownRows(1000)
    show(shown, stored(1))
    assert (len(shown), shown.get(KEY), shown.unverified("alice", 99)) == (0, None, [])


def test_changes_laid_over_a_known_row_make_the_stored_one() -> None:
    shown = of_alice()
    shown.sent(stored(1, title="a"))
    show(shown, stored(2, title="b"), "title")
    assert is_held(shown, stored(2, title="b"))


def test_a_skipped_event_is_noticed_in_the_laid_row() -> None:
    shown = of_alice()
    shown.sent(stored(1, title="a", content="c"))
    show(shown, stored(3, title="b", content="skipped"), "title")
    assert not is_held(shown, stored(3, title="b", content="skipped"))


def test_without_a_known_row_an_event_may_not_be_all() -> None:
    shown = of_alice()
    show(shown, stored(2, title="b"), "title")
    assert not is_held(shown, stored(2, title="b"))
    assert is_held(shown, stored(2, title="b"), changed=False)
    assert not is_held(shown, stored(3, title="x"))


def test_an_update_of_all_fields_may_be_of_a_row_that_devices_do_not_know() -> None:
    """Its creation was not published: the old web client ignores the update."""
    shown = of_alice()
    show(shown, stored(2), *NAMES)
    assert not is_held(shown, stored(2))
    assert is_held(shown, stored(2), changed=False)


def test_many_changes_are_merged() -> None:
    for based in (True, False):
        shown = of_alice()
        if based:
            shown.sent(stored(0, title="", content="same"))
        for number in range(1, 60):
            row = stored(number, title=f"{number}", content="same")
            show(shown, row, "title")
        assert is_held(shown, stored(59, title="59", content="same")) is based


def test_a_reply_is_held_by_its_sender_until_the_event_has_come() -> None:
    shown = of_alice()
    shown.sent(stored(1))
    row = stored(2, title="x")
    shown.replied(KEY, VersionedRow(row.text, row.updated_at), "c1")
    assert not is_held(shown, row)
    show(shown, row, "title", holder="c1")
    assert is_held(shown, row)


def test_updates_that_one_device_sends_in_a_row_are_not_stale() -> None:
    shown = of_alice()
    for number in (2, 3):
        row = stored(number)
        shown.replied(KEY, VersionedRow(row.text, row.updated_at), "c1")
    assert not shown.is_stale(KEY, at(2), "c1")
    assert shown.is_stale(KEY, at(2), "c2"), "c1 would be shown an older row"
    show(shown, stored(2), holder="c1")
    assert shown.is_stale(KEY, at(1), "c1")
    assert not shown.is_stale(KEY, at(3), "c1")
    assert not shown.is_stale(KEY, None)


def test_a_deletion_is_shown_until_the_row_is_created_or_sent() -> None:
    shown = of_alice()
    shown.sent(stored(1))
    shown.deleted(KEY)
    assert not is_held(shown, stored(1))
    show(shown, stored(2))
    assert not is_held(shown, stored(2)), "ignored by old clients"
    shown.created(KEY, stored(2).text, at(2))
    assert is_held(shown, stored(2))


def test_each_showing_is_to_be_verified_once() -> None:
    shown = of_alice()
    show(shown, stored(1))
    sequence = shown.sequence
    assert shown.unverified("alice", sequence) == [KEY]
    assert shown.unverified("alice", sequence - 1) == []
    assert not shown.touched(KEY, sequence)
    shown.verified(KEY)
    assert not shown.is_unverified(KEY)
    show(shown, stored(2))
    assert shown.is_unverified(KEY)
    assert shown.touched(KEY, sequence)


def test_memory_is_bounded_and_given_back() -> None:
    shown = of_alice(max_bytes=20_000)
    for number in range(200):
        key = RowKey("alice", RowKind.NOTE, f"{number}")
        shown.updated(key, b"{}", b"x" * 500, at(1))
        shown.created(key, b"y" * 300, at(2))
    assert 0 < shown.used_bytes <= 20_000
    assert shown.get(RowKey("alice", RowKind.NOTE, "0")) is None
    assert len(shown.unverified("alice", shown.sequence)) == 200
    shown.add_user("bob")
    shown.discard_user("alice")
    assert (shown.used_bytes, len(shown)) == (0, 0)
    shown.discard_user("alice")


def test_whole_rows_have_all_fields() -> None:
    assert is_complete(stored(1).text)
    assert not is_complete(b'{"id":"x"}')
    assert not is_complete(b"[]")
    assert not is_complete(b"\xff")


def test_with_another_database_every_row_is_verified_again() -> None:
    shown = of_alice()
    shown.sent(stored(1))
    shown.verified(KEY)
    assert shown.unverified("alice", shown.sequence) == []
    shown.unverify()
    assert shown.unverified("alice", shown.sequence) == [KEY]


def test_deletions_shown_last_are_listed() -> None:
    shown = of_alice()
    assert shown.deletions("alice") == shown.deletions("bob") == []
    shown.deleted(KEY)
    assert shown.deletions("alice") == [KEY]
    shown.created(KEY, stored(2).text, at(2))
    assert shown.deletions("alice") == []


def test_the_same_version_again_is_not_stale() -> None:
    shown = of_alice()
    show(shown, stored(2))
    assert not shown.is_stale(KEY, at(2))
    assert shown.is_stale(KEY, at(1))


def test_an_update_without_other_devices_leaves_its_whole_row() -> None:
    """Its sender has the row from the reply; no one had to lay changes over a copy."""
    row = stored(1, title="x")
    for alone in (True, False):
        shown = of_alice()
        show(shown, row, "title", alone=alone)
        assert is_held(shown, row) is alone
    shown = of_alice()
    shown.updated(KEY, b"{}", b'{"title":"x"}', at(1), alone=True)
    assert not is_held(shown, row)


def test_the_holder_is_the_writer_of_the_version_shown() -> None:
    shown = of_alice()
    show(shown, stored(1, title="a"), "title", holder="c1")
    known = shown.get(KEY)
    assert known is not None
    assert known.holder_of(stored(1, title="a")) == "c1"
    show(shown, stored(1, title="a"), "title")
    assert known.holder_of(stored(1, title="a")) == "c1"
    show(shown, stored(2, title="b"), "title")
    assert known.holder_of(stored(2, title="b")) is None


def test_an_event_of_an_older_update_leaves_the_replied_row_with_its_writer() -> None:
    shown = of_alice()
    newer = stored(3, title="c")
    shown.replied(KEY, VersionedRow(newer.text, newer.updated_at), "c1")
    show(shown, stored(2, title="b"), "title", holder="c1")
    known = shown.get(KEY)
    assert known is not None
    assert (known.version, known.event_version) == (at(3), at(2))
    assert known.replied
    # Another device's update is shown to all, to c1 as well.
    show(shown, stored(4, title="d"), "title", holder="c2")
    assert (known.version, known.holder, known.replied) == (at(4), "c2", False)


def test_an_event_without_a_version_leaves_the_one_shown() -> None:
    shown = of_alice()
    shown.sent(stored(2))
    row = stored(2, title="x")
    shown.updated(KEY, b'{"title":"x"}', row.text, None)
    assert shown.is_stale(KEY, at(1))
    shown.created(KEY, row.text, None)
    assert shown.is_stale(KEY, at(1))
    assert not shown.is_stale(KEY, at(2))


def test_a_creation_is_the_whole_row_only_where_it_was_unknown() -> None:
    row = stored(2, title="b")
    shown = of_alice()
    shown.created(KEY, row.text, at(2))
    assert is_held(shown, row)
    # Devices that know the row ignore the event.
    shown = of_alice()
    shown.sent(stored(1, title="a"))
    shown.created(KEY, row.text, at(2))
    assert not is_held(shown, row)
    # After a row without some of its fields the devices' copy is unknown.
    shown = of_alice()
    shown.created(KEY, b'{"title":"b"}', at(2))
    assert not is_held(shown, row)
    # A newer client takes the row that it is sent, whatever it holds.
    shown = of_alice()
    shown.sent(row)
    shown.created(KEY, stored(2, title="c").text, at(2))
    assert not is_held(shown, row)


def test_a_deleted_row_takes_no_room_for_texts() -> None:
    shown = of_alice()
    shown.sent(stored(1, content="x" * 5_000))
    show(shown, stored(2, content="y" * 5_000), "content")
    assert shown.used_bytes > 15_000
    shown.deleted(KEY)
    assert shown.used_bytes < 1_000
    known = shown.get(KEY)
    assert known is not None
    assert (known.version, known.event_version, known.holder) == (None, None, None)
    assert not shown.is_stale(KEY, at(1))


def test_a_row_that_one_device_was_sent_and_that_changed_back_is_not_held() -> None:
    """With the same `updatedAt` throughout: neither client nor digest can tell."""
    shown = of_alice()
    shown.sent(stored(1, starred=False))
    shown.verified(KEY)
    sequence = shown.sequence
    shown.sent_to_one(KEY, alone(stored(1, starred=False)), "c1")
    assert not shown.touched(KEY, sequence), "it holds what the others hold"
    shown.sent_to_one(KEY, alone(stored(1, starred=True)), "c1")
    assert shown.touched(KEY, sequence)
    assert shown.is_unverified(KEY)
    for changed in (True, False):
        assert not is_held(shown, stored(1, starred=False), changed=changed)
        assert not is_held(shown, stored(1, starred=True), changed=changed)
    shown.sent_to_one(KEY, alone(stored(1, starred=False)), "c1")
    assert is_held(shown, stored(1, starred=False))


def test_an_event_makes_the_row_of_one_device_that_of_all() -> None:
    """Of the fields it names: the old web client lays only these."""
    for names, found in ((["title"], False), (["title", "starred"], True)):
        shown = of_alice()
        shown.sent(stored(1, starred=False))
        shown.sent_to_one(KEY, alone(stored(1, starred=True)), "c1")
        show(shown, stored(2, title="x", starred=False), *names)
        assert is_held(shown, stored(2, title="x", starred=False)) is found


def test_a_writer_keeps_what_its_reply_had_and_no_event_named() -> None:
    """A change by hand before its update, taken back before another's."""
    shown = of_alice()
    shown.sent(stored(1, starred=False))
    row = stored(2, title="x", starred=True)
    shown.replied(KEY, VersionedRow(row.text, row.updated_at), "c1")
    show(shown, row, "title", holder="c1")
    row = stored(3, title="y", starred=False)
    shown.replied(KEY, VersionedRow(row.text, row.updated_at), "c2")
    show(shown, row, "title", holder="c2")
    assert not is_held(shown, row)
    known = shown.get(KEY)
    assert known is not None
    assert known.holder_of(row) == "c2"


def test_a_partial_row_leaves_the_other_fields_of_newer_clients() -> None:
    shown = of_alice()
    shown.sent(stored(1, starred=False))
    show(shown, stored(2, title="x", starred=True), "title")
    changes = json.dumps({"title": "y", "updatedAt": at(3)}).encode()
    shown.updated(KEY, changes, changes, at(3))
    assert not is_held(shown, stored(3, title="y", starred=False))


def test_a_writer_that_ignores_a_creation_does_not_hold_its_row() -> None:
    shown = of_alice()
    shown.sent(stored(1, title="a"))
    show(shown, stored(2, title="b"), "title", holder="c1")
    row = stored(3, title="c")
    shown.created(KEY, row.text, at(3))
    known = shown.get(KEY)
    assert known is not None
    assert known.holder_of(row) is None
    assert not is_held(shown, row)


def test_a_creation_of_a_row_that_was_updated_is_ignored_by_old_clients() -> None:
    shown = of_alice()
    show(shown, stored(1, title="a"), "title")
    shown.created(KEY, stored(2, title="b", content="new").text, at(2))
    assert not is_held(shown, stored(2, title="b", content="new"))


def test_more_steps_than_are_kept_leave_copies_that_differ_to_be_sent() -> None:
    shown = of_alice(max_bytes=10_000_000)
    shown.sent(stored(1, starred=False))
    shown.sent_to_one(KEY, alone(stored(1, starred=True)), "c1")
    for number in range(2, 40):
        show(shown, stored(number, title="x", starred=False), "title")
    row = stored(39, title="x", starred=False)
    assert not is_held(shown, row)
    assert not is_held(shown, row, changed=False)
    shown.sent(row)
    assert is_held(shown, row)


def test_large_rows_are_not_kept_in_many_versions() -> None:
    shown = of_alice(max_bytes=10_000_000)
    shown.sent(stored(0, content="x"))
    for number in range(1, 4):
        show(shown, stored(number, content="x" * 150_000), "content")
    assert shown.used_bytes < 100_000
    assert not is_held(shown, stored(3, content="x" * 150_000))


def test_an_update_says_whether_it_may_be_shown() -> None:
    shown = ShownRows(1_000)
    changes = b'{"title":"x"}'
    assert shown.updated(KEY, changes, changes, at(2))
    shown.add_user("alice")
    assert shown.updated(KEY, changes, changes, at(2))
    assert not shown.updated(KEY, changes, changes, at(1))
    shown.deleted(KEY)
    assert not shown.updated(KEY, changes, changes, at(3))


def test_the_event_of_a_reply_ends_the_reply() -> None:
    shown = of_alice()
    shown.replied(KEY, alone(stored(2)), "c1")
    show(shown, stored(2), "title", holder="c1")
    show(shown, stored(4), "title", holder="c1")  # written over REST
    assert shown.is_stale(KEY, at(3))


def test_creations_are_weighed() -> None:
    shown = of_alice(5_000)
    for number in range(100):
        shown.created(RowKey("alice", RowKind.NOTE, f"n{number}"), b"{}", at(1))
    assert len(shown) < 10


def test_the_row_shown_longest_ago_is_forgotten_first() -> None:
    shown = of_alice(2_000)
    first, second, third = (RowKey("alice", RowKind.NOTE, one) for one in "abc")
    for key in (first, second, first, third):
        shown.updated(key, b"{}", b"{}", at(1))
    kept = [shown.get(key) is not None for key in (first, second, third)]
    assert kept == [True, False, True]


def test_rows_are_verified_in_the_order_in_which_they_were_shown() -> None:
    shown = of_alice()
    first, second = (RowKey("alice", RowKind.NOTE, one) for one in "ab")
    for key in (first, second, first):
        shown.updated(key, b"{}", b"{}", at(1))
    assert shown.unverified("alice", shown.sequence) == [second, first]


def test_a_user_with_very_many_rows_keeps_those_of_others() -> None:
    shown = of_alice(10_000)
    shown.add_user("bob")
    keys = [RowKey("bob", RowKind.NOTE, f"{number}") for number in range(50)]
    show(shown, stored(1))
    for key in keys:
        shown.updated(key, b"{}", b"x" * 500, at(1))
    kept = [shown.get(key) is not None for key in keys]
    assert shown.get(KEY) is not None
    assert kept == sorted(kept)
    assert kept.count(True) > 1
    few = kept.count(True)
    for number in range(3):
        shown.updated(RowKey("alice", RowKind.NOTE, f"{number}"), b"{}", b"", at(1))
    assert [shown.get(key) is not None for key in keys].count(True) < few
    assert shown.get(KEY) is None, "shown longest ago, by one below its share"


def test_a_forgotten_row_is_not_looked_for() -> None:
    shown = of_alice()
    show(shown, stored(1))
    shown.forget(KEY)
    assert shown.unverified("alice", 99) == []
