"""What goes over Redis, and that nothing half right does."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from typelets_ws import events
from typelets_ws.publisher import Publisher
from typelets_ws.publisher_data import data
from typelets_ws.schema import json_schema

ID = "00000000-0000-4000-8000-000000000001"
NOW = 1_767_225_600.1239


class Pipeline:
    """Stands in for redis-py's: remembers what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def pipeline(self, *, transaction: bool) -> "Pipeline":
        assert not transaction  # an ACL need not allow MULTI
        return self

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set(self, key: str, value: bytes, *, ex: int) -> None:
        self.sent.append(("SET", key, value, "EX", ex))

    def publish(self, channel: str, payload: bytes) -> None:
        self.sent.append((channel, payload))

    def execute(self) -> list[int]:
        return [0] * (len(self.sent) - 1) + [3]


def publish(
    call: Callable[[Publisher], int], prefix: str = "typelets:"
) -> tuple[str, dict[str, Any]]:
    """Channel and event of one publication."""
    pipeline = Pipeline()
    publisher = Publisher(pipeline, prefix=prefix, clock=lambda: NOW)  # type: ignore[arg-type]
    assert call(publisher) == 3
    channel, payload = pipeline.sent[-1]
    events.decode(payload)
    event = json.loads(payload)
    schema = {**json_schema(), "$ref": f"#/$defs/{type_name(event)}"}
    assert event.pop("publishedAt") == 1_767_225_600_123
    if "updatedNote" not in event:  # the tests' notes are not whole
        Draft202012Validator(schema).validate(event)
    return channel, event


def type_name(event: dict[str, Any]) -> str:
    return "".join(map(str.title, event["event"].split("_"))) + "Event"


CALLS: list[tuple[Callable[[Publisher], int], dict[str, Any]]] = [
    (
        lambda p: p.notify_note_update(
            "u", UUID(ID), {"starred": True}, b' {"id" : 1.0} ', from_user_id="u",
            except_connection_id="c",
        ),
        {"event": "note_updated", "fromUserId": "u", "exceptConnectionId": "c",
         "noteId": ID, "changes": {"starred": True}, "updatedNote": {"id": 1.0}},
    ),
    (
        lambda p: p.notify_note_created("u", {"id": UUID(ID)}),
        {"event": "note_created", "noteData": {"id": ID}},
    ),
    (
        lambda p: p.notify_note_deleted("u", ID),
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


def test_a_revoked_session_is_barred_before_it_is_told() -> None:
    pipeline = Pipeline()
    Publisher(pipeline, prefix="n:").revoke_session("u", "s", keep_s=60)  # type: ignore[arg-type]
    assert pipeline.sent[0] == ("SET", "n:barred:s", b"1", "EX", 60)


def test_bytes_travel_as_they_are() -> None:
    text = b'{"odd" : 1.0e0,\n"a":"\\u00e9\xc3\xa9", "a": 2}'
    assert bytes(data(text, "x")) == text


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
    assert json.loads(bytes(data({"at": [moment]}, "x"))) == {"at": [text]}


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
        data(wrong, "x")


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(ValueError, match=r"^x: nested too deep"):
        data(circle, "x")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda p: p.notify_note_deleted("", ID), "user_id"),
        (lambda p: p.notify_note_deleted(7, ID), "user_id"),
        (lambda p: p.notify_note_deleted("u", None), "note_id"),
        (lambda p: p.notify_note_update("u", ID, None, {}), "changes"),
        (lambda p: p.notify_note_update("u", ID, {}, "x"), "updated_note"),
        (lambda p: p.notify_note_created("u", []), "note_data"),
        (lambda p: p.notify_folder_created("u", 1), "folder_data"),
        (lambda p: p.notify_folder_updated("u", 1), "folder_id"),
        (lambda p: p.notify_folder_updated("u", ID, 1), "changes"),
        (lambda p: p.notify_folder_updated("u", ID, {}, 1), "updated_folder"),
        (lambda p: p.notify_folder_deleted("u", b"x"), "folder_id"),
        (lambda p: p.notify_note_deleted("u", ID, from_user_id=1), "from_user_id"),
        (
            lambda p: p.notify_note_deleted("u", ID, except_connection_id=""),
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
    pipeline = Pipeline()
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call(Publisher(pipeline))  # type: ignore[arg-type]
    assert not pipeline.sent
