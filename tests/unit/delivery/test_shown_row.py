"""Which device holds exactly the stored row, because it wrote it."""

import json
from typing import Any

from typelets_ws.delivery.shown import ShownRows
from typelets_ws.ports import VersionedRow
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

KEY = RowKey("alice", RowKind.NOTE, "n1")
AT = "2026-01-01T00:00:00.000Z"
ROW: dict[str, Any] = {"id": "n1", "title": "x", "folderId": "f1", "updatedAt": AT}


def text(**changed: object) -> bytes:
    return json.dumps({**ROW, **changed}).encode()


def stored(**changed: object) -> StoredRow:
    return StoredRow(KEY, "77", True, changed.get("updatedAt", AT), text(**changed))  # type: ignore[arg-type]


def shown() -> ShownRows:
    rows = ShownRows(100_000)
    rows.add_user("alice")
    return rows


def test_the_writer_holds_the_row_of_its_reply() -> None:
    rows = shown()
    rows.replied(KEY, VersionedRow(text(), AT), "c1")
    known = rows.get(KEY)
    assert known is not None
    assert known.holder_of(stored()) == "c1"
    assert known.holder_of(stored(updatedAt="2026-01-01T00:00:00.001Z")) is None


def test_the_writer_does_not_hold_a_row_that_changed_without_a_new_time() -> None:
    """A deleted folder leaves its notes with another folderId and the same time."""
    rows = shown()
    rows.replied(KEY, VersionedRow(text(), AT), "c1")
    known = rows.get(KEY)
    assert known is not None
    assert known.holder_of(stored(folderId=None)) is None
    rows.updated(KEY, b'{"title":"x"}', text(), AT, holder="c1")
    assert known.holder_of(stored()) == "c1"
    assert known.holder_of(stored(folderId=None)) is None


def test_the_holder_of_an_event_without_the_whole_row_is_not_known() -> None:
    rows = shown()
    rows.updated(KEY, b'{"title":"x"}', b'{"title":"x"}', AT, holder="c1")
    known = rows.get(KEY)
    assert known is not None
    assert known.holder_of(stored()) is None
