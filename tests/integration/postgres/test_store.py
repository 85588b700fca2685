"""The store on a real Postgres: values, owners, and the order of updates."""

import asyncio
import json
import time
import uuid
from typing import TypeVar

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.integration.postgres.stores import (
    ABSENT,
    failure,
    opened,
    until,
    update,
)  # fmt: skip
from tests.postgres import Database
from typelets_ws.ports import Missing, StoreError, VersionedRow
from typelets_ws.postgres.sql import COLUMNS
from typelets_ws.postgres.store import QueryFailure, Store
from typelets_ws.telemetry.metrics import Metrics

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("fast_paths")


# Written and returned values.


async def test_row_is_what_it_should_be_byte_for_byte(database: Database) -> None:
    database.add_user("user_x")
    folder = database.add_folder("user_x", id="11111111-1111-4111-8111-111111111111")
    note = database.add_note(
        "user_x",
        id="22222222-2222-4222-8222-222222222222",
        folder_id=folder,
        content='quote " backslash \\ tab \t line \n bell \x07 del \x7f',
        type="code",
        encrypted_title="é 漢 😀 \u2028 \u2029",
        iv="iv0",
        salt="salt0",
        archived=None,
        hidden_at="2024-02-29 12:00:00.1",
        tags=["a,b", '"q"', "{c}", "", "null"],
        created_at="2023-12-31 23:59:59.678999",
        updated_at="2999-01-01 00:00:00.999999",
    )
    written = await update(database, "user_x", note, {"starred": True})
    assert isinstance(written, VersionedRow)
    expected = (
        '{"id":"22222222-2222-4222-8222-222222222222","userId":"user_x",'
        '"folderId":"11111111-1111-4111-8111-111111111111","title":"t",'
        '"content":"quote \\" backslash \\\\ tab \\t line \\n bell \\u0007 del \x7f",'
        '"type":"code","encryptedTitle":"é 漢 😀 \u2028 \u2029",'
        '"encryptedContent":null,"iv":"iv0","salt":"salt0","starred":true,'
        '"archived":null,"deleted":false,"hidden":false,'
        '"hiddenAt":"2024-02-29T12:00:00.100Z",'
        '"tags":["a,b","\\"q\\"","{c}","","null"],'
        '"createdAt":"2023-12-31T23:59:59.678Z",'
        '"updatedAt":"2999-01-01T00:00:01.000Z"}'
    )
    assert written.row.decode() == expected
    assert written.updated_at == "2999-01-01T00:00:01.000Z"
    assert type(written.row) is bytes


async def test_nulls_are_kept(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u", content=None, tags=None, starred=None)
    written = await update(database, "u", note, {"archived": False})
    assert isinstance(written, VersionedRow)
    row = json.loads(written.row)
    assert len(row) == 18
    assert [name for name, value in row.items() if value is None] == [
        *("folderId", "content", "encryptedTitle", "encryptedContent"),
        *("iv", "salt", "starred", "hiddenAt", "tags"),
    ]


VALUES: dict[str, str | bool | None] = {
    "title": "neuer Titel ' \" \\ %s %(x)s \u2028 😀",
    "content": "'; DROP TABLE notes; --",
    "encryptedTitle": "et",
    "encryptedContent": "x" * 900_000,
    "starred": True,
    "archived": True,
    "deleted": True,
    "hidden": True,
    "folderId": "11111111-1111-4111-8111-111111111111",
}


@pytest.mark.parametrize(
    "names", [*((name,) for name in VALUES), tuple(VALUES), tuple(reversed(VALUES))]
)
@pytest.mark.parametrize("prepare", [True, False])
async def test_fields_alone_and_together(
    database: Database, names: tuple[str, ...], prepare: bool
) -> None:
    database.add_user("u")
    database.add_folder("u", id=VALUES["folderId"])
    note = database.add_note("u")
    before = database.note(note)
    changes = {name: VALUES[name] for name in names}
    written = await update(database, "u", note, changes, prepare=prepare)
    assert isinstance(written, VersionedRow)
    after = database.note(note)
    row = json.loads(written.row)
    for name, column in COLUMNS.items():
        stored = after[column]
        told = str(stored) if isinstance(stored, uuid.UUID) else stored
        assert row[name] == told
        assert told == (VALUES[name] if name in names else before[column])
    untouched = before.keys() - {*COLUMNS.values(), "updated_at"}
    assert all(after[column] == before[column] for column in untouched)
    assert after["updated_at"] > before["updated_at"]


@pytest.mark.parametrize(
    "name", ["content", "encryptedTitle", "encryptedContent", "folderId"]
)
async def test_null_empties_a_field(database: Database, name: str) -> None:
    database.add_user("u")
    folder = database.add_folder("u")
    texts = {"content": "c", "encrypted_title": "et", "encrypted_content": "ec"}
    note = database.add_note("u", folder_id=folder, **texts)
    assert isinstance(await update(database, "u", note, {name: None}), VersionedRow)
    assert database.note(note)[COLUMNS[name]] is None


@pytest.mark.parametrize("prepare", [True, False])
async def test_the_same_update_many_times(database: Database, prepare: bool) -> None:
    """Beyond the threshold of preparing, with and without a folder."""
    database.add_user("u")
    folder, note = database.add_folder("u"), database.add_note("u")
    async with opened(database.url, pool_max=2, prepare=prepare) as store:
        for title in map(str, range(12)):
            for folder_id in (folder, None):
                written = await store.update_note(
                    "u", note, {"title": title, "folderId": folder_id}
                )
                assert isinstance(written, VersionedRow)
                row = json.loads(written.row)
                assert (row["title"], row["folderId"]) == (title, folder_id)


@pytest.mark.parametrize("changes", [{}, {"tags": "x"}, {"title": "x", "id = 1": "y"}])
async def test_other_fields_never_reach_the_database(
    database: Database, changes: dict[str, str | bool | None]
) -> None:
    with pytest.raises(ValueError, match="fields"):
        await update(database, "u", ABSENT, changes)


# Whose it is.


@pytest.mark.parametrize("whose", ["own", "other", "absent"])
@pytest.mark.parametrize("folder", ["none", "null", "own", "other", "absent"])
async def test_ownership(database: Database, whose: str, folder: str) -> None:
    database.add_user("u")
    database.add_user("v")
    notes = {"own": database.add_note("u"), "other": database.add_note("v")}
    folders = {"own": database.add_folder("u"), "other": database.add_folder("v")}
    before = {note: database.note(note) for note in notes.values()}
    changes: dict[str, str | bool | None] = {"title": "new"}
    if folder != "none":
        changes["folderId"] = None if folder == "null" else folders.get(folder, ABSENT)
    written = await update(database, "u", notes.get(whose, ABSENT), changes)
    if whose != "own":
        assert written is Missing.NOTE
    elif folder in {"other", "absent"}:
        assert written is Missing.FOLDER
    else:
        assert isinstance(written, VersionedRow)
        before.pop(notes["own"])
    assert {note: database.note(note) for note in before} == before


async def test_owners(database: Database) -> None:
    database.add_user("u")
    note, folder = database.add_note("u"), database.add_folder("u")

    async with opened(database.url) as store:
        assert await store.note_owner(note) == "u"
        assert await store.note_owner(folder) is None
        assert await store.folder_owner(folder) == "u"
        assert await store.folder_owner(note) is None


@pytest.mark.parametrize("into_folder", [False, True])
async def test_row_given_away_while_the_update_waits(
    database: Database, into_folder: bool
) -> None:
    database.add_user("u")
    database.add_user("v")
    folder, note = database.add_folder("u"), database.add_note("u")
    changes: dict[str, str | bool | None] = {"title": "mine"}
    if into_folder:
        changes["folderId"] = folder

    async with opened(database.url) as store, asyncio.TaskGroup() as tasks:
        with database.locked(note) as holder:
            task = tasks.create_task(store.update_note("u", note, changes))
            await until(lambda: database.waiting_for_locks() == 1)
            holder.execute("UPDATE notes SET user_id = 'v', title = 'theirs'")
            holder.commit()
            assert await task is Missing.NOTE
    after = database.note(note)
    assert (after["user_id"], after["title"]) == ("v", "theirs")
    assert after["folder_id"] is None


async def test_folder_deleted_while_the_update_waits(database: Database) -> None:
    database.add_user("u")
    folder, note = database.add_folder("u"), database.add_note("u")

    async with opened(database.url) as store, asyncio.TaskGroup() as tasks:
        with database.locked(note):
            task = tasks.create_task(
                store.update_note("u", note, {"title": "x", "folderId": folder})
            )
            await until(lambda: database.waiting_for_locks() == 1)
            database.execute("DELETE FROM folders")
        assert await task is Missing.FOLDER
    assert database.note(note)["title"] == "t"


async def test_the_granted_rights_are_enough_and_no_more(database: Database) -> None:
    database.add_user("u")
    folder, note = database.add_folder("u"), database.add_note("u")
    url = database.url_as("typelets_ws")
    async with opened(url) as store:
        everything = {**VALUES, "folderId": folder}
        assert isinstance(await store.update_note("u", note, everything), VersionedRow)
        cleared = await store.update_note("u", note, {"folderId": None})
        assert isinstance(cleared, VersionedRow)
        missing = await store.update_note("u", note, {"folderId": ABSENT})
        assert missing is Missing.FOLDER
        assert await store.note_owner(note) == "u"
        assert await store.folder_owner(folder) == "u"
        await store.ping()
    for forbidden in (
        "UPDATE notes SET user_id = 'v'",
        "UPDATE notes SET created_at = now()",
        "DELETE FROM notes",
        "INSERT INTO notes (user_id, title) VALUES ('u', 't')",
        "UPDATE folders SET name = 'x'",
        "SELECT email FROM users",
        "SELECT id FROM users",
    ):
        with (
            psycopg.connect(url) as link,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            link.execute(forbidden.encode())


# updatedAt moves forward.


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("2999-01-01 00:00:00", "2999-01-01T00:00:00.001Z"),
        ("2999-01-01 00:00:00.000999", "2999-01-01T00:00:00.001Z"),
        ("2998-12-31 23:59:59.999999", "2999-01-01T00:00:00.000Z"),
    ],
)
async def test_updated_at_moves_forward_when_the_clock_steps_back(
    database: Database, stored: str, expected: str
) -> None:
    database.add_user("u")
    note = database.add_note("u", updated_at=stored)
    written = await update(database, "u", note, {"title": "x"})
    assert isinstance(written, VersionedRow)
    assert written.updated_at == expected


@pytest.mark.parametrize("stored", [{}, {"updated_at": "infinity"}])
async def test_updated_at_is_utc_wherever_the_session_is(
    database: Database, stored: dict[str, str]
) -> None:
    """And finite, as the wire has no other time."""
    database.add_user("u")
    note = database.add_note("u", **stored)
    url = f"{database.url}&options=-c%20TimeZone%3DAsia/Tokyo%20-c%20DateStyle%3DGerman"

    before = time.time()
    async with opened(url) as store:
        written = await store.update_note("u", note, {"title": "x"})
    assert isinstance(written, VersionedRow)
    (row,) = database.execute(
        "SELECT extract(epoch FROM %s::timestamp AT TIME ZONE 'UTC')::float AS at",
        written.updated_at,
    )
    assert before - 0.001 <= row["at"] <= time.time()


async def test_concurrent_updates_are_reported_in_the_order_of_their_commits(
    database: Database,
) -> None:
    """Three pools, one row: each commit is seen by a trigger, in its order."""
    database.add_user("u")
    folder, note = database.add_folder("u"), database.add_note("u")
    database.execute(
        "CREATE TABLE history (at serial, title text, updated_at timestamp);"
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO history (title, updated_at) VALUES (NEW.title, NEW.updated_at);"
        " RETURN NEW; END $$;"
        "CREATE TRIGGER remember AFTER UPDATE ON notes"
        " FOR EACH ROW EXECUTE FUNCTION remember()"
    )

    told: list[tuple[str, str]] = []

    async def device(store: Store, name: int) -> None:
        for number in range(25):
            title = f"{name}-{number}"
            changes: dict[str, str | bool | None] = {"title": title}
            if number % 2:
                changes["folderId"] = folder
            written = await store.update_note("u", note, changes)
            assert isinstance(written, VersionedRow)
            row = json.loads(written.row)
            assert (row["title"], row["updatedAt"]) == (title, written.updated_at)
            told.append((written.updated_at, title))

    try:
        async with (
            opened(database.url, wait_ms=20_000) as one,
            opened(database.url, wait_ms=20_000) as two,
            opened(database.url, wait_ms=20_000) as three,
            asyncio.TaskGroup() as tasks,
        ):
            for name in range(12):
                tasks.create_task(device((one, two, three)[name % 3], name))
        history = database.execute("SELECT title, updated_at FROM history ORDER BY at")
    finally:
        database.execute(
            "DROP TRIGGER remember ON notes; DROP FUNCTION remember; DROP TABLE history"
        )
    moments = [at for at, _ in told]
    assert len(set(moments)) == len(told) == 300
    assert [title for _, title in sorted(told)] == [row["title"] for row in history]
    written = [row["updated_at"] for row in history]
    assert written == sorted(set(written))
    assert database.note(note)["title"] == max(told)[1]


async def test_no_text_is_cut_at_a_nul(database: Database) -> None:
    """To libpq a NUL is the end of a parameter."""
    database.add_user("u")
    note = database.add_note("u")

    async with opened(database.url) as store:
        reason = await failure(store.update_note("u", note, {"title": "a\0b"}))
    assert reason == QueryFailure.REFUSED
    assert database.note(note)["title"] == "t"


# Log lines.


async def test_nothing_of_the_database_is_reported(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    database.execute("ALTER TABLE notes ADD CONSTRAINT short CHECK (title <> 'secret')")

    try:
        with capture_logs() as lines:
            async with opened(database.url) as store:
                with pytest.raises(StoreError) as caught:
                    await store.update_note("u", note, {"title": "secret"})
    finally:
        database.execute("ALTER TABLE notes DROP CONSTRAINT short")
    error = caught.value
    assert error.reason == QueryFailure.REFUSED
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert lines == [
        {
            "event": "statement_failed",
            "log_level": "warning",
            "statement": "update_note",
            "reason": "refused",
            "sqlstate": "23514",
        }
    ]


async def test_pool_is_observed(database: Database) -> None:
    metrics = Metrics()
    async with opened(database.url, metrics, pool_min=2) as store:
        await store.ping()
        store.observe_pool()
    value = metrics.registry.get_sample_value
    assert value("typelets_ws_postgres_pool", {"stat": "pool_max"}) == 8
    assert value("typelets_ws_postgres_pool", {"stat": "requests_num"}) == 1
