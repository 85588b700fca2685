"""Pages of `sync` while rows come and go."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from tests.fakes import NoChanges
from typelets_ws.config.model import Recovery as Settings
from typelets_ws.delivery.horizons import Horizons
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.syncing import REREADS, Syncer
from typelets_ws.protocol import client_messages
from typelets_ws.recovery_ports import (
    Extent,
    RowKey,
    RowKind,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)

KEY = RowKey("alice", RowKind.NOTE, "00000000-0000-4000-8000-000000000001")


def row(text: str) -> StoredRow:
    return StoredRow(KEY, "1", True, "", f'"{text}"'.encode())


class Table(NoChanges):
    """One row as found by each reading; `meanwhile` is called while it is read."""

    def __init__(
        self, found: Sequence[StoredRow | None], meanwhile: Callable[[], None]
    ) -> None:
        super().__init__()
        self.found = list(found)
        self.meanwhile = meanwhile

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        first = self.found.pop(0)
        assert first is not None
        self.meanwhile()
        return Snapshot("db", 5, 5), [UserChanges([first], False)]

    async def rows(
        self,
        keys: Collection[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow]:
        found = self.found.pop(0)
        if self.found:
            self.meanwhile()
        return {} if found is None else {KEY: found}


async def page(*found: StoredRow | None) -> list[bytes]:
    """The notes of a page whose row is shown while it is read, but the last time."""
    shown = ShownRows(10_000)
    shown.add_user("alice")
    table = Table(found, lambda: shown.deleted(KEY))
    syncer = Syncer(table, shown, Horizons(60.0), Settings(), lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(syncer.gathered.run())
        answer = await syncer.page("alice", "c1", client_messages.Sync())
        reading.cancel()
    return [bytes(note) for note in answer.notes]


async def test_a_row_shown_while_its_page_is_read_is_read_again() -> None:
    assert await page(row("a"), row("b")) == [b'"b"']
    assert await page(row("a"), row("b"), row("c")) == [b'"c"']


async def test_a_row_that_goes_while_its_page_is_read_is_left_out() -> None:
    assert await page(row("a"), None) == []
    assert await page(row("a"), None, None) == []
    assert await page(row("a"), None, row("c")) == [b'"c"']


async def test_a_row_that_changes_faster_than_it_is_read_is_left_to_its_events() -> (
    None
):
    assert await page(*[row("a")] * (REREADS + 2)) == []
