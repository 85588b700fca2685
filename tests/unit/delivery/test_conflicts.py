"""Rows in conflict: which are read again, and what is sent."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes import FakeTransport, NoChanges
from typelets_ws.delivery.alarm import Alarm
from typelets_ws.delivery.conflicts import Conflicts
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.senders import RowSender
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.ports import StoreError
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow
from typelets_ws.telemetry.metrics import Metrics

KEY = RowKey("alice", RowKind.NOTE, "n1")
ROW = StoredRow(KEY, "7", True, "2026-01-01T00:00:00.000Z", b'{"title":"x"}')


class Table(NoChanges):
    """A database with `ROW`; `meanwhile` runs while it is read."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.stored[KEY] = ROW
        self.meanwhile = meanwhile

    async def rows(self, *args: Any, **options: Any) -> Mapping[RowKey, StoredRow]:
        self.meanwhile()
        return await super().rows(*args, **options)


class Scene:
    """Conflicts of one user with a device."""

    def __init__(self) -> None:
        self.device, self.hub = FakeTransport("c1"), Hub()
        self.hub.attach("alice", self.device)
        self.shown = ShownRows(10_000)
        self.shown.add_user("alice")
        self.table = Table(lambda: None)
        self.healed: list[object] = []
        self.conflicts = Conflicts(
            self.table,
            RowSender(self.hub, Metrics(), lambda: 0),
            self.shown,
            Alarm(lambda: 0.0),
            lambda users, reason: self.healed.append((set(users), reason)),
        )


async def test_a_row_in_conflict_is_read_and_sent() -> None:
    scene = Scene()
    scene.conflicts.add(KEY)
    await scene.conflicts.read()
    assert len(scene.device.sent) == 1, "the pair, together"
    assert not scene.conflicts.waiting


async def test_a_conflict_found_while_its_row_is_read_has_it_read_once_more() -> None:
    """The event that was not shown may be of a write after that read."""
    scene = Scene()
    scene.conflicts.add(KEY)
    scene.table.meanwhile = lambda: scene.conflicts.add(KEY)
    await scene.conflicts.read()
    assert list(scene.conflicts.waiting) == [KEY]
    scene.table.meanwhile = lambda: None
    await scene.conflicts.read()
    assert not scene.conflicts.waiting


async def test_a_row_shown_while_it_is_read_is_read_once_more() -> None:
    scene = Scene()
    scene.conflicts.add(KEY)
    scene.table.meanwhile = lambda: scene.shown.deleted(KEY)
    await scene.conflicts.read()
    assert scene.device.sent == []
    assert list(scene.conflicts.waiting) == [KEY]


async def test_users_whose_rows_cannot_be_read_are_healed() -> None:
    """Those of a conflict found meanwhile, too."""

    def fail() -> None:
        scene.conflicts.add(RowKey("bob", RowKind.NOTE, "n2"))
        raise StoreError("down")

    scene = Scene()
    scene.conflicts.add(KEY)
    scene.table.meanwhile = fail
    await scene.conflicts.read()
    assert scene.healed == [({"alice", "bob"}, "conflict")]
    assert not scene.conflicts.waiting
