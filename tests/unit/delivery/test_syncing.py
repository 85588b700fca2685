"""Pages of `sync` while rows come and go."""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence

import pytest

from tests.fakes import NoChanges
from typelets_ws.config.model import RecoverySettings
from typelets_ws.delivery.horizons import Horizons
from typelets_ws.delivery.kept_ids import KeptIds
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.syncing import REREADS, Syncer
from typelets_ws.protocol import client_messages, messages
from typelets_ws.recovery_ports import (
    Changes,
    Extent,
    PackedIds,
    RowIds,
    RowKey,
    RowKind,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)

KEY = RowKey("alice", RowKind.NOTE, "00000000-0000-4000-8000-000000000001")
OTHER = "00000000-0000-4000-8000-000000000002"


def row(text: str) -> StoredRow:
    return StoredRow(KEY, "1", True, "", f'"{text}"'.encode())


UNREAD = row("unread")
"""Beyond what one answer holds."""


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
    ) -> Mapping[RowKey, StoredRow | None]:
        found = self.found.pop(0)
        if self.found:
            self.meanwhile()
        return {} if found is UNREAD else {KEY: found}


def make_syncer(
    table: Changes, shown: ShownRows, kept: KeptIds | None = None
) -> Syncer:
    kept = kept or KeptIds(10_000, 60.0)
    return Syncer(table, shown, Horizons(60.0), kept, RecoverySettings(), lambda: 0.0)


async def answered(
    syncer: Syncer, *requests: client_messages.Sync
) -> list[messages.SyncPage]:
    """The pages for these requests of one device."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(syncer.gathered.run())
        pages = [await syncer.page("alice", "c1", request) for request in requests]
        reading.cancel()
    return pages


class Listing(NoChanges):
    """A note, and no change; `meanwhile` is called while its id is read."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        self.meanwhile()
        ids = RowIds(b'["a"]', b"[]") if extent.ids else None
        return Snapshot("db", 5, 5), [UserChanges([], False, ids=ids)]


async def page(*found: StoredRow | None) -> list[bytes]:
    """The notes of a page whose row is shown while it is read, but the last time."""
    shown = ShownRows(10_000)
    shown.add_user("alice")
    table = Table(found, lambda: shown.deleted(KEY))
    (answer,) = await answered(make_syncer(table, shown), client_messages.Sync())
    return [bytes(note) for note in answer.notes]


async def test_a_row_shown_while_its_page_is_read_is_read_again() -> None:
    assert await page(row("a"), row("b")) == [b'"b"']
    assert await page(row("a"), row("b"), row("c")) == [b'"c"']


async def test_a_row_that_one_answer_does_not_hold_is_asked_for_again() -> None:
    assert await page(row("a"), UNREAD, row("b"), row("c")) == [b'"c"']


async def test_a_row_that_goes_while_its_page_is_read_is_left_out() -> None:
    assert await page(row("a"), None) == []
    assert await page(row("a"), None, None) == []
    assert await page(row("a"), None, row("c")) == [b'"c"']


async def test_a_row_that_changes_faster_than_it_is_read_is_left_to_its_events() -> (
    None
):
    assert await page(*[row("a")] * (REREADS + 2)) == []


async def test_the_ids_of_a_page_list_the_rows_shown_while_they_were_read() -> None:
    """A client removes what they do not list; the digest is of the snapshot as well."""
    shown = ShownRows(10_000)
    shown.add_user("alice")
    folder = RowKey("alice", RowKind.FOLDER, OTHER)
    gone = RowKey("alice", RowKind.NOTE, OTHER)
    shown.created(RowKey("alice", RowKind.NOTE, "before"), b"{}", "1")

    def meanwhile() -> None:
        shown.created(KEY, b"{}", "1")
        shown.created(folder, b"{}", "1")
        shown.deleted(gone)

    answers = await answered(
        make_syncer(Listing(meanwhile), shown),
        client_messages.Sync(ids=True),
        client_messages.Sync(),
    )
    texts = [json.loads(messages.encode(answer)) for answer in answers]
    assert texts[0]["noteIds"] == ["a", KEY.row_id]
    assert texts[0]["folderIds"] == [OTHER]
    assert "noteIds" not in texts[1]


@pytest.mark.parametrize("known", [True, False])
async def test_the_rows_of_a_page_are_missed_when_they_have_gone(known: bool) -> None:
    """Once all ids of the user are known; until then it is the number of rows."""
    shown, kept = ShownRows(10_000), KeptIds(10_000, 60.0)
    if known:
        kept.replace("alice", PackedIds(b"", b""), 0.0)
    syncer = make_syncer(Table([row("a")], lambda: None), shown, kept)
    await answered(syncer, client_messages.Sync())
    assert kept.count("alice") == (1 if known else None)
    assert known or not kept.used_bytes


@pytest.mark.parametrize("empty", [True, False])
async def test_a_page_with_rows_overtakes_a_look_that_has_begun(empty: bool) -> None:
    shown = ShownRows(10_000)
    shown.add_user("alice")
    table = Listing(lambda: None) if empty else Table([row("a")], lambda: None)
    await answered(make_syncer(table, shown), client_messages.Sync())
    assert shown.overtaken(KEY, 0) is not empty
