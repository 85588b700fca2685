"""Reading events (spec section 6). Pure.

Invariants. An event is decoded in one pass; one that does not fit is rejected with an
`EventRejectReason`. Null in an optional field means absent, unknown keys are ignored,
and lone surrogates are passed on in relayed data. An optional field of a control event
that does not fit counts as absent: healing repairs no lost revocation. Tested by
tests/unit/protocol/test_events.py.
"""

import re
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, structs

from .events import EVENTS, AnyEvent, ControlEvent, Event, FolderUpdatedEvent
from .json_members import (
    MemberError,
    NotJsonError,
    build,
    has_surrogates,
    members,
    text,
)

__all__ = ["EventError", "EventRejectReason", "decode"]

OBJECT: Final = ord("{")
MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_decoder: Final = msgspec.json.Decoder(AnyEvent)
_head: Final = msgspec.json.Decoder(dict[str, Raw])
_FIELD: Final = re.compile(r"at `\$\.(\w+)|field `(\w+)`|^(\w+) is not")
_FIELDS: Final = {"event", *(f for kind in EVENTS for f in kind.__struct_fields__)}
_KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in EVENTS}
_DATA: Final = {"changes", "updatedNote", "noteData", "folderData", "updatedFolder"}
_DATA_FIELDS: Final = {
    kind: [f for f in kind.__struct_fields__ if f in _DATA] for kind in EVENTS
}

_REQUIRED: Final = {
    kind: [field.name for field in structs.fields(kind) if field.required]
    for kind in EVENTS
    if issubclass(kind, ControlEvent)
}


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
        kind = _kind(payload)
        if not has_surrogates(payload) and kind not in _REQUIRED:
            raise EventError(_misfit(kind), str(exc)) from None
        event = _decode_members(payload)
    except RecursionError:
        raise EventError(EventRejectReason.TOO_DEEP) from None
    except msgspec.DecodeError:
        if not has_surrogates(payload):
            raise EventError(EventRejectReason.NOT_JSON) from None
        event = _decode_members(payload)
    return _normalised(event)


def _normalised(event: Event) -> Event:
    """The event without nulls, an empty id and an absurd time. Raises `EventError`."""
    instead: dict[str, Any] = {}
    for field in _DATA_FIELDS[type(event)]:
        raw = getattr(event, field)
        if raw is UNSET or memoryview(raw)[0] == OBJECT:
            continue
        if not isinstance(event, FolderUpdatedEvent) or bytes(raw) != b"null":
            raise EventError(
                EventRejectReason.INVALID_FIELD, f"{field} is not an object"
            )
        instead[field] = UNSET
    if event.exceptConnectionId == "":
        instead["exceptConnectionId"] = None
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
    if kind in _REQUIRED:
        found = {name: found[name] for name in _REQUIRED[kind] if name in found}
    try:
        return build(kind, found)
    except MemberError as invalid:
        complaint = f"field `{invalid.name}`"
    raise EventError(EventRejectReason.INVALID_FIELD, complaint)


def _kind(payload: bytes) -> type[Event] | None:
    """The type of the event; None for an unknown one, and for no event."""
    try:
        return _KINDS.get(msgspec.json.decode(_head.decode(payload)["event"], type=str))
    except (KeyError, msgspec.DecodeError, RecursionError):
        return None


def _misfit(kind: type[Event] | None) -> EventRejectReason:
    if kind is None:
        return EventRejectReason.UNKNOWN_EVENT
    return EventRejectReason.INVALID_FIELD
