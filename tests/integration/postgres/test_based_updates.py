"""`update_note_based`: an update applies to the version it was made from, or not."""

import asyncio
import json
import time
from collections import Counter

import psycopg
import pytest

from tests.integration.postgres.changes import ALICE, BOB, opened
from tests.postgres import Database
from tests.within import PATIENCE_S
from typelets_ws.ports import Conflict, Missing, VersionedRow
from typelets_ws.postgres.store import Store

pytestmark = pytest.mark.usefixtures("fast_paths")
ABSENT = "00000000-0000-4000-8000-000000000000"
OTHER = "2001-01-01T00:00:00.000Z"


async def stands_at(store: Store, note: str) -> str:
    """The note's updatedAt, after a write."""
    written = await store.update_note(ALICE, note, {"starred": True})
    assert isinstance(written, VersionedRow)
    return written.updated_at


async def test_the_right_base_writes_and_a_wrong_one_returns_the_note(
    database: Database,
) -> None:
    note = database.add_note(database.add_user(ALICE), title="a")
    async with opened(database.url_as("typelets_ws")) as store:
        base = await stands_at(store, note)
        written = await store.update_note_based(ALICE, note, {"title": "b"}, base)
        assert isinstance(written, VersionedRow)
        assert written.updated_at > base
        again = await store.update_note_based(ALICE, note, {"title": "c"}, base)
        assert again == Conflict(written.row, written.updated_at)
        assert database.note(note)["title"] == "b"


async def test_what_is_missing_is_reported_as_without_a_base(
    database: Database,
) -> None:
    note = database.add_note(database.add_user(ALICE))
    bobs = database.add_note(database.add_user(BOB))
    folder, bobs_folder = database.add_folder(ALICE), database.add_folder(BOB)
    async with opened(database.url) as store:
        base = await stands_at(store, note)
        for absent in (ABSENT, bobs):
            for into in ("", folder, bobs_folder):
                changes = {"folderId": into} if into else {"title": "x"}
                found = await store.update_note_based(ALICE, absent, changes, base)
                assert found is Missing.NOTE
        for foreign in (ABSENT, bobs_folder):
            changes = {"folderId": foreign}
            found = await store.update_note_based(ALICE, note, changes, base)
            assert found is Missing.FOLDER
            found = await store.update_note_based(ALICE, note, changes, OTHER)
            assert isinstance(found, Conflict)
        found = await store.update_note_based(ALICE, note, {"folderId": folder}, base)
        assert isinstance(found, VersionedRow)
        assert str(database.note(note)["folder_id"]) == folder


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_a_conflict_shows_the_row_that_the_update_waited_for(
    database: Database, outcome: str
) -> None:
    """And not the one of the statement's beginning."""
    note = database.add_note(database.add_user(ALICE), title="a")
    async with opened(database.url) as store:
        base = await stands_at(store, note)
        with psycopg.connect(database.url) as link:
            link.execute(
                "UPDATE notes SET title = 'rest', updated_at = now() WHERE id = %s",
                [note],
            )
            async with asyncio.TaskGroup() as tasks:
                update = tasks.create_task(
                    store.update_note_based(ALICE, note, {"title": "mine"}, base)
                )
                end = time.monotonic() + PATIENCE_S
                while not await asyncio.to_thread(database.waiting_for_locks):
                    assert time.monotonic() < end
                getattr(link, outcome)()
        found = update.result()
        if outcome == "rollback":
            assert isinstance(found, VersionedRow)
            assert database.note(note)["title"] == "mine"
        else:
            assert isinstance(found, Conflict)
            assert json.loads(found.row)["title"] == "rest"
            assert json.loads(found.row)["updatedAt"] == found.updated_at != base
            assert database.note(note)["title"] == "rest"


async def test_of_many_updates_of_one_version_one_is_written(
    database: Database,
) -> None:
    note = database.add_note(database.add_user(ALICE))
    async with opened(database.url) as store:
        for _ in range(10):
            base = await stands_at(store, note)
            found = await asyncio.gather(
                *(
                    store.update_note_based(ALICE, note, {"title": f"{n}"}, base)
                    for n in range(8)
                )
            )
            assert Counter(type(one) for one in found) == {VersionedRow: 1, Conflict: 7}
            (written,) = [one for one in found if isinstance(one, VersionedRow)]
            assert {one for one in found if isinstance(one, Conflict)} == {
                Conflict(written.row, written.updated_at)
            }
