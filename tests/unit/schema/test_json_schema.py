"""The documents hold together, and describe what the daemon really speaks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from msgspec import Raw, structs

from typelets_ws import __version__
from typelets_ws.postgres.sql import COLUMNS
from typelets_ws.protocol import client_messages, events, messages, replies
from typelets_ws.protocol.errors import ClientError, CloseCode, Code
from typelets_ws.protocol.fields import ALLOWED
from typelets_ws.schema.asyncapi import asyncapi
from typelets_ws.schema.command import schema_command
from typelets_ws.schema.json_schema import (
    CLOSE_CODES,
    CODES,
    Note,
    json_schema,
    name_of,
)
from typelets_ws.schema.typescript import typescript

KINDS = (*client_messages.CLIENT_MESSAGES, *messages.SERVER_MESSAGES, *events.EVENTS)
ID = "00000000-0000-4000-8000-000000000001"


def complaints(name: str, value: object) -> list[str]:
    document = {**json_schema(), "$ref": f"#/$defs/{name}"}
    return [
        error.message for error in Draft202012Validator(document).iter_errors(value)
    ]


def test_the_json_schema_is_one() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_every_type_is_described_field_by_field(kind: type) -> None:
    described = json_schema()["$defs"][name_of(kind)]
    names = {field.name for field in structs.fields(kind)}
    assert set(described["properties"]) == names | {kind.__struct_config__.tag_field}  # type: ignore[attr-defined]
    assert described["description"]


def test_names_are_unique() -> None:
    assert len({name_of(kind) for kind in KINDS}) == len(KINDS)


def test_every_code_has_advice() -> None:
    assert set(CODES) == set(Code)
    assert set(CLOSE_CODES) == set(CloseCode)


def test_changes_are_what_the_daemon_writes() -> None:
    described = json_schema()["$defs"]["NoteChanges"]["properties"]
    assert list(described) == list(ALLOWED) == list(COLUMNS)


@pytest.mark.parametrize(
    ("message", "right"),
    [
        ({"type": "ping"}, True),
        ({"type": "ping", "requestId": "x" * 64}, True),
        ({"type": "ping", "requestId": "x" * 65}, False),
        ({"type": "pong"}, False),
        ({"type": "auth"}, False),
        ({"type": "join_note", "noteId": ID}, True),
        ({"type": "join_note", "noteId": "1"}, False),
        ({"type": "join_note", "noteId": None}, False),
        ({"type": "note_update", "noteId": ID, "changes": {"starred": True}}, True),
        ({"type": "note_update", "noteId": ID, "changes": {"starred": "yes"}}, False),
        ({"type": "note_update", "noteId": ID, "changes": {"folderId": ""}}, True),
        ({"type": "note_update", "noteId": ID, "changes": {"folderId": "1"}}, False),
        ({"type": "note_update", "noteId": ID, "changes": {}}, False),
        ({"type": "note_update", "noteId": ID, "changes": {"tags": []}}, True),
        ({"type": "note_created", "noteData": {"id": ID}}, True),
        ({"type": "note_created", "noteData": "text"}, False),
        ({"type": "folder_updated", "folderId": ID}, True),
    ],
)
def test_client_messages_are_reported_right_from_wrong(
    message: dict[str, Any], right: bool
) -> None:
    assert bool(complaints("ClientMessage", message)) is not right


def test_an_error_message_fits() -> None:
    refusal = ClientError(
        Code.RATE_LIMITED, "Slow down.", retry_after_ms=3, folder_id=ID
    )
    text = messages.encode(replies.error(refusal))
    assert complaints("ServerMessage", json.loads(text)) == []
    assert complaints("ServerMessage", {**json.loads(text), "code": "OTHER"})


def test_an_event_without_its_fields_does_not_fit() -> None:
    event = events.encode(events.NoteDeletedEvent(noteId=ID, fromUserId="a"))
    assert complaints("ServiceEvent", json.loads(event)) == []
    assert complaints("ServiceEvent", {"event": "note_deleted"})
    created = events.encode(events.NoteCreatedEvent(noteData=Raw(b'{"id":"1"}')))
    assert complaints("ServiceEvent", json.loads(created)) == []


def test_a_note_has_eighteen_keys() -> None:
    assert len(structs.fields(Note)) == 18
    assert len(json_schema()["$defs"]["Note"]["required"]) == 18


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inside in value.items():
            if key == "$ref":
                yield inside
            else:
                yield from references(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from references(inside)


@pytest.mark.parametrize("document", [json_schema(), asyncapi("1")], ids=["js", "aa"])
def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_asyncapi_tells_each_message_in_one_direction() -> None:
    document = asyncapi("1", "notes:")
    assert document["channels"]["user"]["address"] == "notes:user:{userId}"
    told: dict[str, set[str]] = {"receive": set(), "send": set()}
    for operation in document["operations"].values():
        spoken = set(references(operation["messages"]))
        told[operation["action"]] |= {each.rpartition("/")[2] for each in spoken}
        answers = references(operation.get("reply", {}).get("messages", []))
        told["send"] |= {each.rpartition("/")[2] for each in answers}
    received = (*client_messages.CLIENT_MESSAGES, *events.EVENTS)
    assert told["receive"] == {"SignedMessage", *map(name_of, received)}
    assert told["send"] == set(map(name_of, messages.SERVER_MESSAGES))
    assert document["channels"]["device"]["x-close-codes"]["4401"]


def test_typescript_declares_every_name() -> None:
    text = typescript("1")
    for name in json_schema()["$defs"]:
        assert f"export interface {name} {{" in text or f"export type {name} =" in text
    assert '  | "AUTH_REQUIRED"\n' in text
    assert "  | 4401" in text
    assert '  folderId?: string | "" | null;\n' in text


def test_the_command_prints_each_format() -> None:
    def printed(*arguments: str) -> str:
        result = CliRunner().invoke(schema_command, arguments)
        assert result.exit_code == 0
        return result.output

    assert json.loads(printed())["info"]["version"] == __version__
    assert json.loads(printed("--format", "json-schema")) == json_schema()
    assert printed("--format", "typescript") == typescript(__version__)
