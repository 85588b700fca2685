"""Devices that keep what they are sent, and a REST service that publishes throughout.

`EventReader` stands for both kinds of client: one with a cursor sends `sync` after each
sign-in, one without it lives by events and by what the daemon sends of itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.daemon import eventually
from tests.e2e.crowd import TEXT, Crowd, Member, masked
from tests.notes import whole_note
from typelets_ws.publisher import AsyncPublisher

__all__ = ["EventReader", "Events", "assert_none_lost", "publishing"]

PUBLISHED_BY = "rest"
EVERY_S = 0.02
INSERT = """INSERT INTO notes (user_id, title) VALUES (%s, %s)
    RETURNING id, title, created_at AS "createdAt", updated_at AS "updatedAt" """


class EventReader(Member):
    """A device with the numbers of the notes that it holds."""

    def __init__(self, crowd: Crowd, token: str) -> None:
        super().__init__(crowd, token)
        self.syncs = len(crowd.members) % 2 == 0
        self.user = ""
        self.live: set[str] = set()
        """Numbers of events that came as they were published."""
        self.healed: set[str] = set()
        """Numbers of rows that the daemon sent of itself, or in answer to `sync`."""
        self.resyncs = 0
        self._cursor: str | None = None

    @property
    def held(self) -> set[str]:
        return self.live | self.healed

    def _message(self, payload: bytes) -> None:
        super()._message(payload)
        message: dict[str, Any] = json.loads(payload)
        kind = message["type"]
        if kind == "auth_success":
            self.user = message["userId"]
            if self.syncs:
                self._sync()
        elif kind == "note_created_sync":
            published = message["fromUserId"] == PUBLISHED_BY
            kept = self.live if published else self.healed
            kept.add(message["noteData"]["title"])
        elif kind == "sync_page":
            self._cursor = message["cursor"]
            self.healed.update(note["title"] for note in message["notes"])
            if message["more"]:
                self._sync()
        elif kind == "resync_required":
            self.resyncs += 1

    def _sync(self) -> None:
        request = {"type": "sync"} | ({"cursor": self._cursor} if self._cursor else {})
        self._write(masked(TEXT, json.dumps(request).encode()))


class Events:
    """Numbered events: each is a new note with its number as the title."""

    def __init__(self, users: Sequence[str]) -> None:
        self.of: dict[str, set[str]] = {user: set() for user in users}
        self.count = 0
        self.stopped = False
        self._users = users

    async def run(self, redis_url: str, database_url: str) -> None:
        """Write, commit, publish; until stopped."""
        async with (
            await psycopg.AsyncConnection.connect(
                database_url,
                autocommit=True,
                row_factory=dict_row,
                prepare_threshold=None,  # a migration would break it
            ) as database,
            AsyncPublisher(redis_url, timeout_s=5) as publisher,
        ):
            while not self.stopped:
                user, number = self._users[self.count % len(self._users)], self.count
                row = await database.execute(INSERT, (user, str(number)))
                note = whole_note(user, **(await row.fetchone() or {}))
                self.of[user].add(str(number))
                self.count += 1
                await publisher.notify_note_created(
                    user, note, from_user_id=PUBLISHED_BY
                )
                assert publisher.failures == 0
                await asyncio.sleep(EVERY_S)

    def missing(self, reader: EventReader) -> set[str]:
        """Numbers that the device does not hold."""
        return self.of[reader.user] - reader.held

    def missed(self, reader: EventReader) -> set[str]:
        """Numbers that did not come as they were published."""
        return self.of[reader.user] - reader.live


@asynccontextmanager
async def publishing(
    users: Sequence[str], redis_url: str, database_url: str
) -> AsyncIterator[Events]:
    """Publish in the background for as long as the context is entered."""
    events = Events(users)
    async with asyncio.TaskGroup() as group:
        group.create_task(events.run(redis_url, database_url))
        yield events
        # Not cancelled: each event that is written is published as well.
        events.stopped = True


async def assert_none_lost(devices: Crowd, events: Events) -> None:
    """Each device ends with all numbers; prints how many it had missed before."""
    found = [each for each in devices.members if isinstance(each, EventReader)]
    assert found
    assert len(found) == len(devices.members)
    missed = sum(len(events.missed(each)) for each in found)
    try:
        await eventually(lambda: not any(map(events.missing, found)))
    except AssertionError:
        lost = {(each.user, each.syncs): events.missing(each) for each in found}
        pytest.fail(f"lost: { ({who: what for who, what in lost.items() if what}) }")
    total = sum(len(events.of[each.user]) for each in found)
    print(f"{events.count} events, {total} deliveries: {missed} missed, all healed")
