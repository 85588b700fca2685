"""Events from Redis: read, passed on byte for byte, or dropped with a reason."""

import json
from typing import Any

import pytest

from typelets_ws.protocol import event_decoding, events, messages
from typelets_ws.protocol.event_decoding import EventError, EventRejectReason

SYNCS: dict[str, tuple[dict[str, Any], str]] = {
    "note_updated": ({"noteId": "n", "changes": {}, "updatedNote": {}}, "note_sync"),
    "note_created": ({"noteData": {}}, "note_created_sync"),
    "note_deleted": ({"noteId": "n"}, "note_deleted_sync"),
    "folder_created": ({"folderData": {}}, "folder_created_sync"),
    "folder_updated": (
        {"folderId": "f", "changes": {}, "updatedFolder": {}},
        "folder_updated_sync",
    ),
    "folder_deleted": ({"folderId": "f"}, "folder_deleted_sync"),
    "resync_required": ({"reason": "because"}, "resync_required"),
}


def rejection_of(payload: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        event_decoding.decode(payload)
    return caught.value


@pytest.mark.parametrize("name", SYNCS)
def test_each_event_becomes_its_message(name: str) -> None:
    fields, word = SYNCS[name]
    event = event_decoding.decode(json.dumps({"event": name, **fields}).encode())
    assert events.name(event) == name
    assert event.fromUserId == "server"
    sent = json.loads(messages.encode(event.message(7)))
    expected = {"type": word, "timestamp": 7, "fromUserId": "server", **fields}
    if name == "resync_required":
        del expected["fromUserId"]
    assert sent == expected


def test_orders_have_no_message() -> None:
    for payload in (
        b'{"event":"session_revoked","sessionId":"s"}',
        b'{"event":"user_disconnected","reason":null}',
    ):
        event = event_decoding.decode(payload)
        assert isinstance(event, events.ControlEvent)
        with pytest.raises(TypeError):
            event.message(0)


def test_no_connection_is_left_out_for_an_empty_id() -> None:
    """A REST service repeats the id of its client, which may have no connection."""
    event = event_decoding.decode(
        b'{"event":"note_deleted","noteId":"n","exceptConnectionId":""}'
    )
    assert event.exceptConnectionId is None


@pytest.mark.parametrize(
    "odd",
    [
        {"reason": 5},
        {"reason": ""},
        {"reason": "x" * 1000},
        {"reason": "\ud83d"},
        {"fromUserId": ["x"], "exceptConnectionId": "", "publishedAt": "now"},
        {"publishedAt": 1e300, "reason": {}},
    ],
)
def test_an_odd_option_loses_no_control_event(odd: dict[str, Any]) -> None:
    for fields in ({"event": "user_disconnected"}, {"sessionId": "s"}):
        payload = {"event": "session_revoked", **fields, **odd}
        event = event_decoding.decode(json.dumps(payload).encode())
        assert isinstance(event, events.ControlEvent)
        assert getattr(event, "sessionId", "s") == "s"
        assert event.publishedAt is None
    for session in ({}, {"sessionId": 5}, {"sessionId": ""}):
        payload = {"event": "session_revoked", **session, **odd}
        rejected = rejection_of(json.dumps(payload).encode())
        assert rejected.reason is EventRejectReason.INVALID_FIELD
        assert rejected.field == "sessionId"


def test_data_leaves_byte_for_byte() -> None:
    data = b'{"id" : "x", "n":1.0e0, "t":"\\u00e9\xc3\xa9"}'
    payload = b'{"noteData":' + data + b',"event":"note_created","publishedAt":1.5}'
    event = event_decoding.decode(payload)
    assert data in messages.encode(event.message(0))
    assert data in events.encode(event)


def test_absent_folder_fields_stay_absent() -> None:
    event = event_decoding.decode(b'{"event":"folder_updated","folderId":"f"}')
    assert b"changes" not in messages.encode(event.message(0))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"event":"note_deleted","noteId":"\xff"}', EventRejectReason.NOT_UTF8),
        (
            b'{"event":"note_created","noteData":{"x":"\xff"}}',
            EventRejectReason.NOT_UTF8,
        ),
        (b"", EventRejectReason.NOT_JSON),
        (b"{", EventRejectReason.NOT_JSON),
        (b"[" * 100_000, EventRejectReason.UNKNOWN_EVENT),
        (b"[]", EventRejectReason.UNKNOWN_EVENT),
        (b"{}", EventRejectReason.UNKNOWN_EVENT),
        (b'{"event":5}', EventRejectReason.UNKNOWN_EVENT),
        (b'{"event":"nonsense"}', EventRejectReason.UNKNOWN_EVENT),
        (b'{"event":"note_deleted"}', EventRejectReason.INVALID_FIELD),
        (b'{"event":"note_deleted","noteId":5}', EventRejectReason.INVALID_FIELD),
        (
            b'{"event":"note_deleted","noteId":"x","publishedAt":"y"}',
            EventRejectReason.INVALID_FIELD,
        ),
        (b'{"event":"note_created","noteData":5}', EventRejectReason.INVALID_FIELD),
        (b'{"event":"note_created","noteData":null}', EventRejectReason.INVALID_FIELD),
        (
            b'{"event":"note_updated","noteId":"n","changes":[],"updatedNote":{}}',
            EventRejectReason.INVALID_FIELD,
        ),
        (
            b'{"event":"folder_updated","folderId":"f","updatedFolder":""}',
            EventRejectReason.INVALID_FIELD,
        ),
    ],
)
def test_a_malformed_event_is_dropped_by_one_word(
    payload: bytes, reason: EventRejectReason
) -> None:
    assert rejection_of(payload).reason is reason


def test_non_ascii_that_is_utf8_is_fine() -> None:
    event = event_decoding.decode('{"event":"note_deleted","noteId":"é"}'.encode())
    assert isinstance(event, events.NoteDeletedEvent)
    assert event.noteId == "é"


def test_nesting_beyond_the_decoder_has_a_word_of_its_own() -> None:
    payload = b'{"event":"note_created","noteData":{"x":' + b"[" * 1_000_000
    assert rejection_of(payload).reason is EventRejectReason.TOO_DEEP
