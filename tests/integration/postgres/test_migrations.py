"""A migration under a running daemon costs one retried statement per connection."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.integration.postgres.changes import ALICE, opened
from tests.postgres import Database
from typelets_ws.ports import Missing, StoreError, VersionedRow

pytestmark = pytest.mark.usefixtures("fast_paths")


@pytest.mark.parametrize("prepare", [True, False])
async def test_a_changed_column_type_fails_no_statement(
    database: Database, prepare: bool
) -> None:
    note = database.add_note(database.add_user(ALICE))
    folder = database.add_folder(ALICE)
    async with opened(database.url, pool_min=4, pool_max=4, prepare=prepare) as store:

        async def everything() -> None:
            for _ in range(8):
                owners = await asyncio.gather(
                    *(store.note_owner(note) for _ in range(4)),
                    *(store.folder_owner(folder) for _ in range(4)),
                )
                assert set(owners) == {ALICE}
                written = await store.update_note(ALICE, note, {"starred": True})
                assert isinstance(written, VersionedRow)

        await everything()
        try:
            with capture_logs() as log:
                for table in ("notes", "folders"):
                    database.execute(
                        f"ALTER TABLE {table} ALTER COLUMN user_id TYPE varchar(191)"
                    )
                database.execute("ALTER TABLE notes ADD COLUMN extra text")
                await everything()
            assert [e for e in log if e["event"] == "statement_failed"] == []
        finally:
            for table in ("notes", "folders"):
                database.execute(f"ALTER TABLE {table} ALTER COLUMN user_id TYPE text")
            database.execute("ALTER TABLE notes DROP COLUMN extra")
        await everything()


async def test_a_statement_that_postgres_cannot_run_is_retried_once_only(
    database: Database,
) -> None:
    """0A000 also means a feature that is not there: then the first answer holds."""
    note = database.add_note(database.add_user(ALICE))
    async with opened(database.url) as store:
        assert await store.update_note("user_x", note, {"title": "x"}) is Missing.NOTE
        database.execute(
            "CREATE FUNCTION unsupported() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE SQLSTATE '0A000'; END $$;"
            "CREATE TRIGGER unsupported BEFORE UPDATE ON notes"
            " FOR EACH ROW EXECUTE FUNCTION unsupported()"
        )
        try:
            with pytest.raises(StoreError) as caught:
                await store.update_note(ALICE, note, {"title": "x"})
            assert caught.value.reason == "refused"
        finally:
            database.execute("DROP FUNCTION unsupported CASCADE")
        assert isinstance(
            await store.update_note(ALICE, note, {"title": "x"}), VersionedRow
        )
