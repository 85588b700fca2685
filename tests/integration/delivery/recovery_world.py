"""Devices, REST hosts and faults for `recovery_seeds`.

`OldClient` follows the old web client's rules to the letter; `SyncClient` those of the
sync protocol. `RestHost` writes like a REST service with a clock of its own and a
publisher that skips, delays, repeats and reorders.
"""

import asyncio
import hashlib
import json
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

import psycopg
import redis.asyncio as redis_client
from psycopg.rows import dict_row
from websockets.exceptions import ConnectionClosed

from tests.daemon import Device, Message
from tests.tokens import mint
from typelets_ws import testing
from typelets_ws.postgres.changes_sql import FOLDER_ROW
from typelets_ws.postgres.sql import NOTE_ROW

Rows = dict[str, Message]
LIVE = {"note": ("notes", "n", NOTE_ROW), "folder": ("folders", "f", FOLDER_ROW)}


class Server(Protocol):
    """A daemon that clients may connect to."""

    @property
    def url(self) -> str: ...


class Tables:
    """What Postgres holds, over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._link = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def of(self, user: str) -> tuple[Rows, Rows]:
        """The user's notes and folders by id, in wire format."""
        found = []
        for table, alias, row in LIVE.values():
            query = f"SELECT {row} AS row FROM {table} {alias} WHERE user_id = %s"
            rows = self._link.execute(query.encode(), [user]).fetchall()
            found.append({each["row"]["id"]: each["row"] for each in rows})
        return found[0], found[1]


class Client:
    """A device that connects again when it is dropped."""

    def __init__(
        self, name: str, user: str, tables: Tables, rng: random.Random
    ) -> None:
        self.name, self.user, self.rng = name, user, rng
        self.tables = tables
        self.notes: Rows = {}
        self.folders: Rows = {}
        self.device: Device | None = None
        self.foreign: list[Message] = []
        self.heard: list[tuple[float, Message]] = []
        self.learned: set[str] = set()

    def load(self) -> None:
        """Fetch everything over REST, as a page does when it is loaded."""
        self.notes, self.folders = self.tables.of(self.user)

    async def live(self, servers: Callable[[], list[Server]]) -> None:
        """Stay connected until cancelled."""
        while True:
            with suppress(OSError, ConnectionClosed, TimeoutError, AssertionError):
                server = self.rng.choice(servers())
                async with testing.connect(server.url) as device:
                    await device.auth(mint(self.user))
                    self.device = device
                    await self.connected()
                    while True:
                        self.hear(json.loads(await device.socket.recv()))
            self.device = None
            await asyncio.sleep(0.05 + self.rng.random() * 0.3)

    def drop(self) -> None:
        if self.device is not None:
            self.device.socket.transport.abort()

    async def connected(self) -> None:
        """Say what such a client says after signing in."""

    def differs(self) -> list[str]:
        """Rows that are not as Postgres holds them."""
        raise NotImplementedError

    def story(self, row_id: str) -> str:
        """What it has heard of a row, for the report of a failure."""
        lines = []
        for at, message in self.heard:
            kind = message["type"]
            if kind in {"connection_established", "auth_success"}:
                lines.append(f"{at:.2f} {kind}")
            elif row_id in json.dumps(message) and kind != "sync_page":
                row: Message = next(
                    (
                        message[name]
                        for name in ("noteData", "updatedNote", "folderData")
                        if name in message
                    ),
                    {},
                )
                lines.append(
                    f"{at:.2f} {kind} from {message.get('fromUserId')}"
                    f" {row.get('title')} {row.get('updatedAt')}"
                    f" {sorted(message.get('changes', {}))}"
                )
        return "\n    ".join(lines)

    def hear(self, message: Message) -> None:
        self.heard.append((asyncio.get_running_loop().time(), message))
        for name in ("noteData", "updatedNote", "folderData", "updatedFolder"):
            row = message.get(name)
            if row and row.get("userId") not in {None, self.user}:
                self.foreign.append(message)
        handler = getattr(self, "on_" + message["type"], None)
        if handler is not None:
            handler(message)

    def on_note_deleted_sync(self, message: Message) -> None:
        self.notes.pop(message["noteId"], None)

    def on_folder_deleted_sync(self, message: Message) -> None:
        self.folders.pop(message["folderId"], None)


class OldClient(Client):
    """Ignores `resync_required`, never fetches again, lays changes over its copy."""

    def on_note_created_sync(self, message: Message) -> None:
        row = message["noteData"]
        self.notes.setdefault(row["id"], dict(row))
        self.learned.add(row["id"])

    def on_folder_created_sync(self, message: Message) -> None:
        row = message["folderData"]
        self.folders.setdefault(row["id"], dict(row))
        self.learned.add(row["id"])

    def on_note_sync(self, message: Message) -> None:
        if message["noteId"] in self.notes and message["updatedNote"]:
            self.notes[message["noteId"]].update(message["changes"])

    def on_folder_updated_sync(self, message: Message) -> None:
        if message["folderId"] in self.folders:
            self.folders[message["folderId"]].update(message.get("changes", {}))

    def on_note_update_success(self, message: Message) -> None:
        self.notes[message["noteId"]] = dict(message["updatedNote"])

    async def connected(self) -> None:
        self.learned.clear()

    def differs(self) -> list[str]:
        """Rows that are not as Postgres holds them.

        Of the rows that it shows and that do not exist, those are wrong that it has
        learned of in this session. It may have missed the others' deletion before.
        """
        notes, folders = self.tables.of(self.user)
        found = differing(self.notes, notes) + differing(self.folders, folders)
        extra = (self.notes.keys() | self.folders.keys()) - notes.keys()
        extra = (extra - folders.keys()) & self.learned
        return found + [f"extra {row_id}" for row_id in extra]


class SyncClient(Client):
    """Syncs when it connects, and whenever the digest is another than its own: from its
    cursor, then with the ids, then from nothing."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.cursor: str | None = None
        self.syncing = self.listing = False
        self.seen: set[str] | None = None

    async def connected(self) -> None:
        self.syncing = False
        self.ask(ids=False)

    def ask(self, *, ids: bool) -> None:
        if self.syncing or self.device is None:
            return
        self.syncing, self.listing = True, ids
        self.send_sync(self.cursor)

    def send_sync(self, cursor: str | None) -> None:
        message: Message = {"type": "sync"}
        if cursor is not None:
            message["cursor"] = cursor
        if self.listing:
            message["ids"] = True
        assert self.device is not None
        frame = self.device.socket.send(json.dumps(message))
        task = asyncio.ensure_future(frame)  # noqa: TID251 - kept by the loop below
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def on_sync_page(self, message: Message) -> None:
        for row in message["notes"]:
            self.notes[row["id"]] = row
        for row in message["folders"]:
            self.folders[row["id"]] = row
        if message["more"]:
            self.send_sync(message["cursor"])
            return
        self.syncing, self.cursor = False, message["cursor"]
        if "noteIds" in message:
            keep(self.notes, message["noteIds"])
            keep(self.folders, message["folderIds"])
        if self.listing and message.get("digest") != self.digest():
            self.cursor = None
        self.compare(message)

    def on_healed(self, message: Message) -> None:
        self.compare(message)

    def compare(self, message: Message) -> None:
        if "digest" in message and message["digest"] != self.digest():
            self.ask(ids=True)

    def on_error(self, message: Message) -> None:
        if message["code"] in {"CURSOR_EXPIRED", "UNAVAILABLE", "UNKNOWN_TYPE"}:
            self.syncing = False
            if message["code"] == "CURSOR_EXPIRED":
                self.cursor = None
            self.ask(ids=True)

    def on_note_created_sync(self, message: Message) -> None:
        row = message["noteData"]
        self.notes[row["id"]] = {**self.notes.get(row["id"], {}), **row}

    def on_folder_created_sync(self, message: Message) -> None:
        row = message["folderData"]
        self.folders[row["id"]] = {**self.folders.get(row["id"], {}), **row}

    def on_note_sync(self, message: Message) -> None:
        held = self.notes.setdefault(message["noteId"], {})
        held.update(message["updatedNote"])

    def on_folder_updated_sync(self, message: Message) -> None:
        held = self.folders.setdefault(message["folderId"], {})
        held.update(message.get("updatedFolder") or message["changes"])

    def on_note_update_success(self, message: Message) -> None:
        self.notes[message["noteId"]] = dict(message["updatedNote"])

    def digest(self) -> Message:
        found = {}
        for name, rows in (("notes", self.notes), ("folders", self.folders)):
            total = 0
            for row in rows.values():
                text = f"{row.get('id')}:{row.get('updatedAt')}".encode()
                total ^= int.from_bytes(hashlib.sha256(text).digest()[:16])
            found[name] = {"count": len(rows), "hash": f"{total:032x}"}
        return found

    def differs(self) -> list[str]:
        notes, folders = self.tables.of(self.user)
        extra = [f"extra {key}" for key in self.notes.keys() - notes.keys()]
        extra += [f"extra {key}" for key in self.folders.keys() - folders.keys()]
        return extra + differing(self.notes, notes) + differing(self.folders, folders)


def keep(rows: Rows, ids: list[str]) -> None:
    for key in rows.keys() - set(ids):
        del rows[key]


def differing(held: Rows, rows: Rows) -> list[str]:
    found = []
    for key, row in rows.items():
        mine = held.get(key)
        if mine is None:
            found.append(f"missing {key}")
        elif {name: mine.get(name) for name in row} != row:
            names = [name for name in row if mine.get(name) != row[name]]
            found.append(f"{key}: {names}")
    return found


class RestHost:
    """Writes and publishes; `skew_s` is how far its clock is ahead."""

    def __init__(
        self, database_url: str, redis_url: str, users: list[str], rng: random.Random
    ) -> None:
        self.database_url, self.redis_url = database_url, redis_url
        self.users, self.rng = users, rng
        self.skew_s = rng.choice([0.0, 0.0, -2.0, 2.0, 5.0])
        self.pending: set[asyncio.Task[None]] = set()

    async def work(self, steps: int, pace_s: float) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.database_url, row_factory=dict_row
        ) as link:
            for _ in range(steps):
                await self.step(link)
                await asyncio.sleep(self.rng.random() * pace_s)
        while self.pending:
            await asyncio.gather(*self.pending, return_exceptions=True)

    async def step(self, link: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        """One transaction: perhaps late, perhaps with a savepoint rolled back."""
        user = self.rng.choice(self.users)
        events: list[Message] = []
        try:
            await link.execute("SET LOCAL lock_timeout = '300ms'")
            for _ in range(self.rng.choice([1, 1, 1, 2])):
                undone = self.rng.random() < 0.15
                async with link.transaction(force_rollback=undone):
                    event = await self.write(link, user)
                if event is not None and not undone:
                    events.append(event)
            if self.rng.random() < 0.1:
                await asyncio.sleep(self.rng.random() * 0.5)
            if self.rng.random() < 0.1:
                await link.rollback()
                return
            await link.commit()
        except psycopg.Error:
            await link.rollback()
            return
        for event in events:
            self.publish(user, event)

    async def write(
        self, link: psycopg.AsyncConnection[dict[str, Any]], user: str
    ) -> Message | None:
        kind = self.rng.choice(["note", "note", "note", "folder"])
        what = self.rng.choice(
            ["create", "update", "update", "update", "update", "delete", "trash"]
        )
        table, alias, row = LIVE[kind]
        at = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=self.skew_s)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        name = f"{self.rng.random()}"
        label = "title" if kind == "note" else "name"
        if what == "create":
            cursor = await link.execute(
                f"INSERT INTO {table} AS {alias} (user_id, {label}, updated_at)"
                f" VALUES (%s, %s, %s) RETURNING {row} AS row",
                [user, name, at],
            )
            found = await cursor.fetchone()
            assert found is not None
            return {"event": f"{kind}_created", f"{kind}Data": found["row"]}
        cursor = await link.execute(
            f"SELECT id FROM {table} WHERE user_id = %s ORDER BY random() LIMIT 1",
            [user],
        )
        chosen = await cursor.fetchone()
        if chosen is None:
            return None
        if what == "delete":
            await link.execute(f"DELETE FROM {table} WHERE id = %s", [chosen["id"]])
            return {"event": f"{kind}_deleted", f"{kind}Id": str(chosen["id"])}
        fields = self.fields(kind, what, name)
        sets = ", ".join(f"{column} = %s" for column in fields)
        cursor = await link.execute(
            f"UPDATE {table} AS {alias} SET {sets}, updated_at = %s"
            f" WHERE id = %s RETURNING {row} AS row",
            [*fields.values(), at, chosen["id"]],
        )
        found = await cursor.fetchone()
        if found is None:
            return None
        stands = found["row"]
        if what == "trash" and stands.get("deleted") and self.rng.random() < 0.5:
            return {"event": "note_deleted", "noteId": stands["id"]}
        changes = {each: stands[each] for each in fields} | {
            "updatedAt": stands["updatedAt"]
        }
        updated = "updatedNote" if kind == "note" else "updatedFolder"
        return {
            "event": f"{kind}_updated", f"{kind}Id": stands["id"],
            "changes": changes, updated: stands,
        }  # fmt: skip

    def fields(self, kind: str, what: str, name: str) -> Message:
        if kind == "folder":
            return {"name": name}
        if what == "trash":
            return {"deleted": self.rng.random() < 0.5}
        names = self.rng.sample(["title", "content", "starred"], self.rng.randint(1, 2))
        return {
            each: self.rng.random() < 0.5 if each == "starred" else f"{each} {name}"
            for each in names
        }

    def publish(self, user: str, event: Message) -> None:
        """Publish it, perhaps late, perhaps twice, perhaps not at all."""
        way = self.rng.random()
        if way < 0.2:
            return
        for _ in range(2 if way > 0.9 else 1):
            delay = self.rng.random() * 0.6 if self.rng.random() < 0.4 else 0.0
            task = asyncio.get_running_loop().create_task(
                self.publish_later(user, event, delay)
            )
            self.pending.add(task)
            task.add_done_callback(self.pending.discard)

    async def publish_later(self, user: str, event: Message, delay: float) -> None:
        await asyncio.sleep(delay)
        with suppress(Exception):
            async with redis_client.Redis.from_url(
                self.redis_url, socket_timeout=0.5, socket_connect_timeout=0.5
            ) as link:
                await link.publish(f"typelets:user:{user}", json.dumps(event))


async def type_away(client: Client, steps: int) -> None:
    """A device's own updates over its WebSocket."""
    for _ in range(steps):
        await asyncio.sleep(client.rng.random() * 0.2)
        device = client.device
        if device is None or not client.notes:
            continue
        note = client.rng.choice(sorted(client.notes))
        changes = {"title": f"typed {uuid.uuid4()}"}
        with suppress(ConnectionClosed, OSError):
            await device.send(
                {"type": "note_update", "noteId": note, "changes": changes}
            )
