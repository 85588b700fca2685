"""Whole daemons over a Sentinel group and a Cluster: devices through a failover."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from tests.daemon import Device, daemon, eventually
from tests.postgres import Database
from tests.redis_topologies import Cluster, SentinelGroup
from tests.tokens import mint
from tests.within import PATIENCE_S
from typelets_ws.publisher import AsyncPublisher

NOTE = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(params=["sentinel_group", "cluster"])
def group(request: pytest.FixtureRequest) -> SentinelGroup | Cluster:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, SentinelGroup | Cluster)
    return found


async def until_told(device: Device) -> None:
    """Wait until the device was healed, or got resync_required."""
    while (await device.receive())["type"] not in {"healed", "resync_required"}:
        pass


async def test_devices_of_two_daemons_live_through_a_killed_master(
    group: SentinelGroup | Cluster, database: Database
) -> None:
    async with (
        daemon(group.url, database.url) as here,
        daemon(group.url, database.url) as there,
        here.device("alice") as phone,
        there.device("alice") as laptop,
    ):
        await phone.send(
            {"type": "note_created", "noteData": {"id": NOTE}, "requestId": "1"}
        )
        assert (await phone.receive())["type"] == "announced"
        assert (await laptop.receive())["type"] == "note_created_sync"
        if isinstance(group, SentinelGroup):
            victim = group.master
        else:
            victim = group.masters()[0]
        victim.kill()
        await eventually(lambda: bool(here.daemon.health.unready_reasons()))
        code, _, body = await here.get("/ready")
        if code == 503:
            assert "redis" in " ".join(json.loads(body)["reasons"])
        await eventually(lambda: not here.daemon.health.unready_reasons())
        await eventually(lambda: not there.daemon.health.unready_reasons())
        await asyncio.gather(until_told(phone), until_told(laptop))
        async with AsyncExitStack() as stack:
            # Another failover, of a master that waits for a core, loses events, and
            # lets devices in without a slot.
            await asyncio.to_thread(stack.enter_context, group.steady())
            await eventually(lambda: not here.daemon.health.unready_reasons())
            await eventually(lambda: not there.daemon.health.unready_reasons())
            await phone.barrier()
            await laptop.barrier()
            async with AsyncPublisher(group.url, timeout_s=PATIENCE_S) as publisher:
                assert await publisher.notify_note_deleted("alice", NOTE) >= 0
            for device in (phone, laptop):
                while (await device.receive())["type"] != "note_deleted_sync":
                    pass
            assert here.figure("redis_failovers_total") >= 1
            # The limit holds over both daemons: 20 devices, two of which are there.
            sockets = [
                await stack.enter_async_context((here, there)[n % 2].device())
                for n in range(19)
            ]
            answers = [(await each.auth(mint("alice")))["type"] for each in sockets]
            assert answers.count("auth_success") == 18
