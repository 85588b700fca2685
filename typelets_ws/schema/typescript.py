"""The protocol as TypeScript types, for web and desktop clients.

Each definition of `json_schema` becomes an interface or a union of the same name.
Schemas of another form raise `KeyError`.
"""

import json
from collections.abc import Iterable
from typing import Final

from .json_schema import Schema, definitions

__all__ = ["typescript"]

PREFIX: Final = "#/"
WORDS: Final = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}


def typescript(version: str) -> str:
    """The text of a module of types; `version` is the version of the daemon."""
    parts = [f"/** The protocol of Typelets WS {version}. Generated; do not edit. */"]
    for name, schema in definitions(PREFIX).items():
        comment = schema.get("description")
        lines = [f"/** {' '.join(comment.split())} */"] if comment else []
        parts.append("\n".join([*lines, _declaration(name, schema)]))
    return "\n\n".join(parts) + "\n"


def _declaration(name: str, schema: Schema) -> str:
    if "properties" in schema:
        return f"export interface {name} {{\n{_members(schema)}}}"
    if all("const" in each for each in schema["oneOf"]):
        return f"export type {name} =\n{_enumerated(schema['oneOf'])};"
    return f"export type {name} =\n{_lines(map(_type, schema['oneOf']))};"


def _members(schema: Schema) -> str:
    lines = []
    for name, inside in schema["properties"].items():
        if "description" in inside:
            lines.append(f"  /** {inside['description']} */\n")
        mark = "" if name in schema.get("required", ()) else "?"
        lines.append(f"  {name}{mark}: {_type(inside)};\n")
    return "".join(lines)


def _enumerated(members: list[Schema]) -> str:
    lines = []
    for each in members:
        if "description" in each:
            lines.append(f"  /** {each['title']}: {each['description']} */")
        lines.append(f"  | {json.dumps(each['const'])}")
    return "\n".join(lines)


def _lines(types: Iterable[str]) -> str:
    return "\n".join(f"  | {each}" for each in types)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(PREFIX)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return _union(map(json.dumps, schema["enum"]))
    if "anyOf" in schema:
        return _union(map(_type, schema["anyOf"]))
    if schema["type"] == "array":
        return f"{_type(schema['items'])}[]"
    if schema["type"] == "object":
        # Not `unknown`: an interface of the app has no index signature.
        return "Record<string, any>"
    return WORDS[schema["type"]]


def _union(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types))
