"""Many devices that return at once: their syncs wait, and nothing is read twice."""

import asyncio
from typing import Any

import pytest

from tests.daemon import Boot, Device, Message, eventually, publish
from tests.integration.delivery.stored import digest, wire_note
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.redis import RedisServer


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


AUDITED = {"enabled": True, "replay_s": 60.0, "audit_s": 1.0, "audit_share": 0.5}


async def synced(device: Device) -> Message:
    """The page of a sync."""
    await device.send({"type": "sync"})
    while (message := await device.receive())["type"] != "sync_page":
        pass
    return message


async def healed(device: Device) -> Message:
    while (message := await device.receive())["type"] != "healed":
        pass
    return message


def delete(database: Database, note: str) -> None:
    """As a REST route that publishes nothing."""
    database.execute("DELETE FROM notes WHERE id = %s", note)


@pytest.mark.parametrize("created", [False, True])
async def test_a_deletion_between_a_sync_and_the_first_look_is_found(
    boot: Boot, database: Database, redis_server: RedisServer, *, created: bool
) -> None:
    """The ids of the user's rows are not known yet; a row may come meanwhile."""
    database.add_user(ALICE)
    note = database.add_note(ALICE)
    async with boot(recovery=AUDITED) as server:
        await eventually(lambda: server.daemon.relay.recovery.cursor is not None)
        async with server.device(ALICE) as device:
            assert len((await synced(device))["notes"]) == 1
            delete(database, note)
            if created:
                row = wire_note(database, database.add_note(ALICE))
                event = {"event": "note_created", "noteData": row}
                await publish(redis_server.url, ALICE, event)
            assert (await healed(device))["digest"] == digest(database)


async def test_a_row_that_only_a_page_has_shown_is_missed_when_it_is_gone(
    boot: Boot, database: Database
) -> None:
    """No look has found it: it came and went between two of them."""
    database.add_user(ALICE)
    async with boot(recovery=AUDITED) as server:
        recovery = server.daemon.relay.recovery
        await eventually(lambda: recovery.cursor is not None)
        async with server.device(ALICE) as device:
            await synced(device)
            await eventually(lambda: recovery.deletions.kept.count(ALICE) == 0)
            note = database.add_note(ALICE)
            assert len((await synced(device))["notes"]) == 1
            delete(database, note)
            assert (await healed(device))["digest"] == digest(database)
