"""Row versions on a real Postgres: nothing committed is ever skipped."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.integration.postgres.changes import (
    ALICE,
    opened,
    pages,
    rename,
    since,
    titles,
    transaction,
)
from tests.postgres import Database
from typelets_ws.recovery_ports import (
    Extent,
    RowKey,
    RowKind,
)

pytestmark = pytest.mark.usefixtures("fast_paths")


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
