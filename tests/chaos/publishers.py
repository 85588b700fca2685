"""REST hosts that write rows and publish as badly as REST hosts do.

Each has a clock of its own, seconds off. After a commit it publishes, or forgets
to, or does so late, twice, or out of order. Some transactions commit late, write in
savepoints, or are rolled back.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import redis.exceptions

from tests.chaos.rows import FOLDER, NOTE, Row, fetch
from tests.chaos.world import World
from typelets_ws._publisher.redis import async_client
from typelets_ws._publisher.unsent import reset_is_failure

__all__ = ["RestHost"]

Event = dict[str, Any]
MOVED = """updated_at = clock_timestamp() AT TIME ZONE 'UTC'
    + %s * interval '1 second' WHERE id = %s"""
"""The clock of a host that is some seconds off."""

MOST_ROWS = 40
"""Notes, and folders, of a user: a run of hours does not grow."""

HABITS = ["once", "once", "once", "never", "late", "twice"]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A client; a rest may cancel its host at any moment, also while it closes.

    redis-py's own leaves its socket open when it is cancelled as it connects.
    """
    link = async_client(url, 1.0, 1)
    try:
        yield link
    finally:
        await asyncio.shield(link.aclose())


class RestHost:
    """One host of the REST service."""

    def __init__(self, world: World, users: list[str], rng: random.Random) -> None:
        self.world = world
        self.users = users
        self.rng = rng
        self.skew_s = rng.uniform(-3.0, 3.0)
        self.counts: Counter[str] = Counter()
        self._numbers = 0

    async def live(self) -> None:
        """Write and publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self.rng.uniform(0.02, 0.15))
                user = self.rng.choice(self.users)
                action = self.rng.choice(ACTIONS)
                try:
                    event = await asyncio.to_thread(action, self, user)
                except psycopg.Error as exc:
                    self.counts[type(exc).__name__] += 1
                    continue
                self.counts[action.__name__] += 1
                if event is not None:
                    group.create_task(self._publish(user, event))

    async def _publish(self, user: str, event: Event) -> None:
        habit = self.rng.choice(HABITS)
        if event["event"].endswith("_deleted"):
            habit = "once"
        self.counts[habit] += 1
        if habit == "never":
            return
        if habit == "late":
            await asyncio.sleep(self.rng.uniform(0.2, 2.0))
        times = 2 if habit == "twice" else 1
        try:
            servers = await asyncio.to_thread(self.world.redis.masters)
            url = f"redis://127.0.0.1:{self.rng.choice(list(servers)).port}"
            async with connected(url) as link, asyncio.timeout(2):
                with reset_is_failure():
                    for _ in range(times):
                        await link.publish(f"typelets:user:{user}", json.dumps(event))
        except (redis.exceptions.RedisError, OSError, StopIteration, TimeoutError):
            self.counts["unpublished"] += 1

    # Writes; each returns the event that belongs to it.

    def _title(self, user: str) -> str:
        self._numbers += 1
        return f"{user} rest {id(self)} {self._numbers}"

    def _some(self, link: psycopg.Connection, table: str, user: str) -> str | None:
        query = f"SELECT id::text FROM {table} WHERE user_id = %s ORDER BY id"
        rows = link.execute(query.encode(), [user]).fetchall()
        return str(self.rng.choice(rows)[0]) if rows else None

    def _is_full(self, link: psycopg.Connection, table: str, user: str) -> bool:
        query = f"SELECT count(*) >= %s FROM {table} WHERE user_id = %s"
        row = link.execute(query.encode(), [MOST_ROWS, user]).fetchone()
        return row == (True,)

    def change_note(self, user: str) -> Event | None:
        """Change a title, with this host's clock."""
        with self.world.connect() as link:
            note = self._some(link, "notes", user)
            if note is None:
                return None
            link.execute(
                f"UPDATE notes SET title = %s, starred = NOT starred, {MOVED}".encode(),
                [self._title(user), self.skew_s, note],
            )
            return _note_updated(link, note)

    def change_late(self, user: str) -> Event | None:
        """Change a note in a savepoint, and commit or roll back some time later."""
        with psycopg.connect(self.world.database.url) as link:
            note = self._some(link, "notes", user)
            if note is None:
                return None
            undone = self.rng.random() < 0.3
            with link.transaction(force_rollback=undone):
                link.execute("SAVEPOINT inner_one")
                link.execute(
                    f"UPDATE notes SET title = %s, {MOVED}".encode(),
                    [self._title(user), self.skew_s, note],
                )
                link.execute("SELECT pg_sleep(%s)", [self.rng.uniform(0.0, 0.8)])
            return None if undone else _note_updated(link, note)

    def create_note(self, user: str) -> Event | None:
        """Create a note in one of the user's folders, or in none."""
        with self.world.connect() as link:
            if self._is_full(link, "notes", user):
                return None
            folder = self._some(link, "folders", user)
            row = link.execute(
                "INSERT INTO notes (user_id, folder_id, title) VALUES (%s, %s, %s)"
                " RETURNING id::text",
                [user, folder, self._title(user)],
            ).fetchone()
            assert row is not None
            found = _rows(link, NOTE, row[0])
            return {"event": "note_created", "noteData": found[0]} if found else None

    def delete_note(self, user: str) -> Event | None:
        """Delete a note for good."""
        with self.world.connect() as link:
            note = self._some(link, "notes", user)
            if note is None or self.rng.random() < 0.5:
                return None
            link.execute("DELETE FROM notes WHERE id = %s", [note])
            return {"event": "note_deleted", "noteId": note}

    def create_folder(self, user: str) -> Event | None:
        """Create a folder."""
        with self.world.connect() as link:
            if self._is_full(link, "folders", user):
                return None
            row = link.execute(
                "INSERT INTO folders (user_id, name) VALUES (%s, %s)"
                " RETURNING id::text",
                [user, self._title(user)],
            ).fetchone()
            assert row is not None
            found = _rows(link, FOLDER, row[0])
            return (
                {"event": "folder_created", "folderData": found[0]} if found else None
            )

    def rename_folder(self, user: str) -> Event | None:
        """Rename a folder."""
        with self.world.connect() as link:
            folder = self._some(link, "folders", user)
            if folder is None:
                return None
            link.execute(
                f"UPDATE folders SET name = %s, {MOVED}".encode(),
                [self._title(user), self.skew_s, folder],
            )
            found = _rows(link, FOLDER, folder)
            if not found:
                return None
            return {
                "event": "folder_updated",
                "folderId": folder,
                "changes": {k: found[0][k] for k in ("name", "updatedAt")},
                "updatedFolder": found[0],
            }

    def delete_folder(self, user: str) -> Event | None:
        """Delete a folder; its notes stay, without a folder and with the same stamp."""
        with self.world.connect() as link:
            folder = self._some(link, "folders", user)
            if folder is None or self.rng.random() < 0.7:
                return None
            link.execute("DELETE FROM folders WHERE id = %s", [folder])
            return {"event": "folder_deleted", "folderId": folder}


def _rows(link: psycopg.Connection, kind: str, row_id: str) -> list[Row]:
    return fetch(link, kind, "id = %s", row_id)


def _note_updated(link: psycopg.Connection, note: str) -> Event | None:
    found = _rows(link, NOTE, note)
    if not found:
        return None
    names = ("title", "starred", "updatedAt")
    return {
        "event": "note_updated",
        "noteId": note,
        "changes": {name: found[0][name] for name in names},
        "updatedNote": found[0],
    }


ACTIONS: list[Callable[[RestHost, str], Event | None]] = [
    RestHost.change_note, RestHost.change_note, RestHost.change_note,
    RestHost.change_late, RestHost.create_note, RestHost.delete_note,
    RestHost.create_folder, RestHost.rename_folder, RestHost.delete_folder,
]  # fmt: skip
