"""Devices that use the client module, each in one Node process with the others.

The module keeps the rows, the cursor and the outbox. This side reads what it shows,
edits, and answers conflicts in favour of the stored row. An edit that was neither
committed nor handed to the app as a conflict is lost, which is a violation.
"""

import asyncio
import json
import random
import time
from typing import Any

from tests.chaos.syncing import SyncClient
from tests.chaos.world import World
from tests.client.clients import Client, Clients, node_clients
from tests.tokens import mint

__all__ = ["Clients", "ModuleClient", "node_clients"]

SPEED = 3
"""The module's clock runs faster: its keepalive and backoff are made for hours."""


PAUSE_S = (2 + 120) / SPEED
"""The module's longest pause before it connects again: `least` and `cap` of its PAUSE,
which follows a close with 1013 (Redis answers with errors, as in a failover). Its
BACKOFF, after a lost connection, is at most 30 s of its clock; two of them around an
attempt that took too long (15 s) are 25 s here. Only 4429 asks for more, and a device
that behaves is never closed with it.

Once connected it syncs at once. It syncs again after at most 60 s of its clock, which
is 20 s, so that `BOUND_S` has room for it.
"""


class ModuleClient(SyncClient):
    """One instance of the client module, on one of the daemons."""

    pause_s = PAUSE_S

    def __init__(
        self, world: World, user: str, rng: random.Random, clients: Clients
    ) -> None:
        super().__init__(world, user, rng)
        self.clients = clients
        self.name = f"{user}-{rng.getrandbits(32):x}"
        self.client = Client(self.clients, self.name)
        self._status: dict[str, Any] = {}
        self.edits: dict[str, str] = {}
        """The latest title that was typed for each note."""

        self.handed: set[str] = set()
        """Titles that were handed to the app as conflicts."""

    async def live(self) -> None:
        """Start the module, and read what it shows until cancelled."""
        port = self.rng.choice(self.world.daemons).door(self.rng)
        await self.clients.new(
            self.name,
            f"ws://127.0.0.1:{port}/",
            mint(self.user, expires_in=36_000),
            speed=SPEED,
            user=self.user,
        )
        try:
            while True:
                await self._read()
                await asyncio.sleep(0.2)
        finally:
            await self.client.call("stop")

    async def save(self) -> None:
        """Type a title; the outbox keeps it while the module is offline."""
        if self.notes:
            self._sent += 1
            self.connected = False  # until the next look
            note = self.rng.choice(sorted(self.notes))
            # Set at once: the edit is made also when this wait for it is cancelled.
            self.edits[note] = f"{self.user} module {self.name} {self._sent}"
            try:
                await self.client.edit(note, title=self.edits[note])
            except AssertionError as exc:
                if "there is no note" not in str(exc):
                    raise
                return  # it was deleted since the last look
            self.seen["module edits"] += 1

    async def _read(self) -> None:
        # Text typed meanwhile may be in none of the answers.
        typed = self._sent
        heard = await self.client.call("heard")
        for conflict in heard["conflict"]:
            title = conflict["changes"].get("title")
            if title is not None and title not in self.handed:
                self.handed.add(title)
                self.seen["module conflicts"] += 1
                await self.client.call("resolve", id=conflict["noteId"], changes=None)
        rows = await self.client.call("rows")
        self.notes = {row["id"]: row for row in rows["notes"]}
        self.folders = {row["id"]: row for row in rows["folders"]}
        for row in (*rows["notes"], *rows["folders"]):
            if row["userId"] != self.user:
                self.world.violated(f"{self.user} is shown {row}")
        if heard["status"] and heard["status"][-1] != self._status:
            self._heard_status(heard["status"][-1])
        status = await self.client.call("status")
        self.connected = status == "in sync" and self._sent == typed

    def _heard_status(self, status: dict[str, Any]) -> None:
        self.note("session", json.dumps(status))
        known, pause_ms = self._status.get("retryInMs"), status.get("retryInMs")
        self._status = status
        # Said again when an edit is made meanwhile.
        if pause_ms is not None and pause_ms != known:
            self.due = time.monotonic() + pause_ms / 1000 / SPEED
            if pause_ms / 1000 / SPEED > PAUSE_S:
                self.world.violated(f"{self.name} pauses for too long: {status}")

    async def lost_edits(self, committed: set[tuple[str, str]]) -> list[str]:
        """The latest edits that no one can find again, and what was said of each."""
        lost = [
            (note, title)
            for note, title in self.edits.items()
            if note in self.notes
            and (note, title) not in committed
            and title not in self.handed
        ]
        heard = await self.client.call("heard") if lost else {}
        return [
            "\n    ".join(
                [
                    f"{self.name} lost {title!r} of {note}",
                    *(
                        f"{event} {json.dumps(one)[:300]}"
                        for event, told in heard.items()
                        for one in told
                        if note in json.dumps(one)
                    ),
                ]
            )
            for note, title in lost
        ]
