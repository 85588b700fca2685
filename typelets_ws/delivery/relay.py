"""Turns events into messages for devices: decodes, orders, frames once, queues.

Invariants. Every event for another device passes `on_event`, whether the REST service,
another process or this one published it; so one process and ten behave alike. A
malformed event is dropped, counted and logged with its reason; other events are not
affected. Tested by tests/integration/delivery/test_events.py.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET, Raw, UnsetType

from ..config.live import LiveConfig
from ..ports import Clock
from ..protocol import event_decoding, events, messages
from ..protocol.errors import CloseCode
from ..protocol.event_decoding import EventError, EventRejectReason
from ..recovery_ports import RowKey, RowKind
from ..telemetry.counters import CounterChild
from ..telemetry.telemetry import Telemetry
from ..wire.frames import Frame
from .hub import Hub
from .recovery import Recovery
from .revocations import RevokedSessions
from .shown_row import is_complete
from .versions import head_of, version_at, version_of

__all__ = ["Relay"]

UNDELIVERABLE_DELAY_S: Final = 1.0
"""Before devices are healed after an event that could not be read: those of a publisher
that sends nothing else gather into one heal a second."""
MAX_AHEAD_MS: Final = 2_000
"""A row whose `updatedAt` is further ahead of our clock is read: a clock is wrong, and
versions do not order the row's writes."""
PUBLISH_FAILED: Final = "publish_failed"


@dataclass(slots=True)
class Relay:
    """Turns events into messages; fulfils `bus.handler.EventHandler`."""

    hub: Hub
    recovery: Recovery
    revoked: RevokedSessions
    live: LiveConfig
    clock: Clock
    telemetry: Telemetry
    _latest: str = field(default="", init=False)
    _counts: dict[type[events.Event], CounterChild] = field(init=False)
    """Of events by type: to find one by its labels takes as long as to count."""

    def __post_init__(self) -> None:
        counter = self.telemetry.metrics.events
        self._counts = {
            kind: counter.labels(events.name(kind), "ok") for kind in events.EVENTS
        }

    def on_event(self, user_id: str, payload: bytes) -> None:
        """Handle one event of this user. Never raises for what is in the payload.

        Its frames leave with the next `hub.flush`.
        """
        try:
            if len(payload) > self.live.current.limits.unsent_bytes:
                raise EventError(EventRejectReason.TOO_LARGE)
            event = event_decoding.decode(payload)
        except EventError as rejected:
            self.on_undeliverable(user_id, rejected.reason)
            self.telemetry.metrics.events.labels("unknown", rejected.reason).inc()
            self.telemetry.log.warning(
                "event_dropped",
                reason=str(rejected.reason),
                field=rejected.field,
                user=user_id,
            )
            return
        self._counts[type(event)].inc()
        if isinstance(event, events.ControlEvent):
            self._apply_control(user_id, event)
        elif isinstance(event, events.ResyncRequiredEvent):
            self._resync(user_id, event.reason or "requested")
        else:
            self._deliver(user_id, event)

    def on_batch_end(self) -> None:
        """Write what the events of one read have queued for the devices."""
        self.hub.flush()

    def on_unpublished(self, user_id: str, event: bytes) -> None:
        """Deliver to the devices of this process an event others do not get now."""
        self.on_event(user_id, event)
        self.hub.flush()

    def on_undeliverable(self, user_id: str, reason: EventRejectReason) -> None:
        """An event of this user could not be read: its devices have missed a change."""
        self.recovery.heal([user_id], f"event_{reason}", UNDELIVERABLE_DELAY_S)

    def _resync(self, user_id: str, reason: str) -> None:
        """Another process could not publish, or a publisher asks for a resync."""
        if reason != PUBLISH_FAILED and self.recovery.on:
            self.recovery.resync([user_id], reason)
        self.recovery.heal([user_id], reason)

    def _deliver(self, user_id: str, event: events.Event) -> None:
        others = self.hub.has_other(user_id, event.exceptConnectionId)
        if not self._note_shown(user_id, event, alone=not others) or not others:
            return
        now_ms = self.clock.now_ms()
        published = event.publishedAt
        timestamp = now_ms if published is None else int(published)
        frame = Frame(messages.encode(event.message(timestamp)))
        count = self.hub.queue(user_id, frame, event.exceptConnectionId)
        self.telemetry.metrics.deliveries.inc(count)
        if published is not None:
            self.telemetry.metrics.lag.observe(max(0.0, now_ms - published) / 1000)

    def _note_shown(self, user_id: str, event: events.Event, *, alone: bool) -> bool:
        """Note what the devices are about to be shown. False: read the row instead."""
        if isinstance(event, events.NoteUpdatedEvent):
            key = RowKey(user_id, RowKind.NOTE, event.noteId.lower())
            return self._updated(key, event, event.changes, event.updatedNote, alone)
        if isinstance(event, events.FolderUpdatedEvent):
            key = RowKey(user_id, RowKind.FOLDER, event.folderId.lower())
            return self._updated(key, event, event.changes, event.updatedFolder, alone)
        if isinstance(event, events.NoteCreatedEvent):
            return self._created(user_id, RowKind.NOTE, event, event.noteData)
        if isinstance(event, events.FolderCreatedEvent):
            return self._created(user_id, RowKind.FOLDER, event, event.folderData)
        if isinstance(event, events.NoteDeletedEvent):
            key = RowKey(user_id, RowKind.NOTE, event.noteId.lower())
            self.recovery.shown.deleted(key)
        if isinstance(event, events.FolderDeletedEvent):
            key = RowKey(user_id, RowKind.FOLDER, event.folderId.lower())
            self.recovery.shown.deleted(key)
        return True

    def _updated(
        self,
        key: RowKey,
        event: events.Event,
        changes: Raw | UnsetType,
        row: Raw | UnsetType,
        alone: bool,
    ) -> bool:
        """Note an update; a row that devices may have removed is shown as created."""
        shown = self.recovery.shown
        laid = b"{}" if changes is UNSET else bytes(changes)
        text = b"" if row is UNSET else bytes(row)
        version = version_of(text or laid)
        holder = event.exceptConnectionId
        noted = shown.updated(key, laid, text, version, holder=holder, alone=alone)
        if not noted and shown.is_stale(key, version, holder):
            self.recovery.conflicts.add(key)
            return False
        if version is not None and version > self._latest and self._is_ahead(version):
            self.recovery.conflicts.add(key)
        if noted:
            return True
        if not is_complete(text):
            self.recovery.conflicts.add(key)
            return False
        known = shown.get(key)
        # The writer has removed the row as well, unless it was shown it since.
        held = known is not None and known.was_shown_to(holder, version)
        shown.created(key, text, version)
        self._queue_created(key, text, holder if held else None)
        return shown.updated(key, laid, text, version, holder=holder, alone=alone)

    def _is_ahead(self, version: str) -> bool:
        """Whether a version is further ahead of our clock than a right clock can be.

        To format a time takes 2 µs, a sixth of an event to five devices: it is done
        for a version that is newer than the last result.
        """
        self._latest = version_at(self.clock.now_ms() + MAX_AHEAD_MS)
        return version > self._latest

    def _queue_created(self, key: RowKey, row: bytes, exclude: str | None) -> None:
        """Before an update of a row that the old web client has removed."""
        created: events.Event = (
            events.NoteCreatedEvent(noteData=Raw(row))
            if key.kind is RowKind.NOTE
            else events.FolderCreatedEvent(folderData=Raw(row))
        )
        frame = Frame(messages.encode(created.message(self.clock.now_ms())))
        self.hub.queue(key.user_id, frame, exclude)

    def _created(
        self, user_id: str, kind: RowKind, event: events.Event, row: Raw
    ) -> bool:
        text = bytes(row)
        row_id, version = head_of(text)
        if row_id is None:
            return True
        key = RowKey(user_id, kind, row_id)
        if self.recovery.shown.is_stale(key, version):
            self.recovery.conflicts.add(key)
            return False
        holder = event.exceptConnectionId
        self.recovery.shown.created(key, text, version, holder=holder)
        return True

    def _apply_control(self, user_id: str, order: events.Event) -> None:
        # Devices about to be closed still get the events before this one.
        self.hub.flush()
        if isinstance(order, events.SessionRevokedEvent):
            self.revoked.revoke(order.sessionId, self.clock.monotonic())
            for device in self.hub.devices_of(user_id):
                if device.session_id == order.sessionId:
                    device.close(CloseCode.UNAUTHENTICATED, "session_revoked")
        else:
            for device in self.hub.devices_of(user_id):
                device.close(CloseCode.UNAUTHENTICATED, "user_disconnected")

    def on_gap(self, user_ids: Collection[str], reason: str) -> None:
        """The users' devices may have missed events: heal them."""
        self.recovery.heal(user_ids, reason)
