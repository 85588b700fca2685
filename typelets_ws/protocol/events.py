"""Events on Redis (spec section 6).

Invariants. The REST service and the daemon publish the same events. Data inside an
event is a raw slice and is relayed byte for byte. A malformed event is rejected with
an `EventRejectReason`. A publisher cannot set a key of the daemon's own: `version` only
repeats the row's `updatedAt`. Tested by tests/unit/protocol/test_events.py.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, structs

from . import messages
from .json_members import (
    MemberError,
    NotJsonError,
    build,
    has_surrogates,
    members,
    text,
)

__all__ = ["EVENTS", "Event", "EventError", "EventRejectReason", "decode", "encode"]

SERVER: Final = "server"
"""`fromUserId` of an event without one."""
Name = Annotated[str, Meta(min_length=1, max_length=256)]
"""An id, or a word: an event cannot make a key or a log line of any length."""
MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""


class EventRejectReason(StrEnum):
    """Why an event was dropped: metric label and log word."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    UNKNOWN_EVENT = "unknown_event"
    INVALID_FIELD = "invalid_field"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"


class EventError(Exception):
    """A malformed event; `reason` says why and `detail` where.

    `detail` may quote the event, `field` is a name of this module: the log has only
    that.
    """

    def __init__(self, reason: EventRejectReason, detail: str = "") -> None:
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
    """The fields that every event may have."""

    fromUserId: Name | None = SERVER
    exceptConnectionId: Name | None = None
    publishedAt: int | float | None = None
    """ms since the epoch; one beyond the year 9999 counts as absent."""

    @property
    def sender(self) -> str:
        """The `fromUserId` of the message that the devices get."""
        return self.fromUserId or SERVER

    def message(self, timestamp: int) -> messages.ServerMessage:
        """Return the message for devices, at `timestamp` (ms)."""
        raise TypeError("a control event has no message")


class NoteUpdated(Event, tag="note_updated", frozen=True, kw_only=True):
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


class NoteCreated(Event, tag="note_created", frozen=True, kw_only=True):
    """A note was created."""

    noteData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteCreatedSync(
            noteData=self.noteData,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class NoteDeleted(Event, tag="note_deleted", frozen=True, kw_only=True):
    """A note was deleted."""

    noteId: Name

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.NoteDeletedSync(
            noteId=self.noteId,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class FolderCreated(Event, tag="folder_created", frozen=True, kw_only=True):
    """A folder was created."""

    folderData: Raw

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderCreatedSync(
            folderData=self.folderData,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class FolderUpdated(Event, tag="folder_updated", frozen=True, kw_only=True):
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


class FolderDeleted(Event, tag="folder_deleted", frozen=True, kw_only=True):
    """A folder was deleted."""

    folderId: Name

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.FolderDeletedSync(
            folderId=self.folderId,
            timestamp=timestamp,
            fromUserId=self.sender,
        )


class ResyncRequired(Event, tag="resync_required", frozen=True, kw_only=True):
    """Events may have been missed: the devices must fetch over REST."""

    reason: Name | None = "requested"

    def message(self, timestamp: int) -> messages.ServerMessage:
        return messages.ResyncRequired(
            reason=self.reason or "requested", timestamp=timestamp
        )


class ControlEvent(Event, frozen=True, kw_only=True):
    """A command to the daemon; devices get no message for it."""


class SessionRevoked(ControlEvent, tag="session_revoked", frozen=True, kw_only=True):
    """A session (the token's `sid`) ended: its connections close."""

    sessionId: Name


class UserDisconnected(
    ControlEvent, tag="user_disconnected", frozen=True, kw_only=True
):
    """All of the user's connections close."""

    reason: Name | None = None


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
_KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in EVENTS}
_DATA: Final = {"changes", "updatedNote", "noteData", "folderData", "updatedFolder"}
_DATA_FIELDS: Final = {
    kind: [f for f in kind.__struct_fields__ if f in _DATA] for kind in EVENTS
}
encode: Final = msgspec.json.Encoder().encode


def name(event: Event | type[Event]) -> str:
    """The name on the wire of an event, or of a type of events."""
    return str(event.__struct_config__.tag)


def decode(payload: bytes) -> Event:
    """Read one event. Raises `EventError`.

    Null in an optional field means absent, unknown keys are ignored, and lone
    surrogates are passed on in relayed data.
    """
    if not payload.isascii():
        # msgspec does not look inside raw slices, and a text frame must be UTF-8.
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise EventError(EventRejectReason.NOT_UTF8) from None
    try:
        event: Event = _decoder.decode(payload)
    except msgspec.ValidationError as exc:
        if not has_surrogates(payload):
            raise EventError(_misfit(payload), str(exc)) from None
        event = _decode_members(payload)
    except RecursionError:
        raise EventError(EventRejectReason.TOO_DEEP) from None
    except msgspec.DecodeError:
        if not has_surrogates(payload):
            raise EventError(EventRejectReason.NOT_JSON) from None
        event = _decode_members(payload)
    return _normalised(event)


def _normalised(event: Event) -> Event:
    """The event without its nulls and its absurd time. Raises `EventError`."""
    instead: dict[str, Any] = {}
    for field in _DATA_FIELDS[type(event)]:
        raw = getattr(event, field)
        if raw is UNSET or bytes(memoryview(raw)[:1]) == b"{":
            continue
        if not isinstance(event, FolderUpdated) or bytes(raw) != b"null":
            raise EventError(
                EventRejectReason.INVALID_FIELD, f"{field} is not an object"
            )
        instead[field] = UNSET
    published = event.publishedAt
    if published is not None and not 0 <= published <= MAX_TIMESTAMP_MS:
        instead["publishedAt"] = None
    return structs.replace(event, **instead) if instead else event


def _decode_members(payload: bytes) -> Event:
    """Read an event with lone surrogates. Raises `EventError`."""
    try:
        found = members(payload.decode())
    except NotJsonError:
        raise EventError(EventRejectReason.NOT_JSON) from None
    kind = _KINDS.get(text(found.get("event")) or "")
    if kind is None:
        raise EventError(EventRejectReason.UNKNOWN_EVENT)
    try:
        return build(kind, found)
    except MemberError as invalid:
        complaint = f"field `{invalid.name}`"
    raise EventError(EventRejectReason.INVALID_FIELD, complaint)


def _misfit(payload: bytes) -> EventRejectReason:
    try:
        kind = msgspec.json.decode(_head.decode(payload)["event"], type=str)
    except (KeyError, msgspec.DecodeError, RecursionError):
        return EventRejectReason.UNKNOWN_EVENT
    if kind in _KINDS:
        return EventRejectReason.INVALID_FIELD
    return EventRejectReason.UNKNOWN_EVENT
