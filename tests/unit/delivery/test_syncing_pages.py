"""The pages of `sync`: what each has, and where the next begins."""

import asyncio
import json

import pytest
from msgspec import UNSET

from tests.unit.delivery.recovering import NOTE, OTHER, Scene, recovering
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery.cursors import decode
from typelets_ws.delivery.syncing import _fitting
from typelets_ws.protocol.client_messages import Sync
from typelets_ws.protocol.errors import ClientError, Code
from typelets_ws.protocol.messages import SyncPage
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

__all__ = ["loop_factory"]

IDS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(4)]


async def sync(
    scene: Scene, cursor: str | None = None, *, ids: bool = False
) -> SyncPage:
    request = Sync(cursor=cursor, ids=ids, requestId="r")
    return await scene.recovery.sync("alice", "c1", request)


def ids_of(page: SyncPage) -> list[str]:
    return [json.loads(bytes(note))["id"] for note in page.notes]


async def test_a_last_page_has_the_digest_and_the_ids_if_they_were_asked_for() -> None:
    async with recovering(page_rows=2) as scene:
        for row_id in IDS[:3]:
            scene.database.write(row_id)
        page = await sync(scene, ids=True)
        assert (ids_of(page), page.more, page.requestId) == (IDS[:2], True, "r")
        assert page.digest is page.noteIds is page.folderIds is UNSET
        page = await sync(scene, page.cursor, ids=True)
        assert (ids_of(page), page.more) == (IDS[2:3], False)
        assert page.digest is not UNSET
        assert page.digest.notes.count == 3
        assert json.loads(bytes(page.noteIds)) == IDS[:3]  # type: ignore[arg-type]
        page = await sync(scene, page.cursor)
        assert (ids_of(page), page.more, page.noteIds) == ([], False, UNSET)


async def test_rows_that_change_behind_the_pages_come_with_the_next_sync() -> None:
    async with recovering(page_rows=1) as scene:
        for row_id in IDS[:3]:
            scene.database.write(row_id)
        page = await sync(scene)
        horizon = scene.database.newest
        scene.database.write(IDS[0])
        while page.more:
            _, cursor = decode(page.cursor)
            assert (cursor.horizon, cursor.since) == (horizon, None)
            page = await sync(scene, page.cursor)
        assert decode(page.cursor)[1] == (horizon, None, None)
        assert ids_of(await sync(scene, page.cursor)) == [IDS[0]]
        # The pages of a later sync go on from where it began.
        scene.database.write(IDS[1])
        page = await sync(scene, page.cursor)
        assert decode(page.cursor)[1].since == horizon
        page = await sync(scene, page.cursor)
        assert (ids_of(page), page.more) == ([IDS[1]], False)
        _, last = decode(page.cursor)
        assert (last.horizon, last.after) == (scene.database.newest, None)


@pytest.mark.parametrize("cursor", ["junk", "later"])
async def test_a_cursor_that_is_not_of_this_database_has_expired(cursor: str) -> None:
    async with recovering() as scene:
        scene.database.write(NOTE)
        if cursor == "later":
            cursor = (await sync(scene)).cursor
            scene.database.identity = "replica"
        with pytest.raises(ClientError) as caught:
            await sync(scene, cursor)
        assert caught.value.code is Code.CURSOR_EXPIRED
        assert ids_of(await sync(scene)) == [NOTE]


async def test_a_page_tells_of_the_newest_horizon() -> None:
    async with recovering() as scene:
        await asyncio.sleep(1.5)
        scene.database.write(NOTE)
        before = scene.recovery.horizons.newest
        await sync(scene)
        assert scene.recovery.horizons.newest == scene.database.newest != before


async def test_a_page_shows_its_rows_to_its_device_alone() -> None:
    """See `shown`: the others hold what they held."""
    async with recovering() as scene:
        scene.connect("c1")
        other = scene.connect("c2")
        scene.database.write(NOTE)
        scene.database.write(OTHER)
        await asyncio.sleep(8.0)
        other.heard()
        shown = scene.recovery.shown
        sequence = shown.sequence
        await sync(scene)
        key = RowKey("alice", RowKind.NOTE, NOTE)
        assert not shown.touched(key, sequence), "all devices hold the same row"
        scene.database.write(NOTE)
        await sync(scene)
        row = shown.get(key)
        assert row is not None
        assert [step.connection for step in row.steps] == ["c1"]


def stored(size: int) -> StoredRow:
    key = RowKey("alice", RowKind.NOTE, NOTE)
    return StoredRow(key, "1", True, "t", b"x" * (size - 1))


def test_a_page_has_as_many_rows_as_fit_and_at_least_one() -> None:
    rows = [stored(50), stored(50), stored(1)]
    assert _fitting(rows, 100) == (rows[:2], True)
    assert _fitting(rows, 101) == (rows, False)
    assert _fitting(rows, 99) == (rows[:1], True)
    assert _fitting(rows[:1], 10) == (rows[:1], False)
    assert _fitting([], 10) == ([], False)
