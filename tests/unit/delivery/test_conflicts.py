"""Rows in conflict: which are read again, and what is sent."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.fakes import FakeTransport, NoChanges
from tests.unit.virtual_time import loop_factory
from tests.within import PATIENCE_S
from typelets_ws.delivery import conflicts
from typelets_ws.delivery.alarm import Alarm
from typelets_ws.delivery.conflicts import GATHERED_S, Conflicts
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.senders import RowSender
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.ports import StoreError, VersionedRow
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow
from typelets_ws.telemetry.metrics import Metrics

__all__ = ["loop_factory"]

KEY = RowKey("alice", RowKind.NOTE, "n1")
ROW = StoredRow(KEY, "7", True, "2026-01-01T00:00:00.000Z", b'{"title":"x"}')


class Table(NoChanges):
    """A database with `ROW`; `meanwhile` runs while it is read."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.stored[KEY] = ROW
        self.meanwhile = meanwhile
        self.asked: list[set[RowKey]] = []
        self.most_rows = 100

    async def rows(
        self, keys: Sequence[RowKey], **options: Any
    ) -> Mapping[RowKey, StoredRow | None]:
        assert options == {"versions": False}, "versions need recovery's privileges"
        self.asked.append(set(keys))
        self.meanwhile()
        return await super().rows(keys[: self.most_rows], **options)


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

    def event(self, *, overtakes: bool) -> int:
        """Show an event; returns when an update began, which it overtakes or not."""
        began = self.shown.sequence
        self.shown.created(KEY, b'{"title":"x"}', BETWEEN)
        return began if overtakes else self.shown.sequence


async def test_a_row_in_conflict_is_read_and_sent() -> None:
    scene = Scene()
    scene.conflicts.add(KEY)
    await scene.conflicts.read()
    assert len(scene.device.sent) == 1, "the pair, together"
    assert not scene.conflicts.waiting
    shown = scene.shown.get(KEY)
    assert shown is not None
    assert shown.version == ROW.updated_at


async def test_conflicts_of_a_moment_share_a_read() -> None:
    scene, other = Scene(), RowKey("alice", RowKind.NOTE, "n2")
    scene.conflicts.add(KEY)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.conflicts.read())
        await asyncio.sleep(GATHERED_S / 2)
        scene.conflicts.add(other)
    assert scene.table.asked == [{KEY, other}]


async def test_more_conflicts_than_one_read_has_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conflicts, "MOST_READ", 2)
    scene = Scene()
    keys = [RowKey("alice", RowKind.NOTE, f"n{number}") for number in range(3)]
    for key in keys:
        scene.conflicts.add(key)
    scene.table.most_rows = 1
    for _ in range(3):
        await scene.conflicts.read()
    one, two, three = keys
    assert scene.table.asked == [{one, two}, {three, two}, {two}]
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


@pytest.mark.parametrize("way", ["event", "page"])
async def test_a_row_shown_while_it_is_read_is_read_once_more(way: str) -> None:
    """By a page it may have been, without being remembered."""
    scene = Scene()
    scene.conflicts.add(KEY)
    shown = scene.shown
    scene.table.meanwhile = lambda: (
        shown.deleted(KEY) if way == "event" else shown.page_sent("alice")
    )
    await scene.conflicts.read()
    assert scene.device.sent == []
    assert list(scene.conflicts.waiting) == [KEY]


OLDER, NEWER = (
    VersionedRow(b"{}", f"2026-01-01T00:00:0{second}.000Z") for second in (1, 3)
)
BETWEEN = "2026-01-01T00:00:02.000Z"


async def woken(scene: Scene) -> bool:
    """Whether the sleeper does not sleep."""
    began = asyncio.get_running_loop().time()
    await scene.conflicts.alarm.sleep(PATIENCE_S)
    return asyncio.get_running_loop().time() == began


@pytest.mark.parametrize(
    ("row", "overtakes", "conflict"),
    [(OLDER, True, True), (NEWER, True, False), (OLDER, False, False)],
)
async def test_a_reply_that_an_event_has_overtaken_is_a_conflict(
    row: VersionedRow, overtakes: bool, conflict: bool
) -> None:
    scene = Scene()
    began = scene.event(overtakes=overtakes)
    scene.conflicts.note_reply(KEY, row, "c1", began)
    assert bool(scene.conflicts.waiting) == conflict == await woken(scene)
    shown = scene.shown.get(KEY)
    assert shown is not None
    assert shown.version == (BETWEEN if conflict else row.updated_at)
    # The row may not be read: then a look finds that the writer was shown another.
    assert (shown.steps[-1].row, shown.steps[-1].connection) == (row.row, "c1")


@pytest.mark.parametrize("overtakes", [True, False])
async def test_a_refusal_that_an_event_has_overtaken_is_a_conflict(
    overtakes: bool,
) -> None:
    scene = Scene()
    began = scene.event(overtakes=overtakes)
    scene.conflicts.note_refusal(KEY, NEWER, "c1", began)
    assert bool(scene.conflicts.waiting) == overtakes
    shown = scene.shown.get(KEY)
    assert shown is not None
    last = shown.steps[-1]
    assert (last.row, last.connection) == (NEWER.row, "c1")


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
