"""One event: who gets it, what is noted of it, and when its row is read instead."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes import NOW_MS, FakeShared, live
from tests.unit.delivery.recovering import NOTE, Scene
from tests.unit.delivery.table import wire_row
from typelets_ws.delivery.relay import MAX_AHEAD_MS, UNDELIVERABLE_DELAY_S, Relay
from typelets_ws.delivery.revocations import RevokedSessions
from typelets_ws.delivery.shown_row import FOLDER_NAMES
from typelets_ws.delivery.versions import version_at
from typelets_ws.ports import Clock, VersionedRow
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow
from typelets_ws.telemetry.telemetry import Telemetry

OLD, NEW = version_at(NOW_MS - 2_000), version_at(NOW_MS - 1_000)
NOTE_KEY = RowKey("alice", RowKind.NOTE, NOTE)
FOLDER_KEY = RowKey("alice", RowKind.FOLDER, NOTE)


class Relaying(Scene):
    """A relay, and two devices of alice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = FakeShared(9)
        self.revoked = RevokedSessions(60.0, 9, self.shared)
        self.relay = Relay(
            self.hub,
            self.recovery,
            self.revoked,
            live(),
            Clock(lambda: NOW_MS / 1000, lambda: 5.0),
            Telemetry(self.metrics, self.log.bound()),
        )
        self.one, self.two = self.connect("c1"), self.connect("c2")

    def event(self, name: str, **fields: object) -> None:
        """An event arrives; its frames leave."""
        event = {"event": name, **fields}
        self.relay.on_event("alice", json.dumps(event).encode())
        self.relay.on_batch_end()

    def updated(self, row: Mapping[str, Any], **fields: object) -> None:
        changes = fields.pop("changes", {"updatedAt": row.get("updatedAt")})
        self.event(
            "note_updated", noteId=NOTE, changes=changes, updatedNote=row, **fields
        )

    @property
    def conflicts(self) -> list[RowKey]:
        """Rows to be read, since the last call."""
        waiting = self.recovery.conflicts.waiting
        found = list(waiting)
        waiting.clear()
        return found


def folder_row(at: str) -> dict[str, Any]:
    return dict.fromkeys(FOLDER_NAMES) | {"id": NOTE, "updatedAt": at}


async def test_an_event_reaches_the_others_at_the_time_it_was_published() -> None:
    relaying = Relaying()
    relaying.updated(wire_row(NOTE, NEW), publishedAt=NOW_MS - 500)
    relaying.event("note_deleted", noteId=NOTE, exceptConnectionId="c1")
    assert [one["timestamp"] for one in relaying.two.messages] == [NOW_MS - 500, NOW_MS]
    assert relaying.one.heard() == ["note_sync"]
    assert relaying.two.heard() == ["note_sync", "note_deleted_sync"]
    figure = relaying.figure
    assert figure("events_total", event="note_updated", result="ok") == 1
    assert figure("events_total", event="note_deleted", result="ok") == 1
    assert figure("deliveries_total") == 3
    assert figure("publish_to_delivery_seconds_sum") == 0.5
    assert figure("publish_to_delivery_seconds_count") == 1


async def test_an_event_of_the_only_device_is_noted_and_sent_to_no_one() -> None:
    relaying = Relaying()
    relaying.disconnect(relaying.two)
    relaying.updated(wire_row(NOTE, NEW), exceptConnectionId="c1", publishedAt=5)
    assert relaying.one.heard() == []
    assert relaying.figure("publish_to_delivery_seconds_count") == 0
    assert relaying.figure("deliveries_total") == 0
    shown = relaying.recovery.shown.get(NOTE_KEY)
    assert shown is not None
    assert (shown.version, shown.base is not None) == (NEW, True)


async def test_an_event_that_is_not_published_reaches_the_devices_here() -> None:
    relaying = Relaying()
    relaying.relay.on_unpublished(
        "alice", json.dumps({"event": "note_deleted", "noteId": NOTE}).encode()
    )
    assert relaying.one.heard() == relaying.two.heard() == ["note_deleted_sync"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"junk", "not_json"), (b" " * 20_000_000, "too_large")],
    ids=["junk", "large"],
)
async def test_an_event_that_cannot_be_read_has_its_users_devices_healed(
    payload: bytes, reason: str
) -> None:
    relaying = Relaying()
    relaying.relay.on_event("alice", payload)
    assert relaying.one.heard() == []
    assert relaying.one.resyncs == [(f"event_{reason}", UNDELIVERABLE_DELAY_S)]
    assert relaying.figure("events_total", event="unknown", result=reason) == 1
    (line,) = relaying.log.lines
    assert (line["event"], line["reason"]) == ("event_dropped", reason)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("reason", [None, "publish_failed", "restored"])
async def test_a_resync_is_passed_on_unless_the_daemon_asks_for_it_and_can_heal(
    reason: str | None, *, on: bool
) -> None:
    relaying = Relaying()
    relaying.recovery.on = on
    relaying.event("resync_required", reason=reason)
    named = reason or "requested"
    told = [] if on and reason == "publish_failed" else [(named, 0.0)]
    assert relaying.one.resyncs == told
    state = relaying.recovery.states.get("alice")
    assert state is not None
    assert state.reason == (named if on else "sign_in")


async def test_a_revoked_session_is_closed_behind_the_events_before() -> None:
    relaying = Relaying()
    relaying.one.session_id = "s1"
    event = {"event": "note_deleted", "noteId": NOTE}
    relaying.relay.on_event("alice", json.dumps(event).encode())
    relaying.event("session_revoked", sessionId="s1")
    assert relaying.one.heard() == ["note_deleted_sync"]
    assert relaying.one.closed == [(CloseCode.UNAUTHENTICATED, "session_revoked")]
    assert relaying.two.closed == []
    assert relaying.shared.revoked == {"s1"}
    assert relaying.revoked.is_revoked("s1", 60.0)
    assert not relaying.revoked.is_revoked("s1", 66.0)


async def test_a_user_that_is_disconnected_has_no_device_left() -> None:
    relaying = Relaying()
    relaying.event("user_disconnected")
    closed = [(CloseCode.UNAUTHENTICATED, "user_disconnected")]
    assert relaying.one.closed == relaying.two.closed == closed
    assert relaying.shared.revoked == set()


@pytest.mark.parametrize("late", ["updated", "created", "unversioned"])
async def test_a_late_event_has_its_row_read_instead(late: str) -> None:
    relaying = Relaying()
    relaying.updated(wire_row(NOTE, NEW))
    relaying.one.heard()
    if late == "created":
        relaying.event("note_created", noteData=wire_row(NOTE, OLD))
    elif late == "updated":
        # The row tells the version; what the changes say does not count.
        relaying.updated(wire_row(NOTE, OLD), changes={"updatedAt": NEW})
    else:
        relaying.updated({}, changes={})
        assert relaying.conflicts == []
        assert relaying.one.heard() == ["note_sync"]
        return
    assert relaying.conflicts == [NOTE_KEY]
    assert relaying.one.heard() == []


async def test_the_version_of_an_event_without_a_row_is_that_of_its_changes() -> None:
    relaying = Relaying()
    for at in (NEW, OLD):
        changes = {"updatedAt": at}
        relaying.event("folder_updated", folderId=NOTE, changes=changes)
    assert relaying.one.heard() == ["folder_updated_sync"]
    assert relaying.conflicts == [FOLDER_KEY]


async def test_the_changes_of_an_event_are_noted() -> None:
    relaying = Relaying()
    relaying.event("folder_created", folderData=folder_row(OLD))
    changes = {"updatedAt": NEW, "name": "x"}
    row = {**folder_row(NEW), "name": "x"}
    relaying.event("folder_updated", folderId=NOTE, changes=changes, updatedFolder=row)
    shown = relaying.recovery.shown.get(FOLDER_KEY)
    assert shown is not None
    assert json.loads(shown.steps[-1].changes or b"") == changes
    relaying.event("folder_updated", folderId=NOTE, updatedFolder=row)
    assert shown.steps[-1].changes == b"{}"
    assert json.loads(shown.steps[-1].row) == row


async def test_a_row_of_a_clock_ahead_is_shown_and_read_once_for_each_event() -> None:
    relaying = Relaying()
    within = version_at(NOW_MS + MAX_AHEAD_MS)
    for at, read in ((within, False), (version_at(NOW_MS + MAX_AHEAD_MS + 1), True)):
        for _ in range(2):
            relaying.updated(wire_row(NOTE, at))
            assert bool(relaying.conflicts) is read
    assert relaying.one.heard() == ["note_sync"] * 4


@pytest.mark.parametrize("kind", ["note", "folder"])
async def test_an_update_of_a_row_shown_as_deleted_creates_it_first(kind: str) -> None:
    """The old web client has removed the row, and ignores an update of it."""
    relaying = Relaying()
    key, row = (
        (NOTE_KEY, wire_row(NOTE, NEW))
        if kind == "note"
        else (FOLDER_KEY, folder_row(NEW))
    )
    name = kind.capitalize()
    update: dict[str, object] = {
        f"{kind}Id": NOTE.upper(), "changes": {"updatedAt": NEW},
        f"updated{name}": row,
    }  # fmt: skip
    relaying.event(f"{kind}_deleted", **{f"{kind}Id": NOTE.upper()})
    assert relaying.recovery.shown.deletions("alice") == [key]
    relaying.one.heard()
    relaying.event(f"{kind}_updated", **update)
    assert relaying.one.heard() == [
        f"{kind}_created_sync",
        "note_sync" if kind == "note" else "folder_updated_sync",
    ]
    assert relaying.recovery.shown.deletions("alice") == []
    shown = relaying.recovery.shown.get(key)
    assert shown is not None
    assert (shown.version, len(shown.steps)) == (NEW, 1)
    assert relaying.conflicts == []


@pytest.mark.parametrize("before", ["reply", "deletion"])
async def test_the_writer_of_an_update_is_created_the_row_if_it_has_removed_it(
    before: str,
) -> None:
    """Whether its reply or the deletion came before the other."""
    relaying = Relaying()
    row = wire_row(NOTE, NEW)
    written = VersionedRow(json.dumps(row).encode(), NEW)
    if before == "reply":
        relaying.recovery.shown.replied(NOTE_KEY, written, "c1")
    relaying.event("note_deleted", noteId=NOTE)
    if before == "deletion":
        relaying.recovery.shown.replied(NOTE_KEY, written, "c1")
    relaying.one.heard()
    relaying.updated(row, exceptConnectionId="c1")
    created = ["note_created_sync"] if before == "reply" else []
    assert relaying.one.heard() == created
    assert relaying.two.heard()[1:] == ["note_created_sync", "note_sync"]
    shown = relaying.recovery.shown.get(NOTE_KEY)
    assert shown is not None
    assert shown.is_held(StoredRow(NOTE_KEY, "7", True, NEW, written.row))


async def test_a_part_of_a_row_shown_as_deleted_has_it_read() -> None:
    relaying = Relaying()
    relaying.event("note_deleted", noteId=NOTE)
    relaying.one.heard()
    relaying.updated({"id": NOTE, "updatedAt": NEW})
    assert relaying.one.heard() == []
    assert relaying.conflicts == [NOTE_KEY]


@pytest.mark.parametrize("kind", ["note", "folder"])
async def test_a_creation_is_noted_if_its_row_has_an_id(kind: str) -> None:
    relaying = Relaying()
    key = NOTE_KEY if kind == "note" else FOLDER_KEY
    row = wire_row(NOTE, NEW) if kind == "note" else folder_row(NEW)
    relaying.event(f"{kind}_created", **{f"{kind}Data": {"updatedAt": NEW}})
    assert len(relaying.recovery.shown) == 0
    relaying.event(f"{kind}_created", **{f"{kind}Data": row})
    shown = relaying.recovery.shown.get(key)
    assert shown is not None
    assert json.loads(shown.base or b"") == row
    assert relaying.one.heard() == [f"{kind}_created_sync"] * 2


async def test_a_gap_has_the_devices_healed() -> None:
    relaying = Relaying()
    relaying.relay.on_gap(["alice"], "redis_reconnected")
    assert relaying.two.resyncs == [("redis_reconnected", 0.0)]
