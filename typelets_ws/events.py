"""What travels on Redis (spec section 6).

`PUBLISH <prefix>user:<userId> <json>`: the REST service's events, and the
daemon's own for what one device does to the others. Data inside an event is a
raw slice and leaves byte for byte. An event that does not fit is refused with
one word of a closed list, and harms nothing else.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from . import messages

__all__ = ["EVENTS", "Event", "EventRejected", "Reason", "decode", "encode"]


class Reason(StrEnum):
    """Why an event was dropped: metric label and log word."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    UNKNOWN_EVENT = "unknown_event"
    INVALID_FIELD = "invalid_field"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"


class EventRejected(Exception):
    """A malformed event; `reason` says why and `detail` where.

    `detail` may quote the event, `field` is a name of ours: the log has only that.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail

    @property
    def field(self) -> str | None:
        """The field that does not fit, where `detail` names one."""
        named = _FIELD.search(self.detail)
        name = named and (named[1] or named[2] or named[3])
        return name if name in _FIELDS else None


class Event(Struct, tag_field="event", kw_only=True, frozen=True, omit_defaults=True):
    """What every event may carry."""

    fromUserId: str = "server"
    exceptConnectionId: str | None = None
    publishedAt: int | float | None = None
    """ms since the epoch."""

    def message(self, timestamp: int) -> messages.ServerMessage:
        """What the devices get, at `timestamp` (ms)."""
        raise NotImplementedError


class NoteUpdated(Event, tag="note_updated", frozen=True, kw_only=True):
    """A note was changed."""

    noteId: str
    changes: Raw
    updatedNote: Raw
    version: str | None = None
    """updatedAt of a row the daemon itself wrote: `convergence` orders by it."""

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteSync(
            noteId=self.noteId,
            changes=self.changes,
            updatedNote=self.updatedNote,
            timestamp=timestamp,
            fromUserId=self.fromUserId,
        )


class NoteCreated(Event, tag="note_created", frozen=True, kw_only=True):
    """A note was created."""

    noteData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteCreatedSync(
            noteData=self.noteData, timestamp=timestamp, fromUserId=self.fromUserId
        )


class NoteDeleted(Event, tag="note_deleted", frozen=True, kw_only=True):
    """A note was deleted."""

    noteId: str

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteDeletedSync(
            noteId=self.noteId, timestamp=timestamp, fromUserId=self.fromUserId
        )


class FolderCreated(Event, tag="folder_created", frozen=True, kw_only=True):
    """A folder was created."""

    folderData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderCreatedSync(
            folderData=self.folderData, timestamp=timestamp, fromUserId=self.fromUserId
        )


class FolderUpdated(Event, tag="folder_updated", frozen=True, kw_only=True):
    """A folder was changed."""

    folderId: str
    changes: Raw | UnsetType = UNSET
    updatedFolder: Raw | UnsetType = UNSET

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderUpdatedSync(
            folderId=self.folderId,
            changes=self.changes,
            updatedFolder=self.updatedFolder,
            timestamp=timestamp,
            fromUserId=self.fromUserId,
        )


class FolderDeleted(Event, tag="folder_deleted", frozen=True, kw_only=True):
    """A folder was deleted."""

    folderId: str

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderDeletedSync(
            folderId=self.folderId, timestamp=timestamp, fromUserId=self.fromUserId
        )


class ResyncRequired(Event, tag="resync_required", frozen=True, kw_only=True):
    """Events may have been missed: the devices shall fetch anew."""

    reason: str = "requested"

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.ResyncRequired(reason=self.reason, timestamp=timestamp)


class Order(Event, frozen=True, kw_only=True):
    """An order to the daemon; no message to the devices comes of it."""


class SessionRevoked(Order, tag="session_revoked", frozen=True, kw_only=True):
    """A session (the token's `sid`) ended: its connections close."""

    sessionId: str


class UserDisconnected(Order, tag="user_disconnected", frozen=True, kw_only=True):
    """All of the user's connections close."""

    reason: str | None = None


AnyEvent = (
    NoteUpdated
    | NoteCreated
    | NoteDeleted
    | FolderCreated
    | FolderUpdated
    | FolderDeleted
    | ResyncRequired
    | SessionRevoked
    | UserDisconnected
)
EVENTS: Final[tuple[type[Event], ...]] = AnyEvent.__args__

_decoder: Final = msgspec.json.Decoder(AnyEvent)
_head: Final = msgspec.json.Decoder(dict[str, Raw])
_FIELD: Final = re.compile(r"at `\$\.(\w+)|field `(\w+)`|^(\w+) is not")
_FIELDS: Final = {"event", *(f for kind in EVENTS for f in kind.__struct_fields__)}
_NAMES: Final = frozenset(str(kind.__struct_config__.tag) for kind in EVENTS)
encode: Final = msgspec.json.Encoder().encode


def name(event: Event) -> str:
    """The event's name on the wire."""
    return str(event.__struct_config__.tag)


def decode(payload: bytes) -> Event:
    """Read one event. Raises `EventRejected`."""
    if not payload.isascii():
        # msgspec does not look inside raw slices, and a text frame must be UTF-8.
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise EventRejected(Reason.NOT_UTF8) from None
    try:
        event: Event = _decoder.decode(payload)
    except msgspec.ValidationError as exc:
        raise EventRejected(_misfit(payload), str(exc)) from None
    except RecursionError:
        raise EventRejected(Reason.TOO_DEEP) from None
    except msgspec.DecodeError:
        raise EventRejected(Reason.NOT_JSON) from None
    for field in ("changes", "updatedNote", "noteData", "folderData", "updatedFolder"):
        raw = getattr(event, field, UNSET)
        if raw is not UNSET and bytes(raw)[:1] != b"{":
            raise EventRejected(Reason.INVALID_FIELD, f"{field} is not an object")
    return event


def _misfit(payload: bytes) -> Reason:
    try:
        kind = msgspec.json.decode(_head.decode(payload)["event"], type=str)
    except (KeyError, msgspec.DecodeError, RecursionError):
        return Reason.UNKNOWN_EVENT
    return Reason.INVALID_FIELD if kind in _NAMES else Reason.UNKNOWN_EVENT
