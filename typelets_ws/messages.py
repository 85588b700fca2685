"""The wire protocol between clients and the daemon (spec sections 2 to 5).

Each struct is one message; its tag is the wire type and its fields carry the
wire's own names. Client messages are decoded in one pass; only a message that
does not fit is looked at again, to name what is wrong with it. Data that is
passed on (`Raw`) is never re-encoded. UTF-8 is the caller's to check: msgspec
does not look inside strings that it skips.

Client messages: `auth ping join_note leave_note note_update note_created
note_deleted folder_created folder_updated folder_deleted`. To add one: a struct
here, a handler in `handlers`.
"""

import re
from typing import Final, Literal, NoReturn

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .errors import INVALID_MESSAGE, UNKNOWN_TYPE, Code, Refusal

__all__ = ["CLIENT_MESSAGES", "SERVER_MESSAGES", "decode", "encode", "request_id"]

REQUEST_ID_LENGTH: Final = 64
_NOTHING: Final = Raw(b"")


class ClientMessage(Struct, tag_field="type", kw_only=True, frozen=True):
    """What every client message may carry."""

    requestId: str | None = None


class Auth(ClientMessage, tag="auth", frozen=True, kw_only=True):
    """Authenticate with a Clerk session token, the first time or again."""

    token: str = ""


class Ping(ClientMessage, tag="ping", frozen=True, kw_only=True):
    """Answered with `pong`, before authentication too."""


class JoinNote(ClientMessage, tag="join_note", frozen=True, kw_only=True):
    """Say that a note is open on this device."""

    noteId: str | None = None


class LeaveNote(ClientMessage, tag="leave_note", frozen=True, kw_only=True):
    """Say that it is open no more."""

    noteId: str | None = None


class NoteUpdate(ClientMessage, tag="note_update", frozen=True, kw_only=True):
    """Write the allowed fields of a note."""

    noteId: str | None = None
    changes: dict[str, Raw] | None = None


class NoteCreated(ClientMessage, tag="note_created", frozen=True, kw_only=True):
    """Announce a note that was created over REST."""

    noteData: Raw = _NOTHING
    noteId: str | None = None


class NoteDeleted(ClientMessage, tag="note_deleted", frozen=True, kw_only=True):
    """Announce that a note was deleted over REST."""

    noteId: str | None = None


class FolderCreated(ClientMessage, tag="folder_created", frozen=True, kw_only=True):
    """Announce a folder that was created over REST."""

    folderData: Raw = _NOTHING
    folderId: str | None = None


class FolderUpdated(ClientMessage, tag="folder_updated", frozen=True, kw_only=True):
    """Announce a folder that was changed over REST."""

    folderId: str | None = None
    changes: Raw = _NOTHING
    updatedFolder: Raw = _NOTHING


class FolderDeleted(ClientMessage, tag="folder_deleted", frozen=True, kw_only=True):
    """Announce that a folder was deleted over REST."""

    folderId: str | None = None


AnyClientMessage = (
    Auth
    | Ping
    | JoinNote
    | LeaveNote
    | NoteUpdate
    | NoteCreated
    | NoteDeleted
    | FolderCreated
    | FolderUpdated
    | FolderDeleted
)


class ServerMessage(Struct, tag_field="type", kw_only=True, frozen=True):
    """What the daemon sends."""


class Reply(ServerMessage, frozen=True, kw_only=True):
    """An answer to one message; echoes its `requestId`."""

    requestId: str | UnsetType = UNSET


class ConnectionEstablished(
    ServerMessage, tag="connection_established", frozen=True, kw_only=True
):
    """The first message on every connection."""

    message: str = "Please authenticate to continue"


class AuthSuccess(Reply, tag="auth_success", frozen=True, kw_only=True):
    """The token holds; `sessionSecret` signs messages from now on."""

    message: str = "Authentication successful"
    userId: str
    sessionSecret: str
    connectionId: str


class AuthFailed(Reply, tag="auth_failed", frozen=True, kw_only=True):
    """The token does not hold; `reason` is token-expired or auth-failed."""

    message: str
    reason: Literal["token-expired", "auth-failed"]


class Pong(Reply, tag="pong", frozen=True, kw_only=True):
    """Answer to `ping`; ms since the epoch."""

    timestamp: int


class NoteJoined(Reply, tag="note_joined", frozen=True, kw_only=True):
    """Answer to `join_note`."""

    noteId: str
    message: str = "Successfully joined note for real-time sync"


class NoteLeft(Reply, tag="note_left", frozen=True, kw_only=True):
    """Answer to `leave_note`."""

    noteId: str


class NoteUpdateSuccess(Reply, tag="note_update_success", frozen=True, kw_only=True):
    """The update is stored; `updatedNote` is the whole row."""

    noteId: str
    updatedNote: Raw
    timestamp: int


class Sync(ServerMessage, frozen=True, kw_only=True):
    """Something changed because of somebody else."""

    timestamp: int
    fromUserId: str


class NoteSync(ServerMessage, tag="note_sync", frozen=True, kw_only=True):
    """A note was changed; the keys stand in the earlier server's order."""

    noteId: str
    changes: Raw
    updatedNote: Raw
    timestamp: int
    fromUserId: str


class NoteCreatedSync(Sync, tag="note_created_sync", frozen=True, kw_only=True):
    """A note was created."""

    noteData: Raw


class NoteDeletedSync(Sync, tag="note_deleted_sync", frozen=True, kw_only=True):
    """A note was deleted."""

    noteId: str


class FolderCreatedSync(Sync, tag="folder_created_sync", frozen=True, kw_only=True):
    """A folder was created."""

    folderData: Raw


class FolderUpdatedSync(Sync, tag="folder_updated_sync", frozen=True, kw_only=True):
    """A folder was changed."""

    folderId: str
    changes: Raw | UnsetType = UNSET
    updatedFolder: Raw | UnsetType = UNSET


class FolderDeletedSync(Sync, tag="folder_deleted_sync", frozen=True, kw_only=True):
    """A folder was deleted."""

    folderId: str


class ResyncRequired(ServerMessage, tag="resync_required", frozen=True, kw_only=True):
    """Events may have been missed: fetch anew over REST."""

    reason: str
    timestamp: int


class Error(Reply, tag="error", frozen=True, kw_only=True):
    """A refusal; `code` is for programs, `message` for people."""

    message: str
    code: Code
    noteId: str | UnsetType = UNSET
    folderId: str | UnsetType = UNSET
    retryAfterMs: int | UnsetType = UNSET
    correlationId: str | UnsetType = UNSET


CLIENT_MESSAGES: Final[tuple[type[ClientMessage], ...]] = AnyClientMessage.__args__
SERVER_MESSAGES: Final[tuple[type[ServerMessage], ...]] = (
    ConnectionEstablished, AuthSuccess, AuthFailed, Pong, NoteJoined, NoteLeft,
    NoteUpdateSuccess, NoteSync, NoteCreatedSync, NoteDeletedSync,
    FolderCreatedSync, FolderUpdatedSync, FolderDeletedSync, ResyncRequired, Error,
)  # fmt: skip


class _Head(Struct):
    """As much of a misfit as is needed to say what is wrong with it."""

    type: Raw = _NOTHING
    requestId: Raw = _NOTHING
    payload: Raw = _NOTHING


_decoder: Final = msgspec.json.Decoder(AnyClientMessage)
_head: Final = msgspec.json.Decoder(_Head)
_text: Final = msgspec.json.Decoder(str)
_WIRE_TYPES: Final = frozenset(
    str(kind.__struct_config__.tag) for kind in CLIENT_MESSAGES
)
encode: Final = msgspec.json.Encoder().encode


def decode(data: bytes) -> ClientMessage:
    """Read one client message from valid UTF-8. Raises `Refusal`."""
    try:
        message: ClientMessage = _decoder.decode(data)
    except msgspec.ValidationError as exc:
        _explain(data, str(exc))
    except (msgspec.DecodeError, RecursionError):
        raise Refusal(Code.INVALID_MESSAGE, INVALID_MESSAGE) from None
    if message.requestId is not None and len(message.requestId) > REQUEST_ID_LENGTH:
        raise Refusal(Code.INVALID_FIELD, "Invalid requestId")
    return message


def request_id(data: bytes) -> str | None:
    """Return the `requestId` of a message that is not decoded, if it has one.

    That of a signed message is in its payload. `data` may be anything.
    """
    if b'"requestId"' not in data:
        return None
    try:
        head = _head.decode(data)
        found = _text.decode(head.requestId or _head.decode(head.payload).requestId)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) <= REQUEST_ID_LENGTH else None


def error(refusal: Refusal) -> Error:
    """The `error` message that tells of a refusal."""
    return Error(
        message=refusal.message,
        code=refusal.code,
        requestId=_given(refusal.request_id),
        noteId=_given(refusal.note_id),
        folderId=_given(refusal.folder_id),
        retryAfterMs=UNSET
        if refusal.retry_after_ms is None
        else refusal.retry_after_ms,
        correlationId=_given(refusal.correlation_id),
    )


def echo(message: ClientMessage) -> str | UnsetType:
    """The `requestId` of a reply to this message."""
    return _given(message.requestId)


def _given(text: str | None) -> str | UnsetType:
    return UNSET if text is None else text


def _explain(data: bytes, complaint: str) -> NoReturn:
    """Refuse a message that is JSON but not a message, naming the reason."""
    try:
        wire_type = _text.decode(_head.decode(data).type)
    except (msgspec.DecodeError, RecursionError):
        raise Refusal(Code.INVALID_MESSAGE, INVALID_MESSAGE) from None
    if wire_type not in _WIRE_TYPES:
        raise Refusal(Code.UNKNOWN_TYPE, UNKNOWN_TYPE, request_id=request_id(data))
    # msgspec ends its complaint with the path: "... - at `$.noteId`".
    field = re.search(r"at `\$\.(\w+)", complaint)
    raise Refusal(
        Code.INVALID_FIELD,
        f"Invalid {field[1]}" if field else INVALID_MESSAGE,
        request_id=request_id(data),
    )
