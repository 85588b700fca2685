"""The protocol beyond its types: advice by code, rows, the contents of `Raw`.

Invariant: nothing here repeats a type of `protocol`. `json_schema` puts both together.
Tested by tests/unit/schema/test_json_schema.py.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw, Struct

from ..protocol import client_messages, events, messages
from ..protocol.errors import CloseCode, Code

__all__ = [
    "CLOSE_CODES", "CODES", "DATA", "ID_LISTS", "INSIDE", "LISTS", "NAMES", "OPTIONAL",
    "OPTIONAL_NAMES", "REMARKS", "Folder", "Note", "SignedMessage",
]  # fmt: skip

CODES: Final[Mapping[Code, str]] = {
    Code.AUTH_REQUIRED: "Send `auth` first.",
    Code.RATE_LIMITED: "Wait; `retryAfterMs` says how long, where it is known.",
    Code.MESSAGE_TOO_LARGE: "Send less at once.",
    Code.INVALID_MESSAGE: "Not a JSON object with a text `type`.",
    Code.UNKNOWN_TYPE: "There is no message of this `type`.",
    Code.INVALID_FIELD: "`message` names the field.",
    Code.NOT_FOUND: "No such row, or it belongs to another user.",
    Code.ACCESS_DENIED: "It belongs to another user.",
    Code.SIGNATURE_REJECTED: "Sign with the latest secret and a fresh nonce.",
    Code.UNAVAILABLE: "Nothing was done; try again later.",
    Code.TOO_MANY_DEVICES: "Close another device of this user, then reconnect.",
    Code.CONFLICT: "The note has changed; `updatedNote` is what is stored.",
    Code.CURSOR_EXPIRED: "Sync again without a cursor.",
    Code.INTERNAL: "A fault of the daemon; the log has the `correlationId`.",
}
"""Advice for the client by error code."""

CLOSE_CODES: Final[Mapping[CloseCode, str]] = {
    CloseCode.GOING_AWAY: "The daemon stops. Reconnect.",
    CloseCode.PROTOCOL_ERROR: "A broken WebSocket frame. Reconnect.",
    CloseCode.INVALID_DATA: "Text that is not UTF-8. Correct the client.",
    CloseCode.POLICY_VIOLATION: "A message was begun and not ended in time. Reconnect.",
    CloseCode.MESSAGE_TOO_BIG: "Far too large to be read. Send less at once.",
    CloseCode.INTERNAL_ERROR: "A fault of the daemon. Reconnect after a pause.",
    CloseCode.RESTARTING: "The daemon restarts. Reconnect at once.",
    CloseCode.TOO_SLOW: "The device is too slow, or the daemon overloaded. "
    "Reconnect after a pause.",
    CloseCode.UNAUTHENTICATED: "The token is not valid, or was revoked. "
    "Reconnect with a fresh one, or sign in again.",
    CloseCode.AUTH_TIMEOUT: "No valid `auth` in time. Reconnect and send it at once.",
    CloseCode.TOO_MANY: "Too many devices or messages. Reconnect after a long pause.",
}
"""Advice for the client by close code. The daemon never sends 1000 first."""


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


INSIDE: Final[Mapping[tuple[type, str], str]] = {
    (SignedMessage, "payload"): "ClientMessage",
    (client_messages.NoteUpdate, "changes"): "NoteChanges",
    (messages.NoteSync, "changes"): "NotePatch",
    (client_messages.FolderUpdated, "changes"): "FolderPatch",
    (messages.FolderUpdatedSync, "changes"): "FolderPatch",
    (events.NoteUpdatedEvent, "changes"): "NotePatch",
    (events.FolderUpdatedEvent, "changes"): "FolderPatch",
}
"""The type inside relayed data, by message and field."""

DATA: Final = {
    "noteData": "NoteData",
    "updatedNote": "Note",
    "folderData": "FolderData",
    "updatedFolder": "FolderData",
}
"""The type inside relayed data, by the field's name; the daemon does not check it."""

OPTIONAL_NAMES: Final = frozenset({"requestId", "baseUpdatedAt", "cursor", "ids"})
"""As `OPTIONAL`, in every client message."""

LISTS: Final = {"notes": "Note", "folders": "Folder"}
"""The type of the items of a list, by the field's name."""

ID_LISTS: Final = frozenset({"noteIds", "folderIds"})
"""Fields with a list of ids."""

NAMES: Final = {"Error": "ErrorMessage"}  # JavaScript has a global `Error`

OPTIONAL: Final = frozenset({
    (client_messages.NoteCreated, "noteId"),
    (client_messages.FolderCreated, "folderId"),
    (client_messages.FolderUpdated, "changes"),
    (client_messages.FolderUpdated, "updatedFolder"),
})  # fmt: skip
"""Fields that a client may leave out; without another one it gets an error."""

REMARKS: Final = {
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
