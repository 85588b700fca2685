"""The wire protocol between clients and the daemon (spec sections 2 to 5).

Each struct is one message; its tag is the wire type and its fields carry the
wire's own names. Data that is passed on (`Raw`) is never re-encoded. How client
messages are read: `decoding`.

Client messages: `auth ping join_note leave_note note_update note_created
note_deleted folder_created folder_updated folder_deleted`. To add one: a struct
here, a handler in `handlers`.
"""

from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .errors import Code

__all__ = [
    "CLIENT_MESSAGES",
    "ECHO_LENGTH",
    "SERVER_MESSAGES",
    "echo",
    "encode",
    "given",
]

ECHO_LENGTH: Final = 64
"""Characters of an id that are echoed: its own limit in the spec, and a UUID's 36."""
_NOTHING: Final = Raw(b"")


class ClientMessage(Struct, tag_field="type", kw_only=True, frozen=True):
    """What every client message may carry."""

    requestId: str | None = None


class Auth(ClientMessage, tag="auth", frozen=True, kw_only=True):
    """Authenticate with a Clerk session token, the first time or again."""

    token: str | None = None


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
    baseUpdatedAt: str | None = None
    """Write only while the note has this `updatedAt`; otherwise code CONFLICT."""


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


AnyClientMessage: TypeAlias = (
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


class Announced(Reply, tag="announced", frozen=True, kw_only=True):
    """Redis has taken an announcement that had a `requestId`."""

    noteId: str | UnsetType = UNSET
    folderId: str | UnsetType = UNSET
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
    updatedNote: Raw | UnsetType = UNSET
    """With CONFLICT: the whole row as it stands."""
    reason: str | UnsetType = UNSET
    """With SIGNATURE_REJECTED: too_old, ahead, bad_signature, replayed, nonces_full, or
    unsigned where signed messages are required."""


CLIENT_MESSAGES: Final[tuple[type[ClientMessage], ...]] = AnyClientMessage.__args__
SERVER_MESSAGES: Final[tuple[type[ServerMessage], ...]] = (
    ConnectionEstablished, AuthSuccess, AuthFailed, Pong, NoteJoined, NoteLeft,
    NoteUpdateSuccess, Announced, NoteSync, NoteCreatedSync, NoteDeletedSync,
    FolderCreatedSync, FolderUpdatedSync, FolderDeletedSync, ResyncRequired, Error,
)  # fmt: skip

encode: Final = msgspec.json.Encoder().encode


def echo(message: ClientMessage) -> str | UnsetType:
    """The `requestId` of a reply to this message."""
    return given(message.requestId)


def given(text: str | None) -> str | UnsetType:
    """The text in a field, at most `ECHO_LENGTH` characters of it; None: no field."""
    return UNSET if text is None else text[:ECHO_LENGTH]
