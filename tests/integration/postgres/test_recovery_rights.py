"""Recovery's rights in Postgres, and its share of the connections."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.integration.postgres.changes import (
    opened,
    since,
    transaction,
)
from tests.postgres import Database
from typelets_ws.ports import StoreError
from typelets_ws.postgres.changes import Unsupported

pytestmark = pytest.mark.usefixtures("fast_paths")


async def test_the_granted_role_is_enough(database: Database) -> None:
    async with opened(database.url_as("typelets_ws")) as store:
        assert await store.changes.supported() is None
        mine = await store.changes.horizon()
    async with opened(database.url) as store:
        assert await store.changes.supported() is None
        assert (await store.changes.horizon()).identity == mine.identity


async def test_a_role_without_grants_is_reported_so_and_works_on(
    database: Database, alice: str
) -> None:
    note = database.add_note(alice)
    database.execute("CREATE ROLE old_role LOGIN")
    try:
        database.execute("GRANT SELECT (id, user_id) ON folders TO old_role")
        database.execute("GRANT SELECT, UPDATE ON notes TO old_role")
        async with opened(database.url_as("old_role")) as store:
            assert await store.changes.supported() is Unsupported.NO_PRIVILEGE
            with pytest.raises(StoreError):
                await since(store.changes, None)
            assert await store.note_owner(note) == alice
            database.execute("GRANT SELECT ON folders TO old_role")
            assert await store.changes.supported() is None
    finally:
        database.execute("DROP OWNED BY old_role; DROP ROLE old_role")


async def test_identity_is_shorter_where_functions_are_forbidden(
    database: Database,
) -> None:
    database.execute("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC")
    database.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn FROM PUBLIC")
    try:
        async with opened(database.url_as("typelets_ws")) as store:
            with capture_logs() as log:
                assert await store.changes.supported() is None
                assert await store.changes.supported() is None
            said = [e for e in log if e["event"] == "database_identity_incomplete"]
            assert [line["missing"] for line in said] == [["system", "timeline"]]
            assert (await store.changes.horizon()).identity.isdigit()
    finally:
        database.execute("GRANT EXECUTE ON FUNCTION pg_control_system TO PUBLIC")
        database.execute("GRANT EXECUTE ON FUNCTION pg_current_wal_lsn TO PUBLIC")


async def test_identity_differs_between_databases_of_one_server(
    database: Database,
) -> None:
    database.execute("CREATE DATABASE other")
    try:
        async with opened(database.url) as store:
            mine = await store.changes.horizon()
        other = database.url.replace("///postgres", "///other")
        async with opened(other) as store:
            assert (await store.changes.horizon()).identity != mine.identity
    finally:
        database.execute("DROP DATABASE other WITH (FORCE)")


async def test_recovery_leaves_connections_to_clients(
    database: Database, alice: str
) -> None:
    """With every row of the table locked away, updates of others still run."""
    note = database.add_note(alice)
    async with opened(database.url, pool_max=4, pool_min=4) as store:
        with transaction(database) as link:
            link.execute("LOCK TABLE folders IN ACCESS EXCLUSIVE MODE")
            async with asyncio.TaskGroup() as tasks:
                waiting = [
                    tasks.create_task(since(store.changes, None)) for _ in range(20)
                ]
                for _ in range(10):
                    await store.update_note(alice, note, {"starred": True})
                assert not any(task.done() for task in waiting)
                link.rollback()
