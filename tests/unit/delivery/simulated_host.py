"""A REST host in simulated time, whose clock may be wrong, and its publisher."""

import asyncio
import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from tests.daemon import Message
from tests.unit.delivery.simulated_table import ALICE, SimulatedTable, Transaction
from typelets_ws.delivery.shown_row import NOTE_NAMES
from typelets_ws.delivery.versions import version_at

__all__ = ["WRITES", "Chances", "RestHost", "new_row", "picked"]

WRITES = ("create", "update", "trash", "delete", "cascade", "back")
MIX = {
    "skipped": (0.0, 0.2, 0.6), "delayed": (0.0, 0.4, 0.9), "repeated": (0.0, 0.1),
    "late": (0.0, 0.1, 0.4), "undone": (0.0, 0.1), "bare": (0.0, 0.0, 0.2),
    "dropped": (0.0, 0.05, 0.3), "gaps": (0.0, 0.05), "forgotten": (0.0, 0.0, 0.1),
    "unpublished": (0.0, 0.1), "pace_s": (0.1, 0.5, 2.0), "takes_s": (0.0, 0.3, 1.0),
    "failing": (0.0, 0.0, 0.1), "started_s": (0.1, 3.0, 70.0),
    "audit_s": (0.5, 3.0, 15.0), "quiet_s": (0.3, 2.0),
}  # fmt: skip
"""Shares and times, of which a seed has one each."""


class Chances:
    """What a seed has of `MIX`; everything random comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.of = {name: rng.choice(values) for name, values in MIX.items()}

    def hit(self, name: str) -> bool:
        return self.rng.random() < self.of[name]

    def text(self, name: str) -> str:
        return f"{name} {self.rng.random()}"


def picked(rng: random.Random, ids: Collection[str]) -> str:
    return rng.choice(sorted(ids))


def new_row(rng: random.Random, at: str) -> Message:
    row_id = str(UUID(int=rng.getrandbits(128)))
    return dict.fromkeys(sorted(NOTE_NAMES)) | {
        "id": row_id, "userId": ALICE, "title": "a", "deleted": False, "updatedAt": at,
    }  # fmt: skip


@dataclass
class RestHost:
    """Writes rows of alice and publishes; `skew_s` is how far its clock is ahead.

    `wall` in seconds; `deliver` takes an event and its delay in seconds.
    """

    table: SimulatedTable
    chances: Chances
    kinds: Sequence[str]
    """Of `WRITES`, the more often the more likely."""
    wall: Callable[[], float]
    skew_s: float
    deliver: Callable[[bytes, float], None]

    async def work(self, steps: int) -> None:
        rng = self.chances.rng
        for _ in range(steps):
            await asyncio.sleep(rng.random() * self.chances.of["pace_s"])
            async with Transaction.begun(self.table) as transaction:
                events = []
                for _ in range(rng.choice([1, 1, 2])):
                    events += await self.write(transaction)
                if self.chances.hit("late"):
                    await asyncio.sleep(rng.random() * 2.0)
                if self.chances.hit("undone"):
                    continue
                transaction.commit()
            for event in events:
                self.publish(event)

    async def write(self, transaction: Transaction) -> list[Message]:
        """Write a row; returns the event, if there is one."""
        rng = self.chances.rng
        kind, at = rng.choice(self.kinds), self.at()
        if kind == "create":
            row = new_row(rng, at)
            transaction.write(row["id"], row)
            return [{"event": "note_created", "noteData": row}]
        ids = self.table.committed.keys() - transaction.writes.keys()
        row_id = picked(rng, ids) if ids else ""
        if (found := await transaction.read(row_id)) is None:
            return []
        if kind == "delete":
            transaction.write(row_id, None)
            return [{"event": "note_deleted", "noteId": row_id}]
        changes = self.changes(kind)
        row = {**found, **changes}
        transaction.write(row_id, row)
        if "updatedAt" not in changes:
            return []
        if kind == "trash" and row["deleted"] and rng.random() < 0.5:
            return [{"event": "note_deleted", "noteId": row_id}]
        event = {"event": "note_updated", "noteId": row_id, "changes": changes}
        return [event if self.chances.hit("bare") else {**event, "updatedNote": row}]

    def at(self) -> str:
        return version_at(int((self.wall() + self.skew_s) * 1000))

    def changes(self, kind: str) -> Message:
        rng = self.chances.rng
        if kind == "cascade":
            # A folder's deletion: the row keeps its updatedAt. A device that leaves
            # after a late event of the row before, and before the next look, does not
            # learn of it: neither its cursor nor its digest tells.
            stays = not self.chances.of["dropped"]
            return {"folderId": self.chances.text("folder")} if stays else {}
        if kind == "trash":
            return {"deleted": rng.random() < 0.5, "updatedAt": self.at()}
        if kind == "back":
            return {"title": rng.choice("ab"), "updatedAt": self.at()}
        names = rng.sample(["title", "content"], rng.randint(1, 2))
        texts = {name: self.chances.text(name) for name in names}
        return {**texts, "updatedAt": self.at()}

    def publish(self, event: Message) -> None:
        """Publish it, perhaps late, perhaps twice, perhaps not at all."""
        if self.chances.hit("skipped"):
            return
        for _ in range(2 if self.chances.hit("repeated") else 1):
            late = self.chances.hit("delayed")
            delay_s = self.chances.rng.random() * 1.5 if late else 0.0
            self.deliver(json.dumps(event).encode(), delay_s)
