"""Row versions on a real Postgres: readers of changes, and writers."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from tests.integration.postgres import stores
from tests.postgres import Database
from typelets_ws.postgres.changes import ChangeReader
from typelets_ws.recovery_ports import (
    Extent,
    Since,
    Snapshot,
    UserChanges,
)

ALICE, BOB = "user_alice", "user_bob"
WIDE = Extent(rows=10_000, bytes=100_000_000)
opened = partial(stores.opened, statement_timeout_ms=10_000, wait_ms=2_000)
"""A store whose statements may take their time."""


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
