"""The protocol as JSON Schema, made from the types that the daemon decodes with.

Invariant: no message is described twice. Names, fields and types come from `protocol`,
all else from `described`. `asyncapi` and `typescript` use these definitions.
Tested by tests/unit/schema/test_json_schema.py.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Raw, Struct, UnsetType, structs

from ..protocol import client_messages, events, messages
from ..protocol.errors import CloseCode, Code
from ..protocol.fields import ALLOWED
from .described import (
    CLOSE_CODES,
    CODES,
    DATA,
    ID_LISTS,
    INSIDE,
    LISTS,
    NAMES,
    OPTIONAL,
    OPTIONAL_NAMES,
    REMARKS,
    Folder,
    Note,
    SignedMessage,
)  # fmt: skip

__all__ = [
    "CLOSE_CODES", "CODES", "Note", "Schema", "SignedMessage", "definitions",
    "json_schema", "name_of",
]  # fmt: skip

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UUID: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
}


def name_of(kind: type[Struct]) -> str:
    """The name of a type in all documents."""
    return NAMES.get(kind.__name__, kind.__name__)


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
            ("ClientMessage", client_messages.CLIENT_MESSAGES),
            ("ServerMessage", messages.SERVER_MESSAGES),
            ("ServiceEvent", events.EVENTS),
        ]
        for group, kinds in groups:
            for kind in kinds:
                yield from self._with_nested(kind)
            yield group, {"oneOf": [self._ref(name_of(kind)) for kind in kinds]}
        yield "SignedMessage", self._object(SignedMessage)

    def _with_nested(self, kind: type[Struct]) -> Iterator[tuple[str, Schema]]:
        """The definition of a type, preceded by those of its fields."""
        for field in structs.fields(kind):
            for nested in _structs(field):
                yield from self._with_nested(nested)
        yield name_of(kind), self._object(kind)

    def _ref(self, name: str) -> Schema:
        return {"$ref": self._prefix + name}

    def _object(self, kind: type[Struct]) -> Schema:
        """The struct's fields. Receivers ignore others: later versions add some."""
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
        inside = INSIDE.get((kind, field.name)) or DATA.get(field.name)
        if inside is not None:
            return self._ref(inside)
        for nested in _structs(field):
            return self._ref(name_of(nested))
        if field.name in LISTS:
            return {"type": "array", "items": self._ref(LISTS[field.name])}
        if field.name in ID_LISTS:
            return {"type": "array", "items": UUID}
        if get_origin(field.type) is Literal:
            return self._ref(kind.__name__ + field.name.capitalize())
        types = set(get_args(field.type) or (field.type,))
        if Code in types:
            return self._ref("Code")
        if Raw in types:
            return {"type": "object"}
        schema = _plain(kind, field)
        if field.name in REMARKS:
            schema = {**schema, "description": REMARKS[field.name]}
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


def _structs(field: structs.FieldInfo) -> list[type[Struct]]:
    """The struct types of a field."""
    types = get_args(field.type) or (field.type,)
    return [t for t in types if isinstance(t, type) and issubclass(t, Struct)]


def _plain(kind: type[Struct], field: structs.FieldInfo) -> Schema:
    """A field that is a text, a number or a boolean."""
    if not issubclass(kind, client_messages.ClientMessage):
        types = [each for each in get_args(field.type) if each is not UnsetType]
        return msgspec.json.schema(types[0] if len(types) == 1 else field.type)
    if field.name == "requestId":
        text = {"type": "string", "maxLength": messages.ECHO_LENGTH}
        return {"anyOf": [text, {"type": "null"}]}
    if field.name in {"noteId", "folderId"}:
        return UUID
    return msgspec.json.schema(field.type)


def _must_be_there(kind: type[Struct], field: structs.FieldInfo) -> bool:
    if issubclass(kind, client_messages.ClientMessage):
        optional = field.name in OPTIONAL_NAMES or (kind, field.name) in OPTIONAL
        return not optional
    if issubclass(kind, messages.ServerMessage):
        return UnsetType not in get_args(field.type)
    return field.required


def _choices(kind: type[Struct], name: str) -> Schema:
    """The values of a `Literal` field."""
    (found,) = (f for f in structs.fields(kind) if f.name == name)
    one_of = [{"const": value, "title": value} for value in get_args(found.type)]
    return {"description": f"`{name}` of `{kind.__name__}`.", "oneOf": one_of}


def _enumeration(kind: type[Enum], meanings: Mapping[Any, str]) -> Schema:
    one_of = [
        {"const": member.value, "title": member.name, "description": meanings[member]}
        for member in kind
    ]
    return {"description": (kind.__doc__ or "").strip(), "oneOf": one_of}
