"""Which device holds exactly the stored row, because it wrote it."""

import json
from typing import Any

from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.shown_row import (
    FOLDER_NAMES,
    NOTE_NAMES,
    ShownRow,
    Step,
    is_complete,
)
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


def played(*steps: tuple[dict[str, Any], dict[str, Any]]) -> ShownRow:
    """Events, each as the fields named and the row, on the whole row `ROW`."""
    row = ShownRow(base=text())
    for changes, whole in steps:
        row.add(Step(json.dumps(changes).encode(), json.dumps(whole).encode(), None))
    return row


def test_fields_of_partial_rows_add_up() -> None:
    title, star = {"title": "b"}, {"starred": True}
    known = played((title, title), (star, star))
    assert known.is_held(stored(title="b", starred=True))
    # A field that an event changed and the row has not: it changed back.
    assert not known.is_held(stored(starred=True), changed=False)


def test_events_after_a_whole_row_add_up() -> None:
    whole: dict[str, Any] = dict.fromkeys(NOTE_NAMES) | ROW
    title, star = {"title": "b"}, {"starred": True}
    known = played((whole, whole), (title, title), (star, star))
    wanted = whole | title | star
    assert known.is_held(StoredRow(KEY, "1", True, AT, json.dumps(wanted).encode()))
    stale = whole | star
    assert not known.is_held(StoredRow(KEY, "1", True, AT, json.dumps(stale).encode()))


def test_a_partial_row_of_the_only_device_is_no_whole_row() -> None:
    known = ShownRow()
    known.add(Step(None, text(), "c1"))
    known.add_alone(Step(b'{"title":"y"}', b'{"title":"y"}', "c1"))
    assert known.base is None
    known.add_alone(Step(b'{"title":"y"}', text(title="y"), "c1"))
    assert known.base is None, "the row lacks fields, and is not the last reply"


def test_a_step_that_cannot_be_read_is_not_held() -> None:
    known = ShownRow(base=text())
    known.add(Step(b"no json", b"{}", None))
    assert not known.is_held(stored())
    assert known.holder_of(stored()) is None


def test_the_limit_of_bytes_is_one_for_steps_since_the_last_whole_row() -> None:
    known, large = ShownRow(), json.dumps({"content": "x" * 300_000}).encode()
    for _ in range(3):
        known.add(Step(large, b"{}", None))
        known.rebase(text())
    known.add(Step(large, b"{}", None))
    assert not known.mixed
    known.add(Step(large, b"{}", None))
    assert known.mixed


def test_a_row_with_exactly_the_fields_is_complete() -> None:
    for names in (NOTE_NAMES, FOLDER_NAMES):
        row = dict.fromkeys(names)
        assert is_complete(json.dumps(row).encode())
        del row["updatedAt"]
        assert not is_complete(json.dumps(row).encode())
