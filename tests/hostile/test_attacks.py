"""Under each attack an honest client is served, and its memory is given back."""

import pytest

from tests.postgres import Database
from tests.redis import RedisServer

from . import ALL
from .clients import ATTACKS
from .measure import MEMORY_MIB, measure, victim

SECONDS = 1.0

assert ALL


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_honest_client_is_served_during(
    name: str, redis_server: RedisServer, database: Database
) -> None:
    attack = ATTACKS[name]
    with victim(redis_server.url, database.url, attack) as target:
        result = await measure(target, attack, SECONDS)
        assert target.process.running
    assert result.bearable, result
    assert result.after - result.before <= MEMORY_MIB, result
    assert result.refused == 0, result
