"""The publisher's events, and that no invalid one is sent."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import redis
from jsonschema import Draft202012Validator

from tests.notes import whole_note
from typelets_ws._publisher.json_data import data
from typelets_ws._publisher.rows import NOTE_KEYS
from typelets_ws.protocol import event_decoding, events
from typelets_ws.publisher import Failure, Publisher
from typelets_ws.schema.json_schema import json_schema

ID = "00000000-0000-4000-8000-000000000001"
NOW = 1_767_225_600.1239


NOTE = whole_note("u")


class Client:
    """Stands in for redis-py's: remembers what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def set(self, key: str, value: bytes, *, ex: int) -> None:
        self.sent.append(("SET", key, value, "EX", ex))

    def publish(self, channel: str, payload: bytes) -> int:
        self.sent.append((channel, payload))
        return 3


def anything(_row: object, _name: str) -> None:
    """A check that has no objection."""


def publish(
    call: Callable[[Publisher], int], prefix: str = "typelets:"
) -> tuple[str, dict[str, Any]]:
    """Channel and event of one publication."""
    client = Client()
    publisher = Publisher(client, prefix=prefix, clock=lambda: NOW)  # type: ignore[arg-type]
    assert call(publisher) == 3
    channel, payload = client.sent[-1]
    event_decoding.decode(payload)
    event = json.loads(payload)
    schema = {**json_schema(), "$ref": f"#/$defs/{type_name(event)}"}
    assert event.pop("publishedAt") == 1_767_225_600_123
    Draft202012Validator(schema).validate(event)
    return channel, event


def type_name(event: dict[str, Any]) -> str:
    return "".join(map(str.title, event["event"].split("_"))) + "Event"


CALLS: list[tuple[Callable[[Publisher], int], dict[str, Any]]] = [
    (
        lambda p: p.notify_note_update(
            "u", UUID(ID), {"starred": True}, {**NOTE, "id": UUID(ID)},
            from_user_id="u", except_connection_id="c",
        ),
        {"event": "note_updated", "fromUserId": "u", "exceptConnectionId": "c",
         "noteId": ID, "changes": {"starred": True}, "updatedNote": NOTE},
    ),
    (
        lambda p: p.notify_note_created("u", json.dumps(NOTE).encode()),
        {"event": "note_created", "noteData": NOTE},
    ),
    (
        lambda p: p.notify_note_deleted("u", ID, except_connection_id=""),
        {"event": "note_deleted", "noteId": ID},
    ),
    (
        lambda p: p.notify_folder_created("u", {"id": ID}, except_connection_id="c"),
        {"event": "folder_created", "exceptConnectionId": "c",
         "folderData": {"id": ID}},
    ),
    (
        lambda p: p.notify_folder_updated("u", ID, {"name": "n"}, {"id": ID}),
        {"event": "folder_updated", "folderId": ID, "changes": {"name": "n"},
         "updatedFolder": {"id": ID}},
    ),
    (
        lambda p: p.notify_folder_updated("u", ID),
        {"event": "folder_updated", "folderId": ID},
    ),
    (
        lambda p: p.notify_folder_deleted("u", ID),
        {"event": "folder_deleted", "folderId": ID},
    ),
    (
        lambda p: p.require_resync("u", "restored"),
        {"event": "resync_required", "reason": "restored"},
    ),
    (
        lambda p: p.revoke_session("u", "sess_1"),
        {"event": "session_revoked", "sessionId": "sess_1"},
    ),
    (lambda p: p.disconnect_user("u"), {"event": "user_disconnected"}),
    (
        lambda p: p.disconnect_user("u", "banned"),
        {"event": "user_disconnected", "reason": "banned"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "event"), CALLS)
def test_events(call: Callable[[Publisher], int], event: dict[str, Any]) -> None:
    assert publish(call) == ("typelets:user:u", event)
    assert publish(call, "notes:")[0] == "notes:user:u"


def test_every_kind_of_event_has_a_method() -> None:
    told = {event["event"] for _, event in CALLS}
    assert told == {str(kind.__struct_config__.tag) for kind in events.EVENTS}


def test_a_revoked_session_is_barred_before_it_is_reported() -> None:
    client = Client()
    Publisher(client, prefix="n:").revoke_session("u", "s", keep_s=60)  # type: ignore[arg-type]
    assert client.sent[0] == ("SET", "n:barred:s", b"1", "EX", 60)


def test_bytes_travel_as_they_are() -> None:
    text = b'{"odd" : 1.0e0,\n"a":"\\u00e9\xc3\xa9", "a": 2}'
    assert bytes(data(text, "x", anything)) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (
            datetime(2026, 1, 2, 3, 4, 5, 678_999),  # noqa: DTZ001 - naive means UTC
            "2026-01-02T03:04:05.678Z",
        ),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00.000Z"),
        (
            datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-01T22:00:00.000Z",
        ),
    ],
)
def test_moments(moment: datetime, text: str) -> None:
    assert json.loads(bytes(data({"at": [moment]}, "x", anything))) == {"at": [text]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{}", "x: expected a mapping, or JSON"),
        (b"[]", "x: expected JSON of an object"),
        (b"{", "x: expected JSON of an object"),
        (b'{"a":"\xff"}', "x: expected JSON of an object"),
        (b'{"a":NaN}', "x: expected JSON of an object"),
        ({"a": {"b": [1, {2}]}}, r"x\.a\.b\[1\]: set cannot be sent as JSON"),
        ({"a": math.nan}, r"x\.a: float cannot"),
        ({"a": 2**64}, r"x\.a: int cannot"),
        ({"a": "\ud800"}, r"x\.a: expected text that UTF-8 can hold"),
        ({1: 2}, "x: a key: expected text"),
    ],
)
def test_what_is_no_data_is_named(wrong: object, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        data(wrong, "x", anything)


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(ValueError, match=r"^x: nested too deep"):
        data(circle, "x", anything)


OTHER = "00000000-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": OTHER}, f"updated_note.id: {OTHER} is not the id of the event"),
        ({"id": "7"}, "updated_note.id: expected a UUID"),
        ({"userId": "bob"}, "updated_note.userId: expected the user"),
        ({"folderId": "inbox"}, "updated_note.folderId: expected a UUID"),
        ({"updatedAt": "2026-01-02 03:04:05"}, "updated_note.updatedAt: expected a da"),
        (
            {"updatedAt": "2026-02-30T03:04:05.678Z"},
            "updated_note.updatedAt: expected ",
        ),
        ({"tags": "{a,b}"}, "updated_note.tags: expected a list of texts, or null"),
        ({"tags": ["a", 5]}, "updated_note.tags: expected a list of texts, or null"),
        ({"createdAt": None}, "updated_note.createdAt: expected a datetime"),
        ({"createdAt": 1_700_000_000}, "updated_note.createdAt: expected a datetime"),
        ({"hiddenAt": "soon"}, "updated_note.hiddenAt: expected a datetime"),
        ({"starred": 1}, "updated_note.starred: expected true, false or null"),
        ({"title": None}, "updated_note.title: expected text"),
        ({"iv": 1}, "updated_note.iv: expected text or null"),
        (
            {"user_id": "u", "encrypted_title": "x"},
            "updated_note: names of database columns: user_id (write userId), encryp",
        ),
    ],
)
def test_a_note_that_is_not_right_is_named_and_not_sent(
    changed: dict[str, object], told: str
) -> None:
    client = Client()
    note = {**NOTE, **changed}
    for given_note in (note, json.dumps(note).encode()):
        with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
            Publisher(client).notify_note_update("u", ID, {}, given_note)  # type: ignore[arg-type]
    assert not client.sent


def test_flags_of_a_note_may_be_null_as_their_columns_may() -> None:
    client = Client()
    note = NOTE | dict.fromkeys(("starred", "archived", "deleted", "hidden"))
    Publisher(client).notify_note_update("u", ID, {}, note)  # type: ignore[arg-type]
    assert len(client.sent) == 1


def test_missing_keys_of_a_note_are_named() -> None:
    note = {key: NOTE[key] for key in NOTE if key not in {"iv", "tags"}}
    with pytest.raises(ValueError, match=r"^note_data: iv, tags missing of"):
        Publisher(Client()).notify_note_created("u", note)  # type: ignore[arg-type]


def test_changes_and_folders_are_checked_too() -> None:
    publisher = Publisher(Client())  # type: ignore[arg-type]
    calls: list[tuple[Callable[[], int], str]] = [
        (lambda: publisher.notify_note_update("u", ID, {"folder_id": None}, NOTE),
         "changes: names of database columns: folder_id (write folderId)"),
        (lambda: publisher.notify_note_update("u", ID, {"updatedAt": "x"}, NOTE),
         "changes.updatedAt: expected a datetime"),
        (lambda: publisher.notify_folder_created("u", {"name": "n"}),
         "folder_data.id: expected a UUID"),
        (lambda: publisher.notify_folder_created("u", {"id": ID, "userId": "bob"}),
         "folder_data.userId: expected the user"),
        (lambda: publisher.notify_folder_updated("u", ID, {}, {"id": OTHER}),
         "updated_folder.id: "),
        (lambda: publisher.notify_folder_updated("u", ID, {"parent_id": None}),
         "changes: names of database columns: parent_id"),
    ]  # fmt: skip
    for call, told in calls:
        with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
            call()


def test_a_row_as_psycopg_gives_it_becomes_wire_format() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_999)  # noqa: DTZ001 - without a zone
    row = {**NOTE, "id": UUID(ID), "createdAt": at, "updatedAt": at, "hiddenAt": at}
    _, event = publish(lambda p: p.notify_note_created("u", row))
    assert event["noteData"] == {**NOTE, "hiddenAt": NOTE["createdAt"]}


def test_the_keys_are_those_of_the_schema() -> None:
    assert set(NOTE_KEYS) == set(json_schema()["$defs"]["Note"]["properties"])


class Refusing(Client):
    """A Redis that takes nothing."""

    error: Exception = redis.ConnectionError("MARKER")

    def publish(self, channel: str, payload: bytes) -> int:
        raise self.error


def test_a_failure_is_counted_and_reported_and_raises_nothing() -> None:
    told: list[Failure] = []
    publisher = Publisher(Refusing(), on_failure=told.append)  # type: ignore[arg-type]
    assert publisher.notify_note_deleted("u", ID) == 0
    assert publisher.disconnect_user("v") == 0
    assert [(each.user_id, each.event) for each in told] == [
        ("u", "note_deleted"),
        ("v", "user_disconnected"),
    ]
    assert (publisher.failures, publisher.pending, publisher.forgotten) == (2, 2, 0)
    publisher.close()


def test_a_hook_that_fails_is_not_the_requests_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: Failure) -> None:
        raise RuntimeError("of the hook")

    publisher = Publisher(Refusing(), on_failure=broken)  # type: ignore[arg-type]
    assert publisher.notify_note_deleted("u", ID) == 0
    assert "on_failure failed" in caplog.text
    publisher.close()


def test_errors_are_raised_to_those_who_ask_for_them() -> None:
    publisher = Publisher(Refusing(), raise_errors=True)  # type: ignore[arg-type]
    with pytest.raises(redis.ConnectionError, match="MARKER"):
        publisher.notify_note_deleted("u", ID)
    assert publisher.failures == 1
    publisher.close()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda p: p.notify_note_deleted("", ID), "user_id"),
        (lambda p: p.notify_note_deleted(7, ID), "user_id"),
        (lambda p: p.notify_note_deleted("u", None), "note_id"),
        (lambda p: p.notify_note_update("u", ID, None, {}), "changes"),
        (lambda p: p.notify_note_update("u", ID, {}, "x"), "updated_note"),
        (lambda p: p.notify_note_deleted("a b", ID), "user_id"),
        (lambda p: p.notify_note_deleted("u", "5"), "note_id"),
        (lambda p: p.notify_note_deleted("u", ID.replace("-", "")), "note_id"),
        (lambda p: p.notify_note_created("u", []), "note_data"),
        (lambda p: p.notify_folder_created("u", 1), "folder_data"),
        (lambda p: p.notify_folder_updated("u", 1), "folder_id"),
        (lambda p: p.notify_folder_updated("u", ID, 1), "changes"),
        (lambda p: p.notify_folder_updated("u", ID, {}, 1), "updated_folder"),
        (lambda p: p.notify_folder_deleted("u", b"x"), "folder_id"),
        (lambda p: p.notify_note_deleted("u", ID, from_user_id=1), "from_user_id"),
        (
            lambda p: p.notify_note_deleted("u", ID, except_connection_id=5),
            "except_connection_id",
        ),
        (lambda p: p.revoke_session("u", None), "session_id"),
        (lambda p: p.revoke_session("u", "s", keep_s=0), "keep_s"),
        (lambda p: p.revoke_session("u", "s", keep_s=True), "keep_s"),
        (lambda p: p.disconnect_user("u", 1), "reason"),
        (lambda p: p.require_resync("u", ""), "reason"),
    ],
)
def test_mistakes_are_named_and_nothing_is_sent(
    call: Callable[[Any], int], name: str
) -> None:
    client = Client()
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call(Publisher(client))  # type: ignore[arg-type]
    assert not client.sent
