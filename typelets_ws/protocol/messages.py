"""The messages of the daemon (spec sections 2 to 5); `client_messages` has the others.

Invariants. Each struct is one message; its tag is the wire type and its fields carry
the wire's own names. Data that is passed on (`Raw`) is never re-encoded.
Tested by tests/unit/protocol/test_messages.py.
"""

from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .client_messages import ClientMessage
from .errors import Code

__all__ = ["ECHO_LENGTH", "SERVER_MESSAGES", "echo", "encode", "given"]

ECHO_LENGTH: Final = 64
"""Characters of an id that are echoed: its own limit in the spec, and a UUID's 36."""


class ServerMessage(Struct, tag_field="type", kw_only=True, frozen=True):
    """A message of the daemon."""


class Reply(ServerMessage, frozen=True, kw_only=True):
    """An answer to one message; echoes its `requestId`."""

    requestId: str | UnsetType = UNSET


class ConnectionEstablished(
    ServerMessage, tag="connection_established", frozen=True, kw_only=True
):
    """The first message on every connection."""

    message: str = "Please authenticate to continue"


class AuthSuccess(Reply, tag="auth_success", frozen=True, kw_only=True):
    """The token is valid; `sessionSecret` signs messages from now on."""

    message: str = "Authentication successful"
    userId: str
    sessionSecret: str
    connectionId: str
    cursor: str | UnsetType = UNSET
    """Later reads are at least as new; see `sync`."""


class AuthFailed(Reply, tag="auth_failed", frozen=True, kw_only=True):
    """The token is not valid; `reason` is token-expired or auth-failed."""

    message: str
    reason: Literal["token-expired", "auth-failed"]


class Pong(Reply, tag="pong", frozen=True, kw_only=True):
    """Answer to `ping`; ms since the epoch."""

    timestamp: int
    cursor: str | UnsetType = UNSET
    """All that was committed before it was sent to this device."""


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


class Relayed(ServerMessage, frozen=True, kw_only=True):
    """A change by another device or by the REST service."""

    timestamp: int
    fromUserId: str


class NoteSync(ServerMessage, tag="note_sync", frozen=True, kw_only=True):
    """A note was changed; the keys stand in the earlier server's order."""

    noteId: str
    changes: Raw
    updatedNote: Raw
    timestamp: int
    fromUserId: str


class NoteCreatedSync(Relayed, tag="note_created_sync", frozen=True, kw_only=True):
    """A note was created."""

    noteData: Raw


class NoteDeletedSync(Relayed, tag="note_deleted_sync", frozen=True, kw_only=True):
    """A note was deleted."""

    noteId: str


class FolderCreatedSync(Relayed, tag="folder_created_sync", frozen=True, kw_only=True):
    """A folder was created."""

    folderData: Raw


class FolderUpdatedSync(Relayed, tag="folder_updated_sync", frozen=True, kw_only=True):
    """A folder was changed."""

    folderId: str
    changes: Raw | UnsetType = UNSET
    updatedFolder: Raw | UnsetType = UNSET


class FolderDeletedSync(Relayed, tag="folder_deleted_sync", frozen=True, kw_only=True):
    """A folder was deleted."""

    folderId: str


class TableDigest(Struct, frozen=True):
    """Rows of one table: their count, and a XOR of 128 bits in hex.

    It runs over the first 16 bytes of SHA-256 of each row's `<id>:<updatedAt>`.
    """

    count: int
    hash: str


class SyncDigest(Struct, frozen=True):
    """Equal to that over a client's own rows: the client holds what Postgres holds."""

    notes: TableDigest
    folders: TableDigest


class SyncPage(Reply, tag="sync_page", frozen=True, kw_only=True):
    """Answer to `sync`: whole rows. With `more`, ask again with this cursor."""

    notes: list[Raw]
    folders: list[Raw]
    cursor: str
    more: bool
    digest: SyncDigest | UnsetType = UNSET
    """On the last page."""
    noteIds: Raw | UnsetType = UNSET
    """On the last page, when asked for with `ids`."""
    folderIds: Raw | UnsetType = UNSET


class Healed(ServerMessage, tag="healed", frozen=True, kw_only=True):
    """Missed changes were sent. A client whose own digest differs sends `sync`."""

    reason: str
    cursor: str
    digest: SyncDigest | UnsetType = UNSET
    """Absent when many users are healed at once."""


class ResyncRequired(ServerMessage, tag="resync_required", frozen=True, kw_only=True):
    """Events may have been missed: fetch over REST."""

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


SERVER_MESSAGES: Final[tuple[type[ServerMessage], ...]] = (
    ConnectionEstablished, AuthSuccess, AuthFailed, Pong, NoteJoined, NoteLeft,
    NoteUpdateSuccess, Announced, NoteSync, NoteCreatedSync, NoteDeletedSync,
    FolderCreatedSync, FolderUpdatedSync, FolderDeletedSync, SyncPage, Healed,
    ResyncRequired, Error,
)  # fmt: skip

encode: Final = msgspec.json.Encoder().encode


def echo(message: ClientMessage) -> str | UnsetType:
    """The `requestId` of a reply to this message."""
    return UNSET if message.requestId is None else given(message.requestId)


def given(text: str | None) -> str | UnsetType:
    """The text in a field, at most `ECHO_LENGTH` characters of it; None: no field."""
    return UNSET if text is None else text[:ECHO_LENGTH]
