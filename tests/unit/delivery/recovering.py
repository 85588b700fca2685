"""Recovery at work on a simulated table, in simulated time."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import structs

from tests.fakes import Log, make_recovery
from tests.unit.delivery.table import Table
from typelets_ws.config.model import RecoverySettings
from typelets_ws.delivery.hub import Hub
from typelets_ws.ports import Clock, StoreError
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.recovery_ports import (
    Extent,
    RowKey,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry
from typelets_ws.wire.frames import Frame, Frames

__all__ = [
    "NOTE",
    "OTHER",
    "SETTINGS",
    "TIMEOUT_S",
    "Database",
    "Device",
    "Scene",
    "recovering",
]

SETTINGS = RecoverySettings(replay_s=20.0, audit_s=30.0, audit_share=0.1, quiet_s=1.0)
TIMEOUT_S = 2.0
NOTE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


class Database(Table):
    """The table, with the statements of looks; `takes_s` is the time of each."""

    def __init__(self) -> None:
        super().__init__()
        self.identity, self.takes_s = "db", 0.0
        self.running: int | None = None
        """The oldest transaction that has not ended."""
        self.unsupported: str | None = None
        self.failure: Exception | None = None
        self.heavy: dict[str, float] = {}
        """Seconds that looks at a user take; beyond `TIMEOUT_S` they fail."""
        self.faulty: set[str] = set()
        """Users whose rows this code fails to read."""
        self.looks: list[tuple[float, list[Since]]] = []
        self.extents: list[Extent] = []
        self.reads: list[tuple[float, list[RowKey]]] = []

    async def supported(self) -> str | None:
        return self.unsupported

    async def horizon(self) -> Snapshot:
        if self.failure is not None:
            raise self.failure
        return self.snapshot()

    def check(self, users: set[str]) -> None:
        """Raise what a statement for these users raises."""
        if self.failure is not None:
            raise self.failure
        if not users.isdisjoint(self.faulty):
            raise RuntimeError("a fault")

    def snapshot(self) -> Snapshot:
        return Snapshot(self.identity, self.running or self.newest, self.newest)

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        self.looks.append((asyncio.get_running_loop().time(), list(wanted)))
        self.extents.append(extent)
        self.check({since.user_id for since in wanted})
        _, found = await super().changed(wanted, extent)
        heavy = sum(self.heavy.get(since.user_id, 0.0) for since in wanted)
        await asyncio.sleep(self.takes_s + min(heavy, TIMEOUT_S))
        if heavy > TIMEOUT_S:
            raise StoreError("timeout")
        return self.snapshot(), found

    async def rows(
        self, keys: Sequence[RowKey], **options: Any
    ) -> Mapping[RowKey, StoredRow | None]:
        self.reads.append((asyncio.get_running_loop().time(), list(keys)))
        self.check({key.user_id for key in keys})
        found = await super().rows(keys, **options)
        await asyncio.sleep(self.takes_s)
        return found


class Device:
    """A device that notes what it is sent."""

    session_id: str | None = None
    since_ms, open, behind = 0, True, False

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id
        self.log_fields: dict[str, str] = {}
        self.messages: list[dict[str, Any]] = []
        self.resyncs: list[tuple[str, float]] = []
        self.closed: list[tuple[CloseCode, str]] = []

    def send_frame(self, frame: Frame) -> None:
        for one in frame._frames if isinstance(frame, Frames) else [frame]:
            self.take(json.loads(one._text))

    def take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def heard(self) -> list[str]:
        """The types of the messages since the last call."""
        found, self.messages = [str(one["type"]) for one in self.messages], []
        return found

    def ask_resync(self, reason: str, delay: float) -> None:
        self.resyncs.append((reason, delay))

    def close(self, code: CloseCode, reason: str) -> None:
        self.closed.append((code, reason))

    def token_refused(self) -> None: ...


class Scene:
    """Recovery, and the devices of some users."""

    def __init__(self, settings: RecoverySettings = SETTINGS) -> None:
        self.database, self.hub, self.log = Database(), Hub(), Log()
        self.metrics = Metrics()
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self.recovery = make_recovery(
            self.database,
            self.hub,
            settings,
            Telemetry(self.metrics, self.log.bound()),
            Clock(self.time, self.time),
        )

    def connect(self, connection_id: str, user_id: str = "alice") -> Device:
        device = Device(connection_id)
        self.hub.attach(user_id, device)
        self.recovery.attach(user_id, device)
        return device

    def disconnect(self, device: Device, user_id: str = "alice") -> None:
        self.hub.detach(user_id, device)
        self.recovery.detach(user_id, device)

    def looked_at(self) -> list[tuple[float, list[str]]]:
        """Time and users of each look since the last call."""
        looks, self.database.looks = self.database.looks, []
        return [(at, [since.user_id for since in some]) for at, some in looks]

    def rests_of(self, user_id: str) -> list[float]:
        """Seconds between the looks since the last call, none of which had others."""
        looks = self.looked_at()
        assert all(len(users) == 1 or user_id not in users for _, users in looks)
        times = [at for at, users in looks if users == [user_id]]
        return [later - at for at, later in itertools.pairwise(times)]

    def fail(self) -> None:
        self.database.failure = StoreError("away")

    def logged(self) -> list[str]:
        return [str(line["event"]) for line in self.log.lines]

    def figure(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"typelets_ws_{name}", labels)
        return found or 0.0


@asynccontextmanager
async def recovering(
    *, unsupported: str | None = None, **settings: object
) -> AsyncIterator[Scene]:
    """Recovery while it runs, once it has its first horizon."""
    scene = Scene(structs.replace(SETTINGS, **settings))
    scene.database.unsupported = unsupported
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scene.recovery.run())
        await asyncio.sleep(0.01)
        yield scene
        running.cancel()
