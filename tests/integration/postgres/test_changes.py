"""Row versions against a real Postgres: nothing committed is ever skipped."""

import asyncio
import hashlib
import json
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from tests.postgres import Database, chosen_paths
from typelets_ws.config import model as config
from typelets_ws.ports import StoreError
from typelets_ws.postgres.changes import ChangeReader, Unsupported
from typelets_ws.postgres.store import Store
from typelets_ws.recovery_ports import (
    Digest,
    Extent,
    RowKey,
    RowKind,
    Since,
    Snapshot,
    StoredRow,
    TableContents,
    UserChanges,
)
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("fast_paths")
ALICE, BOB = "user_alice", "user_bob"
WIDE = Extent(rows=10_000, bytes=100_000_000)
EMPTY = TableContents(0, "0" * 32)


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[Store]:
    settings = {"statement_timeout_ms": 10_000, "wait_ms": 2_000, **settings}
    store = Store(
        config.Database(url=url, **settings),
        Telemetry(Metrics(), structlog.get_logger()),
        chosen_paths(),
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def alice(database: Database) -> str:
    return database.add_user(ALICE)


@contextmanager
def transaction(database: Database) -> Iterator[psycopg.Connection]:
    """A transaction of the REST service's, for the test to end."""
    with psycopg.connect(database.url) as link:
        yield link
        link.rollback()


def rename(link: psycopg.Connection, note: str, title: str) -> None:
    link.execute("UPDATE notes SET title = %s WHERE id = %s", [title, note])


async def since(
    reader: ChangeReader, horizon: int | None, user: str = ALICE, **fields: Any
) -> tuple[Snapshot, UserChanges]:
    extent = fields.pop("extent", WIDE)
    snapshot, found = await reader.changed([Since(user, horizon, **fields)], extent)
    (changes,) = found
    return snapshot, changes


def titles(changes: UserChanges) -> list[str]:
    return sorted(json.loads(row.text)["title"] for row in changes.rows)


async def test_a_change_is_found_from_the_horizon_before_it_and_not_after(
    database: Database, alice: str
) -> None:
    old, new = (database.add_note(alice, title=title) for title in ("old", "new"))
    async with opened(database.url_as("typelets_ws")) as store:
        before = await store.changes.horizon()
        database.execute("UPDATE notes SET title = 'newer' WHERE id = %s", new)
        after, changes = await since(store.changes, before.horizon)
        assert [row.key for row in changes.rows] == [RowKey(ALICE, RowKind.NOTE, new)]
        assert titles(changes) == ["newer"]
        assert (changes.more, changes.digest, changes.ids) == (False, None, None)
        _, changes = await since(store.changes, after.horizon)
        assert changes.rows == []
        _, changes = await since(store.changes, None)
        assert {row.key.row_id for row in changes.rows} == {old, new}


async def test_rows_have_the_text_that_an_update_returns(
    database: Database, alice: str
) -> None:
    folder = database.add_folder(
        alice, name="f", color="#fff", sort_order=3, is_default=True,
        created_at="2024-01-01 00:00:00", updated_at="2024-02-29 12:00:00.999999",
    )  # fmt: skip
    note = database.add_note(alice, folder_id=folder)
    async with opened(database.url) as store:
        written = await store.update_note(alice, note, {"starred": True})
        _, changes = await since(store.changes, None)
        first, second = changes.rows
        assert first.text.decode() == (
            f'{{"id":"{folder}","userId":"{ALICE}","name":"f","color":"#fff",'
            '"parentId":null,"sortOrder":3,"isDefault":true,'
            '"createdAt":"2024-01-01T00:00:00.000Z",'
            '"updatedAt":"2024-02-29T12:00:00.999Z"}'
        )
        assert first.updated_at == "2024-02-29T12:00:00.999Z"
        assert (second.text, second.updated_at) == (
            getattr(written, "row", None), getattr(written, "updated_at", None),
        )  # fmt: skip


async def test_a_transaction_that_was_open_at_the_horizon_is_found(
    database: Database, alice: str
) -> None:
    """Also when it began to write before it, and from within a savepoint."""
    notes = [database.add_note(alice) for _ in range(3)]
    async with opened(database.url) as store:
        with transaction(database) as late:
            rename(late, notes[0], "before")
            with late.transaction():
                rename(late, notes[1], "savepoint")
            horizon = (await store.changes.horizon()).horizon
            for _ in range(5):  # others move the newest id on
                database.add_note(alice, title="other")
            with late.transaction():
                rename(late, notes[2], "after")
            middle, changes = await since(store.changes, horizon)
            assert titles(changes) == ["other"] * 5
            late.commit()
        _, changes = await since(store.changes, middle.horizon)
        assert {"before", "savepoint", "after"} <= set(titles(changes))


async def test_a_prepared_transaction_is_found_when_it_is_committed(
    database: Database, alice: str
) -> None:
    note = database.add_note(alice)
    async with opened(database.url) as store:
        with transaction(database) as link:
            rename(link, note, "two phases")
            link.execute("PREPARE TRANSACTION 'tp'")
        database.add_note(alice, title="other")
        middle, changes = await since(
            store.changes, (await store.changes.horizon()).horizon
        )
        assert "two phases" not in titles(changes)
        database.execute("COMMIT PREPARED 'tp'")
        _, changes = await since(store.changes, middle.horizon)
        assert "two phases" in titles(changes)


async def test_what_was_rolled_back_is_no_change(
    database: Database, alice: str
) -> None:
    note = database.add_note(alice)
    async with opened(database.url) as store:
        horizon = (await store.changes.horizon()).horizon
        with transaction(database) as link:
            rename(link, note, "never")
            link.rollback()
            with suppress_division(link):
                rename(link, note, "neither")
                link.execute("SELECT 1 / 0")
        _, changes = await since(store.changes, horizon)
        assert changes.rows == []


@contextmanager
def suppress_division(link: psycopg.Connection) -> Iterator[None]:
    with pytest.raises(psycopg.errors.DivisionByZero), link.transaction():
        yield


async def test_vacuum_full_hides_no_change(database: Database, alice: str) -> None:
    note, _ = database.add_note(alice), database.add_note(alice)
    async with opened(database.url) as store:
        horizon = (await store.changes.horizon()).horizon
        database.execute("UPDATE notes SET title = 'changed' WHERE id = %s", note)
        database.execute("VACUUM FULL notes")
        database.execute("VACUUM FREEZE notes")
        _, changes = await since(store.changes, horizon)
        assert "changed" in titles(changes)


async def test_notes_of_a_deleted_folder_are_changes(
    database: Database, alice: str
) -> None:
    """Their folder_id becomes null, and their updated_at stays."""
    folder = database.add_folder(alice)
    note, _ = database.add_note(alice, folder_id=folder), database.add_note(alice)
    async with opened(database.url) as store:
        before, everything = await since(store.changes, None)
        database.execute("DELETE FROM folders WHERE id = %s", folder)
        _, changes = await since(store.changes, before.horizon)
        (row,) = changes.rows
        assert row.key.row_id == note
        assert json.loads(row.text)["folderId"] is None
        (was,) = [row for row in everything.rows if row.key.row_id == note]
        assert row.updated_at == was.updated_at
        assert row.version != was.version


async def pages(
    reader: ChangeReader, horizon: int | None, extent: Extent, user: str = ALICE
) -> AsyncIterator[tuple[Snapshot, UserChanges]]:
    after = None
    while True:
        snapshot, changes = await since(
            reader, horizon, user, after=after, extent=extent
        )
        yield snapshot, changes
        if not changes.more:
            return
        assert changes.rows, "a page without an end"
        last = changes.rows[-1].key
        after = (last.kind, last.row_id)


@pytest.mark.parametrize("most", [1, 3, 7, 100])
async def test_pages_have_each_row_once_folders_first(
    database: Database, alice: str, most: int
) -> None:
    database.add_user(BOB)
    expected = {database.add_folder(alice) for _ in range(5)}
    expected |= {database.add_note(alice) for _ in range(9)}
    database.add_note(BOB)
    async with opened(database.url) as store:
        rows: list[StoredRow] = []
        extent = Extent(most, 10**6, digest=True)
        async for _, changes in pages(store.changes, None, extent):
            assert len(changes.rows) <= most
            assert (changes.digest is None) is changes.more
            rows += changes.rows
        assert len(rows) == 14
        assert {row.key.row_id for row in rows} == expected
        kinds = [row.key.kind for row in rows]
        assert kinds == [RowKind.FOLDER] * 5 + [RowKind.NOTE] * 9


async def test_pages_are_bounded_in_bytes_but_a_row_always_fits(
    database: Database, alice: str
) -> None:
    for size in (10, 1_000_000, 1_000_000, 10, 10):
        database.add_note(alice, content="x" * size)
    async with opened(database.url) as store:
        extent, sizes = Extent(100, 100_000, digest=True), []
        async for _, changes in pages(store.changes, None, extent):
            sizes.append(sum(len(row.text) for row in changes.rows))
        assert sum(sizes) > 2_000_000
        assert all(size < 1_200_000 for size in sizes)


async def test_a_row_written_between_two_pages_is_in_one_of_the_next(
    database: Database, alice: str
) -> None:
    """Before the page's end it is found from the first page's horizon."""
    ids = sorted(database.add_note(alice) for _ in range(6))
    async with opened(database.url) as store:
        horizon = (await store.changes.horizon()).horizon
        database.execute("UPDATE notes SET title = 'a'")
        held: dict[str, str] = {}
        first: Snapshot | None = None
        extent = Extent(2, 10**6)
        async for snapshot, changes in pages(store.changes, horizon, extent):
            first = first or snapshot
            held |= {r.key.row_id: json.loads(r.text)["title"] for r in changes.rows}
            database.execute("UPDATE notes SET title = title || 'b'")
        assert held == dict(zip(ids, ["a", "a", "ab", "ab", "abb", "abb"], strict=True))
        assert first is not None
        _, changes = await since(store.changes, first.horizon)
        assert titles(changes) == ["abbb"] * 6


@pytest.mark.slow
async def test_a_user_with_a_hundred_thousand_notes(
    database: Database, alice: str
) -> None:
    database.execute(
        "INSERT INTO notes (user_id, title) SELECT %s, 't' || g"
        " FROM generate_series(1, 100000) AS g",
        alice,
    )
    database.execute("ANALYZE notes")
    async with opened(database.url) as store:
        extent = Extent(10_000, 20_000_000, digest=True, ids=True)
        seen: set[str] = set()
        async for last_page, changes in pages(store.changes, None, extent):
            snapshot = last_page
            seen |= {row.key.row_id for row in changes.rows}
        assert len(seen) == 100_000
        assert changes.digest is not None
        assert changes.digest.notes.rows == 100_000
        assert changes.ids is not None
        assert set(json.loads(changes.ids.notes)) == seen
        last = max(seen)
        database.execute("UPDATE notes SET title = 'x' WHERE id = %s", last)
        _, changes = await since(store.changes, snapshot.horizon)
        assert [row.key.row_id for row in changes.rows] == [last]


def xor(rows: list[StoredRow], kind: RowKind) -> str:
    """As a browser computes it."""
    total = 0
    for row in rows:
        if row.key.kind is kind:
            stored = json.loads(row.text)
            text = f"{stored['id']}:{stored['updatedAt']}".encode()
            total ^= int.from_bytes(hashlib.sha256(text).digest()[:16])
    return f"{total:032x}"


async def test_digest_and_ids(database: Database, alice: str) -> None:
    database.add_user(BOB)
    notes = {database.add_note(alice) for _ in range(4)}
    folders = {database.add_folder(alice) for _ in range(3)}
    database.add_note(BOB)
    extent = WIDE._replace(digest=True, ids=True)
    async with opened(database.url) as store:
        _, (hers, nobodys) = await store.changes.changed(
            [Since(ALICE, None), Since("user_nobody", None)], extent
        )
        assert hers.digest == Digest(
            TableContents(4, xor(hers.rows, RowKind.NOTE)),
            TableContents(3, xor(hers.rows, RowKind.FOLDER)),
        )
        assert hers.ids is not None
        assert set(json.loads(hers.ids.notes)) == notes
        assert set(json.loads(hers.ids.folders)) == folders
        assert nobodys == UserChanges(
            [], more=False, digest=Digest(EMPTY, EMPTY), ids=nobodys.ids
        )
        assert nobodys.ids is not None
        assert json.loads(nobodys.ids.notes) == json.loads(nobodys.ids.folders) == []


async def test_many_users_in_one_statement_get_their_own(database: Database) -> None:
    odd = [
        "plain",
        'quote"',
        "back\\slash",
        "per%cent",
        "percent%(s)s",
        "é漢😀",
        "'; --",
    ]
    for user in odd:
        database.add_user(user)
        database.add_note(user, title=user)
    wanted = [Since(user, None) for user in [*odd, "nul\0", "\ud800", "unknown"]]
    async with opened(database.url) as store:
        _, found = await store.changes.changed(wanted, WIDE)
        assert [titles(changes) for changes in found] == [
            *([user] for user in odd), [], [], [],
        ]  # fmt: skip
        assert all(
            row.key.user_id == since.user_id
            for since, changes in zip(wanted, found, strict=True)
            for row in changes.rows
        )


async def test_each_user_has_a_horizon_and_a_limit_of_its_own(
    database: Database, alice: str
) -> None:
    database.add_user(BOB)
    async with opened(database.url) as store:
        for number in range(3):
            database.add_note(alice, title=f"{number}")
            database.add_note(BOB, title=f"{number}")
        middle = (await store.changes.horizon()).horizon
        for number in range(3, 6):
            database.add_note(alice, title=f"{number}")
            database.add_note(BOB, title=f"{number}")
        _, found = await store.changes.changed(
            [Since(ALICE, middle), Since(BOB, None)], Extent(4, 10**6)
        )
        assert [(len(some.rows), some.more) for some in found] == [
            (3, False), (4, True),
        ]  # fmt: skip


async def test_settled_rows_are_older_than_a_second_horizon(
    database: Database, alice: str
) -> None:
    async with opened(database.url) as store:
        database.add_note(alice, title="old")
        middle = (await store.changes.horizon()).horizon
        database.add_note(alice, title="young")
        _, changes = await since(store.changes, None, settled=middle)
        assert {json.loads(row.text)["title"]: row.settled for row in changes.rows} == {
            "old": True,
            "young": False,
        }
        _, changes = await since(store.changes, None)
        assert not any(row.settled for row in changes.rows)


async def test_a_search_can_be_limited_to_recent_rows(
    database: Database, alice: str
) -> None:
    for hours in (0, 1.5, 3):
        database.add_note(alice, title=f"{hours}")
        database.execute(
            "UPDATE notes SET updated_at = (now() AT TIME ZONE 'UTC')"
            " - make_interval(secs => %s) WHERE title = %s",
            hours * 3600,
            f"{hours}",
        )
    async with opened(database.url) as store:
        narrow = WIDE._replace(narrow=True)
        _, changes = await since(store.changes, None, since_s=3600, extent=narrow)
        assert titles(changes) == ["0", "1.5"], "with the margin of an hour"
        _, changes = await since(store.changes, None, since_s=3600)
        assert titles(changes) == ["0"]


async def test_rows_by_id_are_the_users_own_and_of_their_kind(
    database: Database, alice: str
) -> None:
    database.add_user(BOB)
    note, folder = database.add_note(alice, title="mine"), database.add_folder(alice)
    bobs = database.add_note(BOB)
    keys = [
        RowKey(ALICE, RowKind.NOTE, note),
        RowKey(ALICE, RowKind.FOLDER, folder),
        RowKey(ALICE, RowKind.NOTE, bobs),
        RowKey(ALICE, RowKind.NOTE, folder),
        RowKey("\0", RowKind.NOTE, note),
        RowKey(ALICE, RowKind.NOTE, str(uuid.uuid4())),
    ]
    async with opened(database.url) as store:
        found = await store.changes.rows(keys)
        assert list(found) == [keys[1], keys[0]]
        assert json.loads(found[keys[0]].text)["title"] == "mine"
        _, changes = await since(store.changes, None)
        assert {row.key: row.version for row in changes.rows} == {
            key: row.version for key, row in found.items()
        }
        plain = await store.changes.rows(keys, versions=False)
        assert [row.text for row in plain.values()] == [
            row.text for row in found.values()
        ]


# Privileges.


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


# Beside other transactions.


class Writers:
    """REST hosts: long and short transactions, savepoints, rollbacks."""

    def __init__(
        self, database: Database, notes: list[str], rng: random.Random
    ) -> None:
        self._links = [psycopg.connect(database.url) for _ in range(3)]
        self._busy: list[set[str]] = [set() for _ in self._links]
        self._notes, self._rng, self._resting = notes, rng, False

    def step(self) -> None:
        if self._resting:
            return
        number = self._rng.randrange(len(self._links))
        link, busy = self._links[number], self._busy[number]
        match self._rng.randrange(6):
            case 0 | 1 | 2:
                taken = set().union(*self._busy) - busy
                note = self._rng.choice(self._notes)
                if note in taken:
                    return  # one thread would wait for itself
                busy.add(note)
                link.execute("SELECT")  # so that the next is a savepoint
                with link.transaction(force_rollback=self._rng.random() < 0.2):
                    rename(link, note, f"{self._rng.random()}")
            case 3 | 4:
                link.commit()
                busy.clear()
            case 5:
                link.rollback()
                busy.clear()

    def rest(self) -> None:
        self._resting = True
        for link in self._links:
            link.commit()

    def close(self) -> None:
        for link in self._links:
            link.close()


@pytest.mark.parametrize("seed", range(8))
async def test_a_reader_that_follows_the_horizon_ends_with_the_table(
    database: Database, alice: str, seed: int
) -> None:
    rng = random.Random(seed)
    notes = [database.add_note(alice) for _ in range(12)]
    writers = Writers(database, notes, rng)
    held: dict[str, bytes] = {}
    async with opened(database.url) as store:
        horizon: int | None = None

        async def follow() -> None:
            nonlocal horizon
            following, first = None, True
            extent = Extent(rng.randint(1, 5), 10**6)
            async for snapshot, changes in pages(store.changes, horizon, extent):
                following = snapshot.horizon if first else following
                first = False
                held.update({row.key.row_id: row.text for row in changes.rows})
                for _ in range(rng.randrange(3)):
                    writers.step()
            horizon = following

        for _ in range(40):
            for _ in range(rng.randrange(6)):
                writers.step()
            await follow()
        writers.rest()
        await follow()
        await follow()
        writers.close()
        _, changes = await since(store.changes, None)
        assert held == {row.key.row_id: row.text for row in changes.rows}
