"""The contract of `ports.Store`, kept by the unit tests' fake and by Postgres."""

import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from tests.fakes import FakeStore
from tests.integration.postgres.stores import opened
from tests.postgres import Database
from typelets_ws.ports import Conflict, Missing, Store, StoreError, VersionedRow


class Subject(Protocol):
    """A store, and the REST service's side of it."""

    store: Store

    def add_note(self, owner: str) -> str: ...

    def add_folder(self, owner: str) -> str: ...

    def stop(self) -> None: ...


class Fake:
    def __init__(self) -> None:
        self.fake = FakeStore()
        self.store: Store = self.fake

    def add_note(self, owner: str) -> str:
        return self.fake.add_note(str(uuid.uuid4()), owner)

    def add_folder(self, owner: str) -> str:
        return self.fake.add_folder(str(uuid.uuid4()), owner)

    def stop(self) -> None:
        self.fake.down = True


class Real:
    def __init__(self, store: Store, database: Database) -> None:
        self.store = store
        self.database = database
        for user in ("ann", "bob"):
            database.add_user(user)

    def add_note(self, owner: str) -> str:
        return self.database.add_note(owner)

    def add_folder(self, owner: str) -> str:
        return self.database.add_folder(owner)

    def stop(self) -> None:
        self.database.stop()


Opened = Callable[[], AbstractAsyncContextManager[Subject]]


@pytest.fixture(params=["fake", "postgres"])
def subject(request: pytest.FixtureRequest) -> Opened:
    """Opens one of the two, in the test's loop."""
    real = request.param == "postgres"
    database = request.getfixturevalue("database") if real else None

    @asynccontextmanager
    async def open_subject() -> AsyncIterator[Subject]:
        if database is None:
            yield Fake()
        else:
            async with opened(database.url) as store:
                yield Real(store, database)

    return open_subject


async def test_an_update_returns_the_row_and_its_time(subject: Opened) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        written = await one.store.update_note("ann", note, {"title": "x"})
        assert isinstance(written, VersionedRow)
        row = json.loads(written.row)
        assert (row["id"], row["title"]) == (note, "x")
        assert row["updatedAt"] == written.updated_at


async def test_each_update_is_later_than_the_one_before(subject: Opened) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        times = []
        for number in range(20):
            written = await one.store.update_note("ann", note, {"title": str(number)})
            assert isinstance(written, VersionedRow)
            times.append(written.updated_at)
        assert all(before < after for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("base", [None, "2026-01-01T00:00:00.000Z"])
async def test_only_the_owner_writes(subject: Opened, base: str | None) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        for user, note_id in (("bob", note), ("ann", str(uuid.uuid4()))):
            arguments = user, note_id, {"title": "x"}
            found: VersionedRow | Missing | Conflict
            if base is None:
                found = await one.store.update_note(*arguments)
            else:
                found = await one.store.update_note_based(*arguments, base)
            assert found is Missing.NOTE


async def test_the_folder_must_be_the_users_own(subject: Opened) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        mine, foreign = one.add_folder("ann"), one.add_folder("bob")
        for folder in (foreign, str(uuid.uuid4())):
            found = await one.store.update_note("ann", note, {"folderId": folder})
            assert found is Missing.FOLDER
        for own in (mine, None):
            written = await one.store.update_note("ann", note, {"folderId": own})
            assert isinstance(written, VersionedRow)
            assert json.loads(written.row)["folderId"] == own


async def test_an_update_based_on_an_older_version_is_a_conflict(
    subject: Opened,
) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        first = await one.store.update_note("ann", note, {"title": "1"})
        assert isinstance(first, VersionedRow)
        second = await one.store.update_note_based(
            "ann", note, {"title": "2"}, first.updated_at
        )
        assert isinstance(second, VersionedRow)
        late = await one.store.update_note_based(
            "ann", note, {"title": "3"}, first.updated_at
        )
        assert late == Conflict(second.row, second.updated_at)


async def test_owners_are_reported_and_ids_of_the_other_kind_have_none(
    subject: Opened,
) -> None:
    async with subject() as one:
        note, folder = one.add_note("ann"), one.add_folder("bob")
        assert await one.store.note_owner(note) == "ann"
        assert await one.store.folder_owner(folder) == "bob"
        assert await one.store.note_owner(folder) is None
        assert await one.store.folder_owner(note) is None


async def test_a_stopped_database_raises_one_error(subject: Opened) -> None:
    async with subject() as one:
        note = one.add_note("ann")
        one.stop()
        for work in (
            one.store.update_note("ann", note, {"title": "x"}),
            one.store.update_note_based("ann", note, {"title": "x"}, "2026"),
            one.store.note_owner(note),
            one.store.folder_owner(note),
        ):
            with pytest.raises(StoreError):
                await work
