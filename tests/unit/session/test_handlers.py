"""Each message's handler: message in, outcome or refusal out, nothing sent."""

import asyncio
import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.fakes import FOLDER, NOTE, NOW_MS, UNOWNED, Stubs, live
from typelets_ws.config.model import Config, Messages
from typelets_ws.ports import Identity, Missing, StoreError, VersionedRow
from typelets_ws.protocol import client_messages, decoding, events, messages
from typelets_ws.protocol.errors import ClientError, Code
from typelets_ws.protocol.messages import encode
from typelets_ws.session import handlers
from typelets_ws.session.outcome import Outcome
from typelets_ws.session.session import Session
from typelets_ws.session.signing import NonceRegistry


def session_of(world: Stubs, user: str) -> Session:
    session = world.session()
    session.auth_succeeded(
        Identity(user, None, 0),
        client_messages.Auth(token="t"),
        NonceRegistry(live(nonces_per_user=1)),
        NOW_MS,
    )
    return session


def handle(
    world: Stubs,
    message: dict[str, Any],
    user: str = "alice",
    session: Session | None = None,
) -> Outcome:
    decoded = decoding.decode(json.dumps(message).encode())
    session = session or session_of(world, user)
    return asyncio.run(handlers.handle(world.context(), session, decoded))


def refused(world: Stubs, message: dict[str, Any], user: str = "alice") -> ClientError:
    with pytest.raises(ClientError) as caught:
        handle(world, message | {"requestId": "r"}, user)
    assert caught.value.request_id == "r"
    return caught.value


def reply_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.reply is not None
    found = json.loads(messages.encode(outcome.reply))
    assert isinstance(found, dict)
    return found


def event_of(outcome: Outcome) -> dict[str, Any]:
    """The event, without the fields that every event has."""
    assert outcome.event is not None
    found = json.loads(events.encode(outcome.event))
    assert found.pop("fromUserId") == "alice"
    assert found.pop("exceptConnectionId") == "c1"
    assert found.pop("publishedAt") == NOW_MS
    assert isinstance(found, dict)
    return found


def test_every_client_message_has_one_handler_of_its_name() -> None:
    tables: list[tuple[type[client_messages.ClientMessage], object]] = [
        *((kind, handler) for kind, (handler, _) in handlers.HANDLERS.items()),
        *handlers.IMMEDIATE.items(),
        *handlers.ATTACHING.items(),
    ]
    assert Counter(kind for kind, _ in tables) == Counter(
        client_messages.CLIENT_MESSAGES
    )
    for kind, handler in tables:
        assert getattr(handler, "__name__", "") == kind.__struct_config__.tag


def test_ping() -> None:
    world = Stubs()
    message = client_messages.Ping(requestId="r")
    pong = handlers.ping(world.context(), session_of(world, "alice"), message)
    text = f'{{"type":"pong","requestId":"r","timestamp":{NOW_MS}}}'
    assert messages.encode(pong) == text.encode()


def test_join_note_and_leave_note() -> None:
    world = Stubs()
    outcome = handle(world, {"type": "join_note", "noteId": NOTE, "requestId": "r"})
    assert reply_of(outcome)["requestId"] == "r"
    assert (outcome.event, outcome.row) == (None, None)
    no = refused(world, {"type": "join_note", "noteId": NOTE}, "bob")
    assert (no.code, no.note_id) == (Code.NOT_FOUND, NOTE)
    gone = refused(world, {"type": "join_note", "noteId": UNOWNED})
    assert gone.message == no.message
    left = handle(world, {"type": "leave_note", "noteId": UNOWNED})
    assert reply_of(left) == {"type": "note_left", "noteId": UNOWNED}


def test_note_update() -> None:
    world = Stubs()
    changes = {"title": "x", "tags": [], "evil": 1}
    message = {"type": "note_update", "noteId": NOTE, "changes": changes}
    outcome = handle(world, message)
    at = "2026-01-01T00:00:00.001Z"
    row = {"id": NOTE, "title": "x", "updatedAt": at}
    assert world.store.written == [{"title": "x"}]
    assert reply_of(outcome) == {
        "type": "note_update_success", "noteId": NOTE, "updatedNote": row,
        "timestamp": NOW_MS,
    }  # fmt: skip
    assert event_of(outcome) == {
        "event": "note_updated", "noteId": NOTE, "updatedNote": row, "version": at,
        "changes": {"title": "x", "updatedAt": at},
    }  # fmt: skip
    assert outcome.row == VersionedRow(msgspec.json.encode(row), at)
    for name in ("tags", "other"):
        assert world.figure("filtered_fields_total", field=name) == 1


def test_an_update_with_nothing_left_is_refused_and_counted() -> None:
    world = Stubs()
    message = {"type": "note_update", "noteId": NOTE, "changes": {"tags": [], "x": 1}}
    assert refused(world, message).message == "No valid fields to update"
    assert world.figure("filtered_fields_total", field="tags") == 1
    assert world.figure("filtered_fields_total", field="other") == 1


def test_an_update_with_a_base_applies_to_that_version_only() -> None:
    world = Stubs()
    based = {"type": "note_update", "noteId": NOTE, "changes": {"title": "x"}}
    written = handle(world, based).row
    assert written is not None
    refusal = refused(world, {**based, "baseUpdatedAt": "2026-01-01T00:00:00.000Z"})
    assert (refusal.code, refusal.updated_note) == (Code.CONFLICT, written.row)
    again = handle(world, {**based, "baseUpdatedAt": written.updated_at}).row
    assert again is not None
    assert again.updated_at > written.updated_at


def test_an_update_of_very_many_fields_is_charged_as_many_messages() -> None:
    world = Stubs()
    session = session_of(world, "alice")
    changes = {f"key{i}": 1 for i in range(100_000)}
    message = {"type": "note_update", "noteId": NOTE, "changes": changes}
    with pytest.raises(ClientError, match="No valid fields"):
        handle(world, message, session=session)
    assert world.figure("filtered_fields_total", field="other") == 100_000
    verdict = session.count(1, 0)
    assert isinstance(verdict, ClientError)
    assert verdict.code is Code.RATE_LIMITED


def test_note_update_that_is_refused() -> None:
    world = Stubs()
    message: dict[str, Any] = {
        "type": "note_update", "noteId": NOTE, "changes": {"folderId": FOLDER},
    }  # fmt: skip
    world.store.answer = Missing.FOLDER
    no = refused(world, message)
    assert (no.code, no.folder_id, no.note_id) == (Code.NOT_FOUND, FOLDER, NOTE)
    world.store.answer = Missing.NOTE
    no = refused(world, message)
    assert (no.code, no.folder_id, no.note_id) == (Code.NOT_FOUND, None, NOTE)
    assert refused(world, message | {"changes": None}).code is Code.INVALID_FIELD
    rules = Messages(require_encrypted=True)
    world.live.current = Config(messages=rules)
    no = refused(world, message | {"changes": {"title": "plain"}})
    assert no.message == "title must be encrypted"


def test_a_store_that_is_down_is_reported_with_an_id_for_the_log() -> None:
    world = Stubs()
    world.store.answer = StoreError("timeout")
    message = {"type": "note_update", "noteId": NOTE, "changes": {"title": "x"}}
    no = refused(world, message)
    assert (no.code, no.message) == (Code.UNAVAILABLE, "Failed to update note")
    assert len(no.correlation_id or "") == 16
    assert no.note_id == NOTE
    assert isinstance(no.__cause__, StoreError)


@pytest.mark.parametrize(
    ("name", "data", "one_id", "own"),
    [
        ("note_created", "noteData", "noteId", NOTE),
        ("folder_created", "folderData", "folderId", FOLDER),
    ],
)
def test_creations(name: str, data: str, one_id: str, own: str) -> None:
    world = Stubs()
    for content in ({"id": own}, {"id": UNOWNED, "userId": "alice"}):
        outcome = handle(world, {"type": name, data: content})
        assert (outcome.reply, outcome.row) == (None, None)
        assert event_of(outcome) == {"event": name, data: content}
    assert handle(world, {"type": name, data: {"id": own}, one_id: own}).event
    for without in ({}, {"id": None}, {"id": ""}):
        no = refused(world, {"type": name, data: without, one_id: own})
        assert (no.code, no.message) == (Code.INVALID_FIELD, f"Missing {one_id}")
    foreign = refused(world, {"type": name, data: {"id": own}}, "bob")
    data_of_nobody = {"id": UNOWNED}
    beside = refused(world, {"type": name, data: data_of_nobody, one_id: own}, "bob")
    claimed = refused(world, {"type": name, data: {"userId": "bob"}})
    for no in (foreign, beside, claimed):
        assert no.code is Code.ACCESS_DENIED
    assert refused(world, {"type": name}).message == f"Missing {data}"


@pytest.mark.parametrize(
    ("name", "one_id", "own"),
    [
        ("note_deleted", "noteId", NOTE),
        ("folder_deleted", "folderId", FOLDER),
        ("folder_updated", "folderId", FOLDER),
    ],
)
def test_deletions_and_updates_of_folders(name: str, one_id: str, own: str) -> None:
    world = Stubs()
    for row_id in (own, own.upper(), UNOWNED):
        outcome = handle(world, {"type": name, one_id: row_id})
        assert outcome.reply is None
        assert event_of(outcome) == {"event": name, one_id: row_id.lower()}
    no = refused(world, {"type": name, one_id: own}, "bob")
    assert no.code is Code.NOT_FOUND
    assert own in {no.note_id, no.folder_id}
    assert refused(world, {"type": name}).message == f"Missing {one_id}"


@pytest.mark.parametrize(
    ("message", "one_id"),
    [
        ({"type": "note_created", "noteData": {"id": NOTE}}, "noteId"),
        ({"type": "note_deleted", "noteId": NOTE}, "noteId"),
        ({"type": "folder_created", "folderData": {"id": FOLDER}}, "folderId"),
        ({"type": "folder_updated", "folderId": FOLDER, "changes": {}}, "folderId"),
        ({"type": "folder_deleted", "folderId": FOLDER}, "folderId"),
    ],
)
def test_an_announcement_is_acknowledged_on_request(
    message: dict[str, Any], one_id: str
) -> None:
    world = Stubs()
    assert handle(world, message).announced is None
    announced = handle(world, {**message, "requestId": "r"}).announced
    assert announced is not None
    expected = {"type": "announced", "requestId": "r", "timestamp": NOW_MS}
    row_id = NOTE if one_id == "noteId" else FOLDER
    assert json.loads(encode(announced)) == {**expected, one_id: row_id}


def test_an_update_without_changes() -> None:
    world = Stubs()
    for message in ({}, {"changes": None}):
        no = refused(world, {"type": "note_update", "noteId": NOTE, **message})
        assert (no.code, no.message) == (Code.INVALID_FIELD, "Missing changes")


def test_folder_updated_passes_on_what_came() -> None:
    message = {"type": "folder_updated", "folderId": FOLDER, "changes": {"a": 1}}
    event = event_of(handle(Stubs(), message | {"updatedFolder": {"b": 2}}))
    assert (event["changes"], event["updatedFolder"]) == ({"a": 1}, {"b": 2})
    assert "updatedFolder" not in event_of(handle(Stubs(), message))


def test_what_one_decoder_takes_and_the_next_does_not_is_refused() -> None:
    deep = msgspec.Raw(b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")
    message = client_messages.NoteCreated(noteData=deep, requestId="r")
    world = Stubs()
    with pytest.raises(ClientError) as caught:
        asyncio.run(
            handlers.handle(world.context(), session_of(world, "alice"), message)
        )
    assert caught.value.code is Code.INVALID_MESSAGE
    assert caught.value.request_id == "r"


def test_leave_note_needs_an_id() -> None:
    message = {"type": "leave_note", "noteId": "nonsense"}
    assert refused(Stubs(), message).code == Code.INVALID_FIELD


def test_the_reply_to_an_announcement_that_redis_did_not_take() -> None:
    text = json.dumps({"type": "note_deleted", "noteId": NOTE, "requestId": "r"})
    reply = handlers.not_announced(decoding.decode(text.encode()))
    assert (reply.code, reply.requestId) == (Code.UNAVAILABLE, "r")
