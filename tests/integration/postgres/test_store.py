"""The store against a real Postgres: whole, contended, stalled, stopped."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import structlog
from psycopg_pool.base import BasePool
from psycopg_pool.pool_async import WaitingClient
from structlog.testing import capture_logs

from tests.daemon import WITH_FAST_PATHS
from tests.postgres import Database, chosen_paths
from typelets_ws.config import model as config
from typelets_ws.ports import Missing, StoreError, VersionedRow
from typelets_ws.postgres import pool as store_pool
from typelets_ws.postgres.sql import COLUMNS
from typelets_ws.postgres.store import QueryFailure, Store
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("fast_paths")
ABSENT = "00000000-0000-4000-8000-000000000000"


@asynccontextmanager
async def opened(
    url: str, metrics: Metrics | None = None, **settings: Any
) -> AsyncIterator[Store]:
    database = config.Database(
        url=url, **{"statement_timeout_ms": 400, "wait_ms": 400, **settings}
    )
    store = Store(
        database,
        Telemetry(metrics or Metrics(), structlog.get_logger()),
        chosen_paths(),
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Poll a condition that another process brings about."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


async def failure(work: Awaitable[object]) -> str:
    """The reason for which the work fails."""
    with pytest.raises(StoreError) as caught:
        await work
    return caught.value.reason


async def update(
    database: Database,
    user: str,
    note: str,
    changes: dict[str, str | bool | None],
    **settings: Any,
) -> VersionedRow | Missing:
    async with opened(database.url, **settings) as store:
        return await store.update_note(user, note, changes)


@contextmanager
def quick(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


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


async def test_updated_at_is_utc_wherever_the_session_is(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
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


# Contended, slow, gone.


@pytest.mark.usefixtures("loop_factory")
async def test_a_locked_row_costs_its_user_and_no_one_else(database: Database) -> None:
    database.add_user("u")
    database.add_user("v")
    locked, other = database.add_note("u"), database.add_note("v")
    metrics = Metrics()
    times = {"statement_timeout_ms": 1_500, "wait_ms": 200}
    async with opened(database.url, metrics, **times) as store:
        await store.ping()
        with database.locked(locked), quick(5.0):
            async with asyncio.TaskGroup() as tasks:
                stuck = [
                    tasks.create_task(
                        failure(store.update_note("u", locked, {"title": "x"}))
                    )
                    for _ in range(20)
                ]
                await until(lambda: database.waiting_for_locks() == 2)
                for _ in range(20):
                    with quick(1.0):
                        written = await store.update_note("v", other, {"title": "y"})
                        await store.ping()
                    assert isinstance(written, VersionedRow)
                assert database.waiting_for_locks() == 2
            reasons = {task.result() for task in stuck}
            assert reasons == {QueryFailure.TIMEOUT, QueryFailure.POOL_FULL}
        assert isinstance(
            await store.update_note("u", locked, {"title": "z"}), VersionedRow
        )
    assert database.note(locked)["title"] == "z"
    value = metrics.registry.get_sample_value
    failures = "typelets_ws_query_failures_total"
    assert value(failures, {"reason": "timeout"}) == 2
    assert value(failures, {"reason": "pool_full"}) == 18
    name = {"query": "update_note"}
    assert value("typelets_ws_query_seconds_count", name) == 23
    assert value("typelets_ws_postgres_up") == 1


async def test_a_turn_ends_and_the_next_in_line_has_it(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with (
        opened(database.url, statement_timeout_ms=5_000, wait_ms=5_000) as store,
        asyncio.TaskGroup() as tasks,
    ):
        with database.locked(note):
            updates = [
                tasks.create_task(store.update_note("u", note, {"title": str(n)}))
                for n in range(10)
            ]
            await until(lambda: database.waiting_for_locks() == 2)
        for task in updates:
            assert isinstance(await task, VersionedRow)


async def test_too_many_waiting_are_refused_at_once(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")

    async with opened(
        database.url, max_waiting=1, wait_ms=5_000, statement_timeout_ms=5_000
    ) as store:
        with database.locked(note):
            async with asyncio.TaskGroup() as tasks:
                waiting = []
                for stuck in (1, 2, 2):
                    work = store.update_note("u", note, {"title": "x"})
                    waiting.append(tasks.create_task(work))
                    await until(lambda: database.waiting_for_locks() == stuck)  # noqa: B023
                with quick(0.3):
                    reason = await failure(store.update_note("u", note, {"title": "y"}))
                assert reason == QueryFailure.POOL_FULL
                for task in waiting:
                    task.cancel()


@pytest.mark.usefixtures("loop_factory")
async def test_restart_between_updates_is_noticed_by_no_one(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with opened(database.url, pool_min=4, wait_ms=2_000) as store:
        for round_ in range(3):
            await asyncio.gather(*(store.ping() for _ in range(4)))
            await asyncio.to_thread(database.stop if round_ else database.crash)
            await asyncio.to_thread(database.start)
            with quick(1.0):
                written = await store.update_note("u", note, {"title": str(round_)})
            assert isinstance(written, VersionedRow)


async def test_connection_lost_under_a_statement_is_sent_again(
    database: Database,
) -> None:
    database.add_user("u")
    note = database.add_note("u")

    async with opened(database.url, wait_ms=5_000) as store:
        async with asyncio.TaskGroup() as tasks:
            with database.locked(note):
                task = tasks.create_task(store.update_note("u", note, {"title": "x"}))
                await until(lambda: database.waiting_for_locks() == 1)
                database.kill_connections("typelets-ws")
        assert isinstance(await task, VersionedRow)
    assert database.note(note)["title"] == "x"


@pytest.mark.usefixtures("loop_factory")
async def test_stopped_database_is_reported_quickly_and_comes_back(
    database: Database,
) -> None:
    database.add_user("u")
    note = database.add_note("u")
    metrics = Metrics()

    def up() -> float | None:
        return metrics.registry.get_sample_value("typelets_ws_postgres_up")

    async with opened(database.url, metrics, wait_ms=2_000) as store:
        await store.ping()
        assert up() == 1
        await asyncio.to_thread(database.stop)
        with quick(2.5):
            reason = await failure(store.update_note("u", note, {"title": "x"}))
        assert reason == QueryFailure.DISCONNECTED
        assert up() == 0
        with quick(1.0):  # by now the pool knows that it has no connection
            for _ in range(3):
                assert await failure(store.note_owner(note)) == reason
        await asyncio.to_thread(database.start)
        await answering(store)
        assert up() == 1
        written = await store.update_note("u", note, {"title": "x"})
        assert isinstance(written, VersionedRow)


async def answering(store: Store, seconds: float = 2.0) -> None:
    """Return when the store's `ping` does, within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await store.ping()
        except StoreError:
            assert time.monotonic() < deadline, "it did not come back"


async def test_starts_without_a_database(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    url = database.url
    database.stop()
    with quick(0.3):
        store = opened(url)
        started = await store.__aenter__()
    try:
        assert await failure(started.note_owner(note)) == QueryFailure.DISCONNECTED
        await asyncio.to_thread(database.start)
        await answering(started)
        assert await started.note_owner(note) == "u"
    finally:
        await store.__aexit__(None, None, None)


async def test_no_connection_available(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    with database.exhausted():
        async with opened(database.url) as store:
            with quick(1.0):
                reason = await failure(store.note_owner(note))
            assert reason == QueryFailure.DISCONNECTED
    async with opened(database.url, pool_min=1) as store:
        await store.ping()
        with database.exhausted():  # the one connection there is serves all
            owners = await asyncio.gather(*(store.note_owner(note) for _ in range(20)))
        assert owners == ["u"] * 20


async def test_closed_store_refuses(database: Database) -> None:
    async with opened(database.url) as store:
        await store.ping()
    assert await failure(store.note_owner(ABSENT)) == QueryFailure.CLOSED


class Road:
    """A TCP road to Postgres that can swallow everything without a word."""

    def __init__(self, url: str) -> None:
        (place,) = parse_qs(urlsplit(url).query)["host"]
        self._socket = f"{place}/.s.PGSQL.5432"
        self.open = asyncio.Event()
        self.open.set()
        self.links = 0

    @asynccontextmanager
    async def built(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
        finally:
            server.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.links += 1
        there, back = await asyncio.open_unix_connection(self._socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, back))
                tasks.create_task(self._pump(there, writer))
        finally:
            writer.close()
            back.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(65_536):
                await self.open.wait()
                writer.write(data)
        except ConnectionError:
            return
        finally:
            writer.close()


@pytest.mark.usefixtures("loop_factory")
async def test_silent_server_is_cut_off(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    metrics = Metrics()

    def up() -> float | None:
        return metrics.registry.get_sample_value("typelets_ws_postgres_up")

    road = Road(database.url)
    async with road.built() as url, opened(url, metrics, pool_min=2) as store:
        assert await store.note_owner(note) == "u"
        road.open.clear()
        assert await failure(store.ping()) == QueryFailure.TIMEOUT
        assert up() == 0
        with quick(1.2):  # 400 ms for the statement, 250 ms of grace
            reason = await failure(store.update_note("u", note, {"title": "x"}))
        # The statement is not answered, or the connection that replaces the last.
        assert reason in {QueryFailure.TIMEOUT, QueryFailure.DISCONNECTED}
        road.open.set()
        await answering(store)
        assert up() == 1
        assert isinstance(
            await store.update_note("u", note, {"title": "y"}), VersionedRow
        )
        assert road.links > 2


# Cancellation.


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_at_any_moment_the_pool_stays_whole(database: Database) -> None:
    database.add_user("u")
    database.add_user("v")
    note, other = database.add_note("u"), database.add_note("v")
    async with opened(database.url, pool_min=1, pool_max=2) as store:
        await store.ping()
        for moment in range(60):  # from the first turn of the loop to the answer
            async with asyncio.TaskGroup() as tasks:
                some = [
                    tasks.create_task(store.update_note("u", note, {"title": "x"}))
                    for _ in range(3)
                ]
                for _ in range(moment):
                    await asyncio.sleep(0)
                for task in some:
                    task.cancel()
            await asyncio.gather(*(store.note_owner(other) for _ in range(4)))
        with database.locked(note):
            for twice in (False, True):
                async with asyncio.TaskGroup() as tasks:
                    executing = tasks.create_task(
                        store.update_note("u", note, {"title": "stuck"})
                    )
                    waiting = tasks.create_task(
                        store.update_note("u", note, {"title": "stuck"})
                    )
                    await until(lambda: database.waiting_for_locks() == 1)
                    waiting.cancel()
                    executing.cancel()
                    if twice:
                        await asyncio.sleep(0)
                        executing.cancel()
                await until(lambda: database.waiting_for_locks() == 0)
                for _ in range(8):
                    written = await store.update_note("v", other, {"title": "free"})
                    assert isinstance(written, VersionedRow)
        with database.locked(other):  # both connections of the pool work
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(
                    failure(store.update_note("v", other, {"title": "y"}))
                )
                await until(lambda: database.waiting_for_locks() == 1)
                await store.update_note("u", note, {"title": "last"})
    assert database.note(note)["title"] == "last"


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_in_the_moment_a_connection_is_given_it_is_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's wait may swallow it (wait_for before Python 3.12)."""
    given = WaitingClient.set
    asking: list[asyncio.Task[None]] = []

    async def set_and_cancel(self: Any, connection: Any) -> bool:
        taken = await given(self, connection)
        if asking:
            asking.pop().cancel()
        return taken

    async with opened(database.url, pool_min=1, pool_max=1) as store:
        monkeypatch.setattr(WaitingClient, "set", set_and_cancel)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(store.ping())
            asking.append(task)
        assert task.cancelled()
        await store.ping()


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_while_giving_back_no_connection_is_lost(
    database: Database,
) -> None:
    """Giving back waits for a moment when somebody has just begun to wait."""
    metrics = Metrics()

    def stat(name: str) -> float | None:
        return metrics.registry.get_sample_value(
            "typelets_ws_postgres_pool", {"stat": name}
        )

    async with opened(database.url, metrics, pool_min=2, pool_max=2) as store:
        await asyncio.gather(*(store.ping() for _ in range(8)))
        for age in range(1, 30):
            async with asyncio.TaskGroup() as tasks:
                some: list[asyncio.Task[None]] = []
                for _ in range(80):  # one more begins at each turn of the loop
                    some.append(tasks.create_task(store.ping()))
                    await asyncio.sleep(0)
                    if len(some) > age:
                        some[-age].cancel()
                for task in some[-age:]:
                    task.cancel()

        def whole() -> bool:
            store.observe_pool()
            return stat("pool_available") == stat("pool_size") == 2

        await until(whole, 2.0)


# Idle connections.


def backends(database: Database) -> set[int]:
    """The server's processes for the store's connections."""
    rows = database.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'typelets-ws'"
    )
    return {row["pid"] for row in rows}


@pytest.mark.usefixtures("loop_factory")
@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("lease_s", [0.0, 0.01, 10.0])
async def test_each_of_many_has_its_own_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch, lease_s: float, prepare: bool
) -> None:
    """However often links change hands, also under cancellations."""
    monkeypatch.setattr(store_pool, "LEASE_S", lease_s)
    owners = {}
    for number in range(20):
        user = database.add_user(f"user_{number}")
        owners[database.add_note(user)] = user
    rng = random.Random(lease_s)
    metrics = Metrics()

    def stat(name: str) -> float | None:
        labels = {"stat": name}
        return metrics.registry.get_sample_value("typelets_ws_postgres_pool", labels)

    settings = {"pool_max": 3, "prepare": prepare, "wait_ms": 5_000}
    async with opened(database.url, metrics, **settings) as store:

        async def ask(note: str) -> None:
            user = owners[note]
            assert await store.note_owner(note) == user
            written = await store.update_note(user, note, {"title": user})
            assert isinstance(written, VersionedRow)
            row = json.loads(written.row)
            assert (row["id"], row["title"], row["userId"]) == (note, user, user)

        for _ in range(15):
            async with asyncio.TaskGroup() as tasks:
                some = [tasks.create_task(ask(note)) for note in owners]
                for _ in range(rng.randrange(30)):
                    await asyncio.sleep(0)
                for task in rng.sample(some, 5):
                    task.cancel()
        assert len(backends(database)) <= 3

        def whole() -> bool:
            store.observe_pool()
            return stat("pool_available") == stat("pool_size")

        await until(whole)


@pytest.mark.usefixtures("loop_factory")
async def test_an_old_connection_is_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's `max_lifetime` holds for connections that are always idle."""

    def already_old(pool: object, connection: Any) -> None:
        connection._created_at = connection._expire_at = time.monotonic()

    monkeypatch.setattr(store_pool, "LEASE_S", 0.0)
    monkeypatch.setattr(BasePool, "_set_connection_expiry_date", already_old)
    async with opened(database.url, pool_min=1, pool_max=1) as store:
        seen: set[int] = set()
        for _ in range(5):
            await store.ping()
            seen |= backends(database)
        assert len(seen) > 1


@WITH_FAST_PATHS
async def test_what_is_not_needed_goes_back(database: Database) -> None:
    async with opened(database.url, pool_min=4) as store:
        at_hand = vars(vars(store)["_pool"])["_idle"]
        deadline = time.monotonic() + 5
        while len(at_hand) < 2:  # as soon as the pool has made a second one
            assert time.monotonic() < deadline
            await asyncio.gather(*(store.ping() for _ in range(40)))
        for link in at_hand:
            link.leased_until = 0.0
        for _ in range(len(at_hand)):
            await store.ping()
        assert not at_hand  # each went back after its last use


@pytest.mark.usefixtures("loop_factory")
async def test_what_runs_when_the_store_closes_may_end(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with asyncio.TaskGroup() as tasks:
        async with opened(database.url, statement_timeout_ms=5_000) as store:
            with database.locked(note):
                task = tasks.create_task(store.update_note("u", note, {"title": "x"}))
                await until(lambda: database.waiting_for_locks() == 1)
                await store.close()
                assert await failure(store.ping()) == QueryFailure.CLOSED
        assert isinstance(await task, VersionedRow)
    await until(lambda: not backends(database))


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
