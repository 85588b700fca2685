"""Pages of changes, digests, ids, and rows by id, on a real Postgres."""

import hashlib
import json
import uuid

import pytest

from tests.daemon import WITH_FAST_PATHS
from tests.integration.postgres.changes import (
    ALICE,
    BOB,
    WIDE,
    opened,
    pages,
    since,
    titles,
)
from tests.postgres import Database
from typelets_ws.postgres.changes import ROWS_BYTES
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

pytestmark = pytest.mark.usefixtures("fast_paths")
EMPTY = TableContents(0, "0" * 32)


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
@WITH_FAST_PATHS  # what takes its time is Postgres
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
        answer = await store.changes.rows(keys)
        assert set(answer) == set(keys)
        found = {key: row for key, row in answer.items() if row is not None}
        assert list(found) == keys[:2]
        assert json.loads(found[keys[0]].text)["title"] == "mine"
        _, changes = await since(store.changes, None)
        assert {row.key: row.version for row in changes.rows} == {
            key: row.version for key, row in found.items()
        }
        plain = await store.changes.rows(keys, versions=False)
        assert [row and row.text for row in plain.values()] == [
            row and row.text for row in answer.values()
        ]


async def test_rows_by_id_are_as_many_of_each_user_as_fit(
    database: Database, alice: str
) -> None:
    database.add_user(BOB)
    half = "x" * (ROWS_BYTES // 2)
    large = database.add_note(alice, encrypted_content=half * 20)
    notes = [database.add_note(alice, encrypted_content=half) for _ in range(4)]
    gone, folder = str(uuid.uuid4()), database.add_folder(alice)
    bobs = [database.add_note(BOB, encrypted_content=half) for _ in range(2)]
    absent = RowKey(ALICE, RowKind.NOTE, gone)
    rest = [
        *(RowKey(ALICE, RowKind.NOTE, note) for note in notes),
        RowKey(ALICE, RowKind.FOLDER, folder),
    ]
    keys = [
        RowKey(ALICE, RowKind.NOTE, large), absent, *rest,
        *(RowKey(BOB, RowKind.NOTE, note) for note in bobs),
    ]  # fmt: skip
    async with opened(database.url) as store:
        for versions in (True, False):
            found = await store.changes.rows(keys, versions=versions)
            assert list(found) == [*keys[:2], *keys[-2:]], (
                "the first, whatever its size"
            )
            assert found[absent] is None
        twice = await store.changes.rows([*rest, *rest])
        assert list(twice) == rest[:2], "a key counts once"
