"""The protocol as JSON Schema, made from the very types the daemon decodes with.

Law: no message is described twice. Names, fields and their types come from
`messages`, `events`, `errors` and `fields`; only what no type can say is written
here: what is inside the data that is passed on, which fields a client must send
although a missing one is answered rather than misread, and what to do about a code.
`asyncapi` and `typescript` tell the same in other words.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Raw, Struct, UnsetType, structs

from ..protocol import events, messages
from ..protocol.errors import CloseCode, Code
from ..protocol.fields import ALLOWED

__all__ = [
    "CLOSE_CODES", "CODES", "Schema", "definitions", "json_schema", "name_of",
]  # fmt: skip

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UUID: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
}

CODES: Final[Mapping[Code, str]] = {
    Code.AUTH_REQUIRED: "Send `auth` first.",
    Code.RATE_LIMITED: "Wait; `retryAfterMs` says how long, where it is known.",
    Code.MESSAGE_TOO_LARGE: "Send less at once.",
    Code.INVALID_MESSAGE: "Not a JSON object with a text `type`.",
    Code.UNKNOWN_TYPE: "There is no message of this `type`.",
    Code.INVALID_FIELD: "`message` names the field.",
    Code.NOT_FOUND: "There is none, or it is somebody else's.",
    Code.ACCESS_DENIED: "It is somebody else's.",
    Code.SIGNATURE_REJECTED: "Sign with the latest secret and a fresh nonce.",
    Code.UNAVAILABLE: "Nothing was done; try again later.",
    Code.TOO_MANY_DEVICES: "Close another device of this user, then reconnect.",
    Code.CONFLICT: "The note has changed; `updatedNote` is what is stored.",
    Code.CURSOR_EXPIRED: "Sync again without a cursor.",
    Code.INTERNAL: "Our mistake; the log has the `correlationId`.",
}
"""What an `error` asks of the client."""

CLOSE_CODES: Final[Mapping[CloseCode, str]] = {
    CloseCode.GOING_AWAY: "The daemon goes. Reconnect.",
    CloseCode.PROTOCOL_ERROR: "A broken WebSocket frame. Reconnect.",
    CloseCode.INVALID_DATA: "Text that is not UTF-8. Mend the client.",
    CloseCode.POLICY_VIOLATION: "A message was begun and not ended in time. Reconnect.",
    CloseCode.MESSAGE_TOO_BIG: "Far too large to be read. Send less at once.",
    CloseCode.INTERNAL_ERROR: "Our mistake. Reconnect after a pause.",
    CloseCode.RESTARTING: "The daemon restarts. Reconnect at once.",
    CloseCode.TOO_SLOW: "Too slow, or we are overloaded. Reconnect and fetch later.",
    CloseCode.UNAUTHENTICATED: "The token does not hold, or was revoked. "
    "Reconnect with a fresh one, or sign in again.",
    CloseCode.AUTH_TIMEOUT: "No valid `auth` in time. Reconnect and send it at once.",
    CloseCode.TOO_MANY: "Too many devices or messages. Reconnect after a long pause.",
}
"""What a close code asks of the client. 1000 is never sent first."""


class Note(Struct):
    """A whole note; timestamps are `YYYY-MM-DDTHH:MM:SS.mmmZ`."""

    id: str
    userId: str
    folderId: str | None
    title: str
    content: str | None
    type: str
    encryptedTitle: str | None
    encryptedContent: str | None
    iv: str | None
    salt: str | None
    starred: bool | None
    archived: bool | None
    deleted: bool | None
    hidden: bool | None
    hiddenAt: str | None
    tags: list[str] | None
    createdAt: str
    updatedAt: str


class Folder(Struct):
    """A whole folder; timestamps are `YYYY-MM-DDTHH:MM:SS.mmmZ`."""

    id: str
    userId: str
    name: str
    color: str | None
    parentId: str | None
    sortOrder: int
    isDefault: bool | None
    createdAt: str
    updatedAt: str


class SignedMessage(Struct):
    """A client message with its signature (base64 HMAC-SHA256)."""

    payload: Raw
    signature: str
    timestamp: float
    nonce: str


_INSIDE: Final[Mapping[tuple[type, str], str]] = {
    (SignedMessage, "payload"): "ClientMessage",
    (messages.NoteUpdate, "changes"): "NoteChanges",
    (messages.NoteSync, "changes"): "NotePatch",
    (messages.FolderUpdated, "changes"): "FolderPatch",
    (messages.FolderUpdatedSync, "changes"): "FolderPatch",
    (events.NoteUpdated, "changes"): "NotePatch",
    (events.FolderUpdated, "changes"): "FolderPatch",
}
"""What is inside the data that is passed on, where the field's name does not say it."""

_DATA: Final = {
    "noteData": "NoteData",
    "updatedNote": "Note",
    "folderData": "FolderData",
    "updatedFolder": "FolderData",
}
"""What is inside a field of this name; the daemon does not check it."""

_NAMES: Final = {"Error": "ErrorMessage"}  # JavaScript has a global `Error`

_OPTIONAL: Final = frozenset({
    (messages.NoteCreated, "noteId"), (messages.FolderCreated, "folderId"),
    (messages.FolderUpdated, "changes"), (messages.FolderUpdated, "updatedFolder"),
    (messages.NoteUpdate, "baseUpdatedAt"),
})  # fmt: skip
"""What a client may leave out. Everything else is answered with an error."""

_REMARKS: Final = {
    "requestId": "Comes back in the reply or error.",
    "timestamp": "ms since the epoch.",
    "publishedAt": "ms since the epoch.",
    "fromUserId": 'Who caused it; "server" for the REST service.',
    "exceptConnectionId": "The device that caused it, which is left out.",
    "version": "The daemon's own; leave it out.",
    "sessionId": "The token's `sid`.",
    "retryAfterMs": "ms to wait.",
    "correlationId": "The log line has the same.",
}


def name_of(kind: type[Struct]) -> str:
    """The name of a type in every document. Events end in Event."""
    suffix = "Event" if issubclass(kind, events.Event) else ""
    return _NAMES.get(kind.__name__, kind.__name__) + suffix


def definitions(prefix: str) -> dict[str, Schema]:
    """Every type by name; references to them begin with `prefix`."""
    return dict(_Definitions(prefix).all())


def json_schema() -> Schema:
    """One document: refer to `#/$defs/ClientMessage`, `ServerMessage` and so on."""
    return {
        "$schema": DIALECT,
        "title": "Typelets WS",
        "description": "Messages, events and codes of the WebSocket protocol.",
        "$defs": definitions("#/$defs/"),
    }


class _Definitions:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def all(self) -> Iterator[tuple[str, Schema]]:
        for whole in (Note, Folder):
            name = whole.__name__
            yield name, self._object(whole)
            text = f"A {name.lower()} as announced, whole if possible."
            yield f"{name}Data", self._part(whole, ["id"], text)
            text = f"Some fields of a {name.lower()}; lay them over your copy."
            yield f"{name}Patch", self._part(whole, [], text)
        yield "NoteChanges", self._changes()
        yield "AuthFailedReason", _choices(messages.AuthFailed, "reason")
        yield "Code", _enumeration(Code, CODES)
        yield "CloseCode", _enumeration(CloseCode, CLOSE_CODES)
        groups: list[tuple[str, tuple[type[Struct], ...]]] = [
            ("ClientMessage", messages.CLIENT_MESSAGES),
            ("ServerMessage", messages.SERVER_MESSAGES),
            ("ServiceEvent", events.EVENTS),
        ]
        for group, kinds in groups:
            for kind in kinds:
                yield name_of(kind), self._object(kind)
            yield group, {"oneOf": [self._ref(name_of(kind)) for kind in kinds]}
        yield "SignedMessage", self._object(SignedMessage)

    def _ref(self, name: str) -> Schema:
        return {"$ref": self._prefix + name}

    def _object(self, kind: type[Struct]) -> Schema:
        """The struct's own fields; others may be added and are to be ignored."""
        config = kind.__struct_config__
        properties: dict[str, Schema] = {}
        required: list[str] = []
        if config.tag is not None:
            properties[str(config.tag_field)] = {"const": config.tag}
            required.append(str(config.tag_field))
        for field in structs.fields(kind):
            properties[field.name] = self._field(kind, field)
            if _must_be_there(kind, field):
                required.append(field.name)
        return {
            "type": "object",
            "description": (kind.__doc__ or "").strip(),
            "properties": properties,
            "required": required,
        }

    def _field(self, kind: type[Struct], field: structs.FieldInfo) -> Schema:
        inside = _INSIDE.get((kind, field.name)) or _DATA.get(field.name)
        if inside is not None:
            return self._ref(inside)
        if get_origin(field.type) is Literal:
            return self._ref(kind.__name__ + field.name.capitalize())
        types = set(get_args(field.type) or (field.type,))
        if Code in types:
            return self._ref("Code")
        if Raw in types:
            return {"type": "object"}
        schema = _plain(kind, field)
        if field.name in _REMARKS:
            schema = {**schema, "description": _REMARKS[field.name]}
        return schema

    def _part(self, whole: type[Struct], required: list[str], text: str) -> Schema:
        described = self._object(whole)
        return {**described, "description": text, "required": required}

    def _changes(self) -> Schema:
        properties = {
            name: msgspec.json.schema(decoder.type) for name, decoder in ALLOWED.items()
        }
        properties["folderId"] = {"anyOf": [UUID, {"const": ""}, {"type": "null"}]}
        return {
            "type": "object",
            "description": "What a note update may change; other fields are left out.",
            "properties": properties,
            "minProperties": 1,
        }


def _plain(kind: type[Struct], field: structs.FieldInfo) -> Schema:
    """A field of text, number or truth."""
    if not issubclass(kind, messages.ClientMessage):
        types = [each for each in get_args(field.type) if each is not UnsetType]
        return msgspec.json.schema(types[0] if len(types) == 1 else field.type)
    if field.name == "requestId":
        text = {"type": "string", "maxLength": messages.ECHO_LENGTH}
        return {"anyOf": [text, {"type": "null"}]}
    if field.name in {"noteId", "folderId"}:
        return UUID
    return msgspec.json.schema(field.type)


def _must_be_there(kind: type[Struct], field: structs.FieldInfo) -> bool:
    if issubclass(kind, messages.ClientMessage):
        return field.name != "requestId" and (kind, field.name) not in _OPTIONAL
    if issubclass(kind, messages.ServerMessage):
        return UnsetType not in get_args(field.type)
    return field.required


def _choices(kind: type[Struct], name: str) -> Schema:
    """The values of a field that is one of a few texts."""
    (found,) = (f for f in structs.fields(kind) if f.name == name)
    one_of = [{"const": value, "title": value} for value in get_args(found.type)]
    return {"description": f"`{name}` of `{kind.__name__}`.", "oneOf": one_of}


def _enumeration(kind: type[Enum], meanings: Mapping[Any, str]) -> Schema:
    one_of = [
        {"const": member.value, "title": member.name, "description": meanings[member]}
        for member in kind
    ]
    return {"description": (kind.__doc__ or "").strip(), "oneOf": one_of}
