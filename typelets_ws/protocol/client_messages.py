"""The messages of clients (spec section 3); `decoding` reads them.

Invariants. Each struct is one message; its tag is the wire type and its fields carry
the wire's own names. A field is optional here and required by its handler, so that the
refusal names it. Tested by tests/unit/protocol/test_decoding.py.
"""

from typing import Final, TypeAlias

from msgspec import Raw, Struct

__all__ = [
    "CLIENT_MESSAGES", "AnyClientMessage", "Auth", "ClientMessage", "FolderCreated",
    "FolderDeleted", "FolderUpdated", "JoinNote", "LeaveNote", "NoteCreated",
    "NoteDeleted", "NoteUpdate", "Ping", "Sync",
]  # fmt: skip

_NOTHING: Final = Raw(b"")


class ClientMessage(Struct, tag_field="type", kw_only=True, frozen=True):
    """The field that every client message may have."""

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


class Sync(ClientMessage, tag="sync", frozen=True, kw_only=True):
    """Ask for what changed since a cursor, page by page; without one, for all."""

    cursor: str | None = None
    ids: bool | None = None
    """True asks for the ids of all rows, to find deletions."""


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
    | Sync
)
CLIENT_MESSAGES: Final[tuple[type[ClientMessage], ...]] = AnyClientMessage.__args__
