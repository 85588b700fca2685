"""A seed of faults in simulated time, with the real relay and the real recovery.

Devices of both kinds (`recovery_world`), REST hosts whose clocks are seconds apart, and
publishers that skip, delay, repeat and reorder, on a simulated table whose statements
take their time. What is done, and how much goes wrong, is the seed's own. A second of
a core plays some eighty seeds; by hand, see `--help`.
"""

import asyncio
import json
import random
import sys
from typing import Any

import structlog
from msgspec.structs import replace

from tests.command_line import at_least, command_line
from tests.daemon import Message
from tests.fakes import NOW_MS, FakeShared, live, make_recovery
from tests.integration.delivery.recovery_world import Client, OldClient, SyncClient
from tests.unit.delivery.recovering import Device
from tests.unit.delivery.simulated_host import (
    WRITES,
    Chances,
    RestHost,
    new_row,
    picked,
)
from tests.unit.delivery.simulated_table import ALICE, SimulatedTable, Transaction
from tests.unit.virtual_time import VirtualTimeLoop
from tests.within import PATIENCE_S
from typelets_ws.config.model import RecoverySettings
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.relay import Relay
from typelets_ws.delivery.revocations import RevokedSessions
from typelets_ws.delivery.versions import version_at
from typelets_ws.ports import Clock, StoreError, VersionedRow
from typelets_ws.protocol import client_messages, messages
from typelets_ws.protocol.errors import ClientError
from typelets_ws.recovery_ports import RowKey, RowKind
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

__all__ = ["differences"]

SETTINGS = RecoverySettings(
    enabled=True, replay_s=60.0, audit_share=1.0, page_rows=3, page_bytes=8_000,
)  # fmt: skip
POLL_S = 0.25
ROUND_TRIP_S = 0.005
"""The least that a request takes: a client that asks at once goes on for ever."""
BEHIND = 0.2
"""How often a device has not read the last page yet."""
RETRY_S = 0.1
"""Of a client whose request was refused."""


class Link(Device):
    """A connection of a client."""

    def __init__(self, connection_id: str, client: Client) -> None:
        super().__init__(connection_id)
        self._client = client

    @property
    def behind(self) -> bool:  # type: ignore[override]  # read only here
        return self._client.rng.random() < BEHIND

    def take(self, message: Message) -> None:
        if self.open:
            self._client.hear(message)


class Syncing(SyncClient):
    """Its requests are answered by the simulation."""

    simulation: "Simulation"

    def send_sync(self, cursor: str | None) -> None:
        self.simulation.start_sync(self, cursor)


class Simulation:
    """One seed."""

    def __init__(self, seed: int, group: asyncio.TaskGroup) -> None:
        self.rng = rng = random.Random(seed)
        self.chances = Chances(rng)
        self.mix = self.chances.of
        self.group, self.time = group, asyncio.get_running_loop().time
        self.table = SimulatedTable(rng, self.mix["takes_s"], self.mix["failing"])
        self.hub, self.ended, self.connections = Hub(), False, 0
        clock = Clock(self.wall, self.time)
        telemetry = Telemetry(Metrics(), structlog.get_logger())
        settings = replace(
            SETTINGS, audit_s=self.mix["audit_s"], quiet_s=self.mix["quiet_s"]
        )
        self.recovery = make_recovery(self.table, self.hub, settings, telemetry, clock)
        revoked = RevokedSessions(60.0, 9, FakeShared(9))
        self.relay = Relay(self.hub, self.recovery, revoked, live(), clock, telemetry)
        self.clients = [self.client(number) for number in range(rng.choice([2, 3, 4]))]
        self.tasks: list[asyncio.Task[None]] = []

    def client(self, number: int) -> Client:
        own = random.Random(self.rng.random())
        tables: Any = self.table
        if self.rng.random() < 0.5:
            return OldClient(f"{number}", ALICE, tables, own)
        client = Syncing(f"{number}", ALICE, tables, own)
        client.simulation = self
        return client

    def wall(self) -> float:
        return NOW_MS / 1000 + self.time()

    def at(self) -> str:
        return version_at(int(self.wall() * 1000))

    def hosts(self) -> list[RestHost]:
        rng = self.rng
        kinds = [kind for kind in WRITES for _ in range(rng.choice([0, 1, 4]))]
        return [
            RestHost(
                self.table, self.chances, kinds or WRITES, self.wall,
                rng.choice([0.0, -2.0, 2.0, 5.0]), self.deliver,
            )
            for _ in range(2)
        ]  # fmt: skip

    def deliver(self, payload: bytes, delay_s: float) -> None:
        self.group.create_task(self.delivered(payload, delay_s))

    async def delivered(self, payload: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self.relay.on_event(ALICE, payload)
        self.relay.on_batch_end()

    # Devices.

    async def live(self, client: Client) -> None:
        """A device that comes and goes, with its copy as it was or freshly loaded."""
        while True:
            if not client.heard or client.rng.random() < 0.5:
                client.load()
            await asyncio.sleep(client.rng.random() * 2.0)
            self.connections += 1
            link = Link(f"c{self.connections}", client)
            self.hub.attach(ALICE, link)
            self.recovery.attach(ALICE, link)
            device: Any = link
            client.device = device
            await client.connected()
            await self.stays(client)
            link.open, client.device = False, None
            self.hub.detach(ALICE, link)
            self.recovery.detach(ALICE, link)
            await asyncio.sleep(client.rng.random() * 3.0)

    async def stays(self, client: Client) -> None:
        """Until the connection breaks; in the end it does not."""
        if self.mix["dropped"]:
            await asyncio.sleep(client.rng.expovariate(2 * self.mix["dropped"]))
        if self.ended or not self.mix["dropped"]:
            await asyncio.Event().wait()

    def start_sync(self, client: Syncing, cursor: str | None) -> None:
        link: Any = client.device
        self.tasks.append(self.group.create_task(self.sync(client, link, cursor)))

    async def sync(self, client: Syncing, link: Link, cursor: str | None) -> None:
        request = client_messages.Sync(cursor=cursor, ids=client.listing)
        await asyncio.sleep(ROUND_TRIP_S)
        await self.table.passes()
        try:
            page = await self.recovery.sync(ALICE, link.connection_id, request)
            answer = json.loads(messages.encode(page))
        except ClientError as refusal:
            answer = {"type": "error", "code": refusal.code}
        except StoreError:
            await asyncio.sleep(RETRY_S)
            answer = {"type": "error", "code": "UNAVAILABLE"}
        link.take(answer)

    async def type_away(self, client: Client, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(self.rng.random() * self.mix["pace_s"] * 2)
            link: Any = client.device
            if link is not None and client.notes:
                await self.update(link, picked(self.rng, client.notes))

    async def update(self, link: Link, row_id: str) -> None:
        """A device's own update, as the dispatcher handles it."""
        sequence = self.recovery.shown.sequence
        await self.table.passes()
        async with Transaction.begun(self.table) as transaction:
            if (found := await transaction.read(row_id)) is None:
                return
            changes = {"title": self.rng.choice(["a", self.chances.text("typed")])}
            row = {**found, **changes, "updatedAt": self.at()}
            transaction.write(row_id, row)
            await self.table.passes()
            transaction.commit()
            text = self.table.text(row_id)
        await self.table.passes()
        link.take({"type": "note_update_success", "noteId": row_id, "updatedNote": row})
        key = RowKey(ALICE, RowKind.NOTE, row_id)
        written = VersionedRow(text, row["updatedAt"])
        self.recovery.conflicts.note_reply(key, written, link.connection_id, sequence)
        event = {
            "event": "note_updated", "noteId": row_id, "updatedNote": row,
            "changes": {**changes, "updatedAt": row["updatedAt"]},
            "exceptConnectionId": link.connection_id,
        }  # fmt: skip
        payload = json.dumps(event).encode()
        if self.chances.hit("unpublished"):
            self.relay.on_unpublished(ALICE, payload)
            self.recovery.heal([ALICE], "publish_failed", 0.5)
        else:
            self.deliver(payload, self.rng.random() * 0.2)

    async def faults(self) -> None:
        while not self.ended:
            await asyncio.sleep(1.0)
            if self.chances.hit("gaps"):
                self.recovery.heal([ALICE], "gap", self.rng.random())
            if self.chances.hit("forgotten"):
                self.recovery.deletions.kept._drop(ALICE)

    # The course.

    async def run(self) -> list[str]:
        """Returns what the devices show that the table does not hold."""
        for _ in range(self.rng.choice([1, 2, 4])):
            row = new_row(self.rng, self.at())
            self.table.committed[row["id"]] = (50, row)
        start = self.group.create_task
        self.tasks += [start(self.recovery.run()), start(self.faults())]
        await asyncio.sleep(self.mix["started_s"])
        self.tasks += [start(self.live(client)) for client in self.clients]
        # Not many: each write of a row mends what was missed of it before.
        steps = self.rng.choice([2, 5, 12])
        async with asyncio.TaskGroup() as work:
            for host in self.hosts():
                work.create_task(host.work(steps))
            for client in self.clients[:3]:
                work.create_task(self.type_away(client, steps // 2))
        self.ended, self.table.failing = True, 0.0
        for _ in range(int(PATIENCE_S / POLL_S)):
            if not (wrong := self.wrong()):
                break
            await asyncio.sleep(POLL_S)
        for task in self.tasks:
            task.cancel()
        return wrong

    def wrong(self) -> list[str]:
        found = []
        for client in self.clients:
            differs = client.differs() if client.device else ["not connected"]
            if self.mix["forgotten"] and isinstance(client, OldClient):
                # It may keep a row that has gone while the ids were not known.
                differs = [each for each in differs if not each.startswith("extra")]
            found += [f"{type(client).__name__} {client.name} {e}" for e in differs]
        return found


async def _play(seed: int) -> list[str]:
    async with asyncio.TaskGroup() as group:
        return await Simulation(seed, group).run()


def differences(seed: int) -> list[str]:
    """Play a seed; returns what the devices show that the table does not hold."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_play(seed))


def main() -> int:
    """Returns 1 when a seed failed."""
    parser = command_line(
        "python -m tests.unit.delivery.simulation",
        "Random courses of faults, simulated.",
        "--first 1000 --seeds 1000",
    )
    parser.add_argument("--first", type=int, default=1_000, help="seed")
    parser.add_argument("--seeds", type=at_least(1), default=1_000, help="how many")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    failed = 0
    for seed in range(options.first, options.first + options.seeds):
        if wrong := differences(seed):
            failed += 1
            print(f"seed {seed}:", *wrong, sep="\n  ", flush=True)
    print(f"{options.seeds} seeds from {options.first}: {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
