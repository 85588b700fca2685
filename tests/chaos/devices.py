"""Devices as they are in the field: the rules of the old web client.

The old client loads its rows once, before its socket is there. It applies
`*_created_sync` to unknown ids and `*_sync` to known ones, and it never asks again.
"""

import asyncio
import json
import random
import re
import time
from collections import Counter, deque
from typing import Any

import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.chaos.rows import Row, folders_of, notes_of
from tests.chaos.world import World
from tests.tokens import mint

__all__ = ["LOST", "OldClient"]

OTHER_USERS = re.compile(r"user_c(\d+)")
LOST = (OSError, WebSocketException, TimeoutError)


class OldClient:
    """One device of one user, following the old web client's rules."""

    pause_s = 0.0
    """The longest pause between two attempts to connect, beyond a second."""

    due = 0.0
    """When the latest pause that the device announced ends, by the monotonic clock."""

    def __init__(self, world: World, user: str, rng: random.Random) -> None:
        self.world = world
        self.user = user
        self.rng = rng
        self.notes: dict[str, Row] = {}
        self.folders: dict[str, Row] = {}
        self.acknowledged: list[tuple[str, str]] = []
        """Note and title of each update that was confirmed."""

        self.address = f"127.0.1.{rng.randrange(1, 250)}"
        self.connected = False
        self.socket: ClientConnection | None = None
        self.outgoing: asyncio.Queue[str] = asyncio.Queue()
        self.seen: Counter[str] = Counter()
        self.history: dict[str, deque[str]] = {}
        """The latest messages about each row, to explain a difference."""

        self._sent = 0

    @property
    def kind(self) -> str:
        return type(self).__name__

    def load(self) -> None:
        """Load the page: the rows as they are now."""
        with self.world.connect() as link:
            self.notes = notes_of(link, self.user)
            self.folders = folders_of(link, self.user)

    def _load_patiently(self) -> None:
        while True:
            try:
                return self.load()
            except psycopg.Error:
                time.sleep(0.2)  # Postgres is away

    async def live(self) -> None:
        """Connect, and connect again, until cancelled."""
        await asyncio.to_thread(self._load_patiently)
        for row_id, row in self.notes.items():
            self.note(row_id, f"loaded {row['updatedAt']} {row['folderId']}")
        while True:
            try:
                await self._session()
            except LOST:
                self.seen["lost"] += 1
            self.connected, self.socket = False, None
            self.outgoing = asyncio.Queue()
            await asyncio.sleep(self.rng.uniform(0.1, 0.6))

    async def save(self) -> None:
        """Change a note through the socket, as typing does."""
        if not self.connected or self.socket is None or not self.notes:
            return
        self._sent += 1
        note = self.rng.choice(sorted(self.notes))
        title = f"{self.user} {id(self)} {self._sent}"
        message = {"type": "note_update", "noteId": note, "changes": {"title": title}}
        try:
            await self.socket.send(json.dumps(message))
        except LOST:
            self.seen["unsent"] += 1

    async def _session(self) -> None:
        port = self.rng.choice(self.world.daemons).door(self.rng)
        async with connect(
            f"ws://127.0.0.1:{port}/",
            local_addr=(self.address, 0),
            compression=None,
            open_timeout=5,
            ping_interval=None,
            close_timeout=0.5,
            max_queue=None,
        ) as socket:
            await socket.send(
                json.dumps({"type": "auth", "token": mint(self.user, expires_in=3600)})
            )
            self.socket = socket
            self.note("session", f"connected to {port}")
            for row_id in self.history:
                self.note(row_id, f"connected to {port}")
            sender = asyncio.Task(self._send_all(socket, self.outgoing))
            try:
                async for raw in socket:
                    assert isinstance(raw, str)
                    self._heard(raw)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _send_all(
        self, socket: ClientConnection, outgoing: "asyncio.Queue[str]"
    ) -> None:
        while True:
            await socket.send(await outgoing.get())

    def _heard(self, raw: str) -> None:
        for number in OTHER_USERS.findall(raw):
            if f"user_c{number}" != self.user:
                self.world.violated(f"{self.user} was sent {raw[:300]}")
        message = json.loads(raw)
        self.seen[message["type"]] += 1
        if message["type"] == "auth_success":
            self.connected = True
        if message["type"] in {"auth_success", "healed", "resync_required", "error"}:
            self.note("session", raw[:120])
        self.remember(message)
        self.apply(message)

    def remember(self, message: dict[str, Any]) -> None:
        """Keep what a message says of each of its rows."""
        rows = [*message.get("notes", ()), *message.get("folders", ())]
        whole = ("noteData", "folderData", "updatedNote", "updatedFolder")
        rows += [message.get(key) or {} for key in whole]
        for row in rows:
            if "id" in row:
                shown = {k: row.get(k) for k in ("updatedAt", "title", "folderId")}
                changes = sorted(message.get("changes") or ())
                self.note(row["id"], f"{message['type']} {shown} {changes}")

    def note(self, row_id: str, text: str) -> None:
        """Add a line to the history of a row."""
        at = f"{time.monotonic() - self.world.began:.2f} s"
        self.history.setdefault(row_id, deque(maxlen=10)).append(f"{at}: {text}")

    def apply(self, message: dict[str, Any]) -> None:
        """Do what the old client does with a message."""
        kind = message["type"]
        if kind == "note_sync":
            # The old client asks for a truthy row, and lays `changes` over its copy.
            known = self.notes.get(message["noteId"])
            if known is not None and message.get("updatedNote"):
                known.update(message["changes"])
        elif kind == "note_update_success":
            row = message["updatedNote"]
            self.acknowledged.append((message["noteId"], row["title"]))
            self.notes[message["noteId"]] = dict(row)
        elif kind == "note_created_sync":
            self.notes.setdefault(message["noteData"]["id"], message["noteData"])
        elif kind == "note_deleted_sync":
            self.notes.pop(message["noteId"], None)
        elif kind == "folder_created_sync":
            self.folders.setdefault(message["folderData"]["id"], message["folderData"])
        elif kind == "folder_updated_sync":
            known = self.folders.get(message["folderId"])
            if known is not None:
                known.update(message.get("changes") or {})
        elif kind == "folder_deleted_sync":
            self.folders.pop(message["folderId"], None)

    def differences(self, notes: dict[str, Row], folders: dict[str, Row]) -> list[str]:
        """How the screen differs from the rows, field by field.

        A row that was deleted without an event stays on an old client's screen; only
        a client that compares digests can know of it.
        """
        found = []
        for kind, rows, shown in (
            ("note", notes, self.notes),
            ("folder", folders, self.folders),
        ):
            for row_id, row in rows.items():
                mine = shown.get(row_id)
                if mine is None:
                    found.append(f"{kind} {row_id} is missing")
                    continue
                found += [
                    f"{kind} {row_id}: {key} is {mine.get(key)!r}, not {value!r}"
                    for key, value in row.items()
                    if mine.get(key) != value
                ]
        return [f"{self.user} ({self.kind}): {text}" for text in found]

    def explain(self, difference: str) -> list[str]:
        """The latest messages about the row that a difference names."""
        return [
            f"    {line}"
            for row_id, lines in self.history.items()
            if row_id in difference or row_id == "session"
            for line in lines
        ]
