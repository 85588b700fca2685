"""Three devices: a sender, the same user's other device, and another user's.

`Scene.say` sends one message and returns what each of them was sent because of it.
Nothing is waited for by the clock: a fourth device announces a deletion behind the
message, and all that comes before it belongs to the message.
"""

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.daemon import Boot, Device, Message, RunningDaemon

ALICE, BOB = "user_alice", "user_bob"


@dataclass
class Seen:
    """The messages each of them got."""

    sender: list[Message]
    other: list[Message]
    bob: list[Message]

    @property
    def reply(self) -> Message:
        """The only message the sender got; the others got none."""
        (reply,) = self.sender
        assert self.other == self.bob == []
        return reply

    @property
    def sync(self) -> Message:
        """The only message the other device got; the sender and others got none."""
        (sync,) = self.other
        assert self.sender == self.bob == []
        return sync

    @property
    def refusal(self) -> tuple[str, str]:
        """Text and code of the error that only the sender got."""
        assert self.reply["type"] == "error"
        return self.reply["message"], self.reply["code"]


@dataclass
class Scene:
    """Three devices of alice (two that are watched) and one of bob's."""

    server: RunningDaemon
    sender: Device
    other: Device
    fence: Device
    bob: Device

    async def say(self, message: Mapping[str, Any] | str | bytes) -> Seen:
        await self.sender.send(message)
        replies = await self.sender.barrier()
        mark = await self.raise_fence()
        replies += await until(self.sender, mark)
        return Seen(replies, await until(self.other, mark), await self.bob.barrier())

    async def raise_fence(self) -> str:
        """Announce the deletion of a note that never was; returns its id."""
        mark = str(uuid.uuid4())
        await self.fence.barrier()
        await self.fence.send({"type": "note_deleted", "noteId": mark})
        return mark


async def until(device: Device, mark: str) -> list[Message]:
    """All messages before the deletion of note `mark`."""
    found: list[Message] = []
    while True:
        message = await device.receive()
        if message["type"] == "note_deleted_sync" and message["noteId"] == mark:
            return found
        found.append(message)


@asynccontextmanager
async def staged(server: RunningDaemon) -> AsyncIterator[Scene]:
    """A scene on a running daemon."""
    async with (
        server.device(ALICE) as sender,
        server.device(ALICE) as other,
        server.device(ALICE) as fence,
        server.device(BOB) as bob,
    ):
        yield Scene(server, sender, other, fence, bob)


@asynccontextmanager
async def played(boot: Boot, **sections: Mapping[str, Any]) -> AsyncIterator[Scene]:
    """A scene on a daemon of its own, which must not log an internal error."""
    async with boot(**sections) as server, staged(server) as scene:
        yield scene
        assert not server.logged("internal_error")


def is_now(timestamp: object) -> bool:
    """Whether it is the time now, in ms, give or take a minute."""
    return isinstance(timestamp, int) and abs(timestamp - time.time() * 1000) < 60_000
