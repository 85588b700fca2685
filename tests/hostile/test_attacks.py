"""Under each attack an honest client is served, and its memory is given back."""

import pytest
from websockets.asyncio.client import connect

from tests.daemon import Device
from tests.postgres import Database
from tests.redis import RedisServer
from tests.within import within

from . import ALL
from .clients import ATTACKS, Attack
from .measure import MEMORY_MIB, attacking, measure, victim

pytestmark = pytest.mark.slow

SECONDS = 0.6
TRIES = 3
"""A busy machine delays the honest client, too; a daemon that stands still does so
every time."""

assert ALL


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_honest_client_is_served_during(
    name: str, redis_server: RedisServer, database: Database
) -> None:
    attack = ATTACKS[name]
    for attempt in range(TRIES):
        with victim(redis_server.url, database.url, attack) as target:
            result = await measure(target, attack, SECONDS)
            assert target.process.running
        assert result.after - result.before <= MEMORY_MIB, result
        if result.bearable and not result.refused:
            return
        assert attempt < TRIES - 1, result


async def test_deadlines_hold_while_others_flood(
    redis_server: RedisServer, database: Database
) -> None:
    flood = ATTACKS["40 connections flood and ignore their close"]
    attack = Attack(flood.name, flood.run, {"auth": {"auth_timeout_ms": 500}})
    with victim(redis_server.url, database.url, attack) as target:
        async with (
            attacking(target, attack, 3.0),
            connect(f"ws://127.0.0.1:{target.port}/", compression=None) as socket,
        ):
            with within(2.5):
                assert await Device(socket).closed() == 4408
