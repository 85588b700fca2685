"""Devices end equal to the table: random courses with recovery as a whole.

The table, time and devices of both kinds are simulated; rows come, change, are put
into the trash and go with and without an event, devices write, leave and come back,
ids are forgotten in every second course, looks run at any moment. In the end nothing
is published any more, and the audit goes round.
"""

import asyncio
import json
import random
from typing import Any

import pytest
import structlog
from msgspec import UnsetType

from tests.fakes import make_recovery
from tests.unit.delivery.recovering import Device
from tests.unit.delivery.table import Copy, Table, digest_of, key_of, wire_row
from typelets_ws.config.model import Recovery as Settings
from typelets_ws.delivery.hub import Hub
from typelets_ws.ports import Clock, VersionedRow
from typelets_ws.protocol import client_messages
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

STEPS = 60
SETTINGS = Settings(replay_s=20.0, audit_s=3.0, audit_share=1.0, quiet_s=1.0)


class SyncDevice(Device):
    """A client of the recovery protocol; it keeps its copy while it is away."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(connection_id)
        self.copy: Copy = {}
        self.cursor: str | None = None
        self.differs = True

    def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "note_created_sync":
                row = message["noteData"]
                self.copy.setdefault(row["id"], row["updatedAt"])
            case "note_sync":
                row = message["updatedNote"]
                if row["id"] in self.copy:
                    self.copy[row["id"]] = row["updatedAt"]
            case "note_deleted_sync":
                self.copy.pop(message["noteId"], None)
            case "healed":
                digest = message.get("digest")
                self.differs |= digest is not None and not self.equals(digest)

    def equals(self, digest: dict[str, Any]) -> bool:
        own = digest_of(self.copy).notes
        return (own.rows, own.xor) == (
            digest["notes"]["count"],
            digest["notes"]["hash"],
        )

    def ask_resync(self, reason: str, delay: float) -> None:
        self.differs = True


class OldDevice(SyncDevice):
    """The old web client: it loads the table before it connects, and never again."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(connection_id)
        self.learned: set[str] = set()
        """Rows that it was first shown in this session."""

    def take(self, message: dict[str, Any]) -> None:
        super().take(message)
        self.differs = False
        if message["type"] == "note_created_sync":
            self.learned.add(message["noteData"]["id"])

    def ask_resync(self, reason: str, delay: float) -> None: ...


class Course:
    """Steps at random; `rng` decides."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.forgets = seed % 2 == 0
        self.table, self.hub, self.now = Table(), Hub(), 1_000.0
        self.recovery = make_recovery(
            self.table,
            self.hub,
            SETTINGS,
            Telemetry(Metrics(), structlog.get_logger()),
            Clock(lambda: self.now, lambda: self.now),
        )
        self.recovery.on = True
        self.devices = [SyncDevice("c1"), SyncDevice("c2"), OldDevice("c3")]
        self.events: list[tuple[str, str, str]] = []
        self.created = 0

    @property
    def online(self) -> list[SyncDevice]:
        here = {device.connection_id for device in self.hub.devices_of("alice")}
        return [device for device in self.devices if device.connection_id in here]

    # What happens in the world.

    async def write(self) -> None:
        """A row comes or changes."""
        ids = list(self.table.rows_by_id)
        new = not ids or self.rng.random() < 0.5
        if new:
            self.created += 1
            row_id = f"00000000-0000-4000-8000-{self.created:012d}"
        else:
            row_id = self.rng.choice(ids)
        self.table.write(row_id)
        self.publish("created" if new else "updated", row_id)

    async def delete(self) -> None:
        if ids := list(self.table.rows_by_id):
            row_id = self.rng.choice(ids)
            self.table.delete(row_id)
            self.publish("deleted", row_id)

    async def trash(self) -> None:
        """A row is marked as deleted: devices remove it, and the table keeps it."""
        if ids := list(self.table.rows_by_id):
            row_id = self.rng.choice(ids)
            self.table.write(row_id)
            self.publish("deleted", row_id)

    async def update(self) -> None:
        """A device updates a row of its copy, and is shown it; the event is lost."""
        shown = [(one, row_id) for one in self.online for row_id in one.copy]
        if not shown:
            return
        device, row_id = self.rng.choice(shown)
        if row_id in self.table.rows_by_id:
            self.table.write(row_id)
            at = self.table.copy[row_id]
            row = VersionedRow(json.dumps(wire_row(row_id, at)).encode(), at)
            self.recovery.shown.replied(key_of(row_id), row, device.connection_id)
            device.copy[row_id] = at

    def publish(self, event: str, row_id: str) -> None:
        if self.rng.random() < 0.5:
            at = self.table.copy.get(row_id, "")
            self.events.append((event, row_id, at))

    async def event(self) -> None:
        """An event arrives."""
        if not self.events:
            return
        event, row_id, at = self.events.pop(0)
        if not self.online:
            return
        shown, key = self.recovery.shown, key_of(row_id)
        row = wire_row(row_id, at)
        text = json.dumps(row).encode()
        if event == "created":
            shown.created(key, text, at)
            message = {"type": "note_created_sync", "noteData": row}
        elif event == "updated":
            changes = self.rng.choice([text, json.dumps({"updatedAt": at}).encode()])
            if not shown.updated(key, changes, text, at):
                return
            message = {"type": "note_sync", "updatedNote": row}
        else:
            shown.deleted(key)
            message = {"type": "note_deleted_sync", "noteId": row_id}
        for device in self.online:
            device.take(message)

    async def connect(self) -> None:
        away = [device for device in self.devices if device not in self.online]
        if away:
            device = self.rng.choice(away)
            old = isinstance(device, OldDevice)
            device.differs = not old
            if isinstance(device, OldDevice):
                device.copy = dict(self.table.copy)
                device.learned.clear()
                if self.rng.random() < 0.5:
                    await self.write()
            self.hub.attach("alice", device)
            self.recovery.attach("alice", device)
            if not old and self.rng.random() < 0.7:
                await self.sync(device)

    async def disconnect(self) -> None:
        if self.online:
            device = self.rng.choice(self.online)
            self.hub.detach("alice", device)
            self.recovery.detach("alice", device)

    async def sync_one(self) -> None:
        devices = [one for one in self.online if not isinstance(one, OldDevice)]
        if devices:
            await self.sync(self.rng.choice(devices))

    async def sync(self, device: SyncDevice) -> None:
        """From its cursor, and if the digest differs then from nothing."""
        device.differs = False
        for cursor in dict.fromkeys([device.cursor, None]):
            request = client_messages.Sync(cursor=cursor, ids=cursor is None)
            page = await self.recovery.sync("alice", device.connection_id, request)
            rows = [json.loads(bytes(note)) for note in page.notes]
            if cursor is None:
                device.copy.clear()
            device.copy.update({row["id"]: row["updatedAt"] for row in rows})
            device.cursor = page.cursor
            digest = page.digest
            assert not isinstance(digest, UnsetType)
            own = digest_of(device.copy).notes
            if own == (digest.notes.count, digest.notes.hash):
                break

    async def forget(self) -> None:
        """The memory of ids is needed for other users."""
        self.recovery.deletions.kept._drop("alice")

    async def look(self) -> None:
        """Time passes, and recovery does what is due."""
        self.now += self.rng.choice([0.0, 0.5, 1.1, 3.5])
        await self.work()

    async def gap(self) -> None:
        self.recovery.heal(["alice"], "lost")

    async def work(self) -> None:
        if self.rng.random() < 0.5:
            await self.recovery._keeper.take()
        for _ in range(20):
            if not await self.recovery._step():
                break

    # The course.

    async def run(self) -> list[SyncDevice]:
        """Returns the devices that are behind in the end."""
        async with asyncio.TaskGroup() as group:
            gathered = group.create_task(self.recovery._syncer.gathered.run())
            await self.recovery._keeper.take()
            await self.play()
            await self.rest()
            gathered.cancel()
        return [one for one in self.online if self.is_behind(one)]

    def is_behind(self, device: SyncDevice) -> bool:
        """An old device may keep rows that it loaded, or whose ids were forgotten."""
        table = self.table.copy.items()
        if isinstance(device, OldDevice):
            extra = device.learned & device.copy.keys() - self.table.copy.keys()
            missed = bool(extra) and not self.forgets
            return missed or not table <= device.copy.items()
        return table != device.copy.items()

    async def play(self) -> None:
        """Steps in a mix of the seed's own: some faults need many of one kind."""
        steps = [
            self.write, self.delete, self.trash, self.update, self.event, self.connect,
            self.disconnect, self.sync_one, self.look, self.gap,
        ]  # fmt: skip
        if self.forgets:
            steps.append(self.forget)
        weights = [self.rng.choice([0.3, 1.0, 3.0]) for _ in steps]
        for step in self.rng.choices(steps, weights, k=STEPS):
            await step()

    async def rest(self) -> None:
        """Nothing happens any more, until the audit has gone round some times."""
        while self.events:
            await self.event()
        for _ in range(40):
            self.now += 0.5
            await self.work()
            for device in self.online:
                if device.differs:
                    await self.sync(device)


@pytest.mark.parametrize("base", range(10))
async def test_devices_end_equal_to_the_table(base: int) -> None:
    for seed in range(base * 20, base * 20 + 20):
        assert not await Course(seed).run(), seed
