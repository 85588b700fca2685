"""The protocol as an AsyncAPI 3.0 document.

The daemon is the application of the document. It receives the messages of clients and
the events of the REST service, and sends the rest. Payloads are from `json_schema`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from ..protocol import client_messages, events, messages
from ..protocol.errors import CloseCode
from .json_schema import CLOSE_CODES, Schema, SignedMessage, definitions, name_of

__all__ = ["asyncapi"]

REPLIES: Final[Mapping[type[Struct], tuple[type[Struct], ...]]] = {
    client_messages.Auth: (messages.AuthSuccess, messages.AuthFailed),
    client_messages.Ping: (messages.Pong,),
    client_messages.JoinNote: (messages.NoteJoined,),
    client_messages.LeaveNote: (messages.NoteLeft,),
    client_messages.NoteUpdate: (messages.NoteUpdateSuccess,),
    **dict.fromkeys(
        (
            client_messages.NoteCreated, client_messages.NoteDeleted,
            client_messages.FolderCreated, client_messages.FolderUpdated,
            client_messages.FolderDeleted,
        ),
        (messages.Announced,),
    ),
    client_messages.Sync: (messages.SyncPage,),
}  # fmt: skip
"""The replies to each message, besides `error`."""

Kinds = tuple[type[Struct], ...]


def asyncapi(version: str, prefix: str = "typelets:") -> Schema:
    """The document for a version of the daemon; `prefix` is `redis.prefix`."""
    spoken: Kinds = (
        *client_messages.CLIENT_MESSAGES,
        *messages.SERVER_MESSAGES,
        SignedMessage,
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Typelets WS",
            "version": version,
            "description": "Keeps the notes on all of a person's devices in step.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "daemon": {"host": "ws.example.com", "protocol": "wss"},
            "redis": {"host": "redis.example.com:6379", "protocol": "redis"},
        },
        "channels": {
            "device": {
                "address": "/",
                "title": "One device of one user; any path will do",
                "servers": [{"$ref": "#/servers/daemon"}],
                "messages": _by_name(spoken),
                "x-close-codes": _close_codes(),
            },
            "user": {
                "address": prefix + "user:{userId}",
                "title": "All devices of one user, on every process",
                "servers": [{"$ref": "#/servers/redis"}],
                "parameters": {"userId": {"description": "The token's `sub`."}},
                "messages": _by_name(events.EVENTS),
            },
        },
        "operations": _operations(),
        "components": {
            "messages": {
                name_of(kind): _message(kind) for kind in (*spoken, *events.EVENTS)
            },
            "schemas": definitions("#/components/schemas/"),
        },
    }


def _message(kind: type[Struct]) -> Schema:
    described: Schema = {
        "summary": (kind.__doc__ or "").strip().splitlines()[0],
        "payload": {"$ref": f"#/components/schemas/{name_of(kind)}"},
    }
    tag = kind.__struct_config__.tag
    return described if tag is None else {"name": str(tag), **described}


def _by_name(kinds: Iterable[type[Struct]]) -> Schema:
    return {
        name_of(kind): {"$ref": f"#/components/messages/{name_of(kind)}"}
        for kind in kinds
    }


def _operations() -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for kind in client_messages.CLIENT_MESSAGES:
        answers: Kinds = (*REPLIES[kind], messages.Error)
        operation = _operation("receive", "device", [kind])
        operation["reply"] = {
            "channel": {"$ref": "#/channels/device"},
            "messages": _refs("device", answers),
        }
        found[f"receive{name_of(kind)}"] = operation
    found["receiveSigned"] = _operation("receive", "device", [SignedMessage])
    replies = {each for some in REPLIES.values() for each in some}
    for sent in messages.SERVER_MESSAGES:
        if sent not in {*replies, messages.Error}:
            found[f"send{name_of(sent)}"] = _operation("send", "device", [sent])
    for event in events.EVENTS:
        found[f"receive{name_of(event)}"] = _operation("receive", "user", [event])
    return found


def _operation(
    action: str, channel: str, kinds: Iterable[type[Struct]]
) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": _refs(channel, kinds),
    }


def _refs(channel: str, kinds: Iterable[type[Struct]]) -> list[Schema]:
    return [
        {"$ref": f"#/channels/{channel}/messages/{name_of(kind)}"} for kind in kinds
    ]


def _close_codes() -> Schema:
    return {str(code.value): CLOSE_CODES[code] for code in CloseCode}
