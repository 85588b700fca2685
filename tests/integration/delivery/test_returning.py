"""Many devices that return at once: their syncs wait, and nothing is read twice."""

import asyncio
from typing import Any

import pytest

from tests.daemon import Boot, eventually
from tests.integration.scene import ALICE
from tests.postgres import Database


async def test_a_sync_that_waits_postpones_the_heal_of_its_device(
    boot: Boot, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.add_user(ALICE)
    async with boot(recovery={"enabled": True, "replay_s": 60.0}) as server:
        recovery = server.daemon.relay.recovery
        await eventually(lambda: recovery.cursor is not None)
        turn, page = asyncio.Event(), recovery._syncer.page

        async def waits(*args: Any) -> Any:
            await turn.wait()
            return await page(*args)

        monkeypatch.setattr(recovery._syncer, "page", waits)
        async with server.device(ALICE) as device:
            await device.send({"type": "sync"})
            await eventually(lambda: postponed(recovery, 5.0))
            turn.set()
            while (await device.receive())["type"] != "sync_page":
                pass
            state = recovery.states.get(ALICE)
            assert state is not None
            assert state.due is None
            assert state.reason is None


def postponed(recovery: Any, seconds: float) -> bool:
    """Whether the user's heal is due in more than so many seconds."""
    state = recovery.states.get(ALICE)
    now = asyncio.get_running_loop().time()
    return state is not None and state.due is not None and state.due > now + seconds
