"""The worst case of the README: memory stays within the budget."""

from tests.postgres import Database
from tests.redis import RedisServer

from . import attacks
from .clients import ATTACKS, Attack
from .measure import measure, victim

BUDGET_MIB = 96
SLACK_MIB = 64.0
"""The allocator's, one loop iteration's, and 600 connections of 5 KB each."""


async def test_memory_held_for_clients_stays_within_the_budget(
    redis_server: RedisServer, database: Database
) -> None:
    limits: dict[str, object] = {"memory_bytes": BUDGET_MIB << 20}
    holding = ATTACKS["160 connections leave messages of 4 MB unfinished"]
    attack = Attack(holding.name, attacks.unfinished, {"limits": limits})
    with victim(redis_server.url, database.url, attack) as target:
        for seconds in (3.0, 15.0, 15.0):  # a busy machine sends less, and answers late
            result = await measure(target, attack, seconds)
            closed = target.evictions("memory")
            if closed and result.bearable:
                break
    assert closed > 0, "the budget was never reached"
    assert result.peak - result.before <= BUDGET_MIB + SLACK_MIB, result
    assert result.after - result.before <= SLACK_MIB, result
    assert result.bearable, result
