"""Events on Redis (spec section 6).

Invariants. The REST service and the daemon publish the same events. Data inside an
event is a raw slice and is relayed byte for byte. A publisher cannot set a key of the
daemon's own: `version` only repeats the row's `updatedAt`. `event_decoding` reads them.
Tested by tests/unit/protocol/test_events.py.
"""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from . import messages

__all__ = ["EVENTS", "AnyEvent", "Event", "encode", "name"]

SERVER: Final = "server"
"""`fromUserId` of an event without one."""
Name = Annotated[str, Meta(min_length=1, max_length=256)]
"""An id, or a word: an event cannot make a key or a log line of any length."""


class Event(Struct, tag_field="event", kw_only=True, frozen=True, omit_defaults=True):
    """The fields that every event may have."""

    fromUserId: Name | None = SERVER
    exceptConnectionId: Annotated[str, Meta(max_length=256)] | None = None
    """Empty counts as absent: a client without a connection has no id."""
    publishedAt: int | float | None = None
    """ms since the epoch; one beyond the year 9999 counts as absent."""

    @property
    def sender(self) -> str:
        """The `fromUserId` of the message that the devices get."""
        return self.fromUserId or SERVER

    def message(self, timestamp: int) -> messages.ServerMessage:
        """Return the message for devices, at `timestamp` (ms)."""
        raise TypeError("a control event has no message")


class NoteUpdatedEvent(Event, tag="note_updated", frozen=True, kw_only=True):
    """A note was changed."""

    noteId: Name
    changes: Raw
    updatedNote: Raw
    version: str | None = None
    """updatedAt of a row the daemon itself wrote: `versions` orders by it."""

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteSync(
            noteId=self.noteId,
            changes=self.changes,
            updatedNote=self.updatedNote,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class NoteCreatedEvent(Event, tag="note_created", frozen=True, kw_only=True):
    """A note was created."""

    noteData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteCreatedSync(
            noteData=self.noteData, timestamp=timestamp, fromUserId=self.sender
        )


class NoteDeletedEvent(Event, tag="note_deleted", frozen=True, kw_only=True):
    """A note was deleted."""

    noteId: Name

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteDeletedSync(
            noteId=self.noteId, timestamp=timestamp, fromUserId=self.sender
        )


class FolderCreatedEvent(Event, tag="folder_created", frozen=True, kw_only=True):
    """A folder was created."""

    folderData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderCreatedSync(
            folderData=self.folderData, timestamp=timestamp, fromUserId=self.sender
        )


class FolderUpdatedEvent(Event, tag="folder_updated", frozen=True, kw_only=True):
    """A folder was changed."""

    folderId: Name
    changes: Raw | UnsetType = UNSET
    updatedFolder: Raw | UnsetType = UNSET

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderUpdatedSync(
            folderId=self.folderId,
            changes=self.changes,
            updatedFolder=self.updatedFolder,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class FolderDeletedEvent(Event, tag="folder_deleted", frozen=True, kw_only=True):
    """A folder was deleted."""

    folderId: Name

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderDeletedSync(
            folderId=self.folderId, timestamp=timestamp, fromUserId=self.sender
        )


class ResyncRequiredEvent(Event, tag="resync_required", frozen=True, kw_only=True):
    """Events may have been missed: the devices must fetch over REST."""

    reason: Name | None = "requested"

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.ResyncRequired(
            reason=self.reason or "requested", timestamp=timestamp
        )


class ControlEvent(Event, frozen=True, kw_only=True):
    """A command to the daemon; devices get no message for it."""


class SessionRevokedEvent(
    ControlEvent, tag="session_revoked", frozen=True, kw_only=True
):
    """A session (the token's `sid`) ended: its connections close."""

    sessionId: Name


class UserDisconnectedEvent(
    ControlEvent, tag="user_disconnected", frozen=True, kw_only=True
):
    """All of the user's connections close."""

    reason: Name | None = None


AnyEvent = (
    NoteUpdatedEvent
    | NoteCreatedEvent
    | NoteDeletedEvent
    | FolderCreatedEvent
    | FolderUpdatedEvent
    | FolderDeletedEvent
    | ResyncRequiredEvent
    | SessionRevokedEvent
    | UserDisconnectedEvent
)
EVENTS: Final[tuple[type[Event], ...]] = AnyEvent.__args__

encode: Final = msgspec.json.Encoder().encode


def name(event: Event | type[Event]) -> str:
    """The name on the wire of an event, or of a type of events."""
    return str(event.__struct_config__.tag)
