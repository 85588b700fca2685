"""The meaning of a failed command of the shared limits."""

import hiredis
import pytest

from typelets_ws.redis.connection import RedisUnavailableError
from typelets_ws.redis.failure import FAILOVER_S, CommandFailure, is_fault, judge

AWAY = [
    *(
        RedisUnavailableError(why)
        for why in ("down", "lost", "timeout", "full", "failover")
    ),
    hiredis.ReplyError("LOADING Redis is loading the dataset in memory"),
]
PASSING = [
    *(RedisUnavailableError(why) for why in ("refused", "readonly")),
    hiredis.ReplyError("READONLY You can't write against a read only replica."),
    hiredis.ReplyError("CLUSTERDOWN The cluster is down"),
    hiredis.ReplyError("MASTERDOWN Link with MASTER is down"),
    hiredis.ReplyError("TRYAGAIN Multiple keys request during rehashing of slot"),
]
REFUSALS = [
    hiredis.ReplyError(text)
    for text in (
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOPERM this user has no permissions to run the 'set' command",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOREPLICAS Not enough good replicas to write.",
        "MOVED 1 127.0.0.1:7001",
        "ERR unknown command",
    )
]


@pytest.mark.parametrize("failure", AWAY)
def test_a_server_that_does_not_answer_or_is_starting_is_away(
    failure: RedisUnavailableError | hiredis.ReplyError,
) -> None:
    assert judge(failure, float("inf")) is CommandFailure.AWAY
    assert not is_fault(failure)


@pytest.mark.parametrize("failure", PASSING)
def test_errors_of_a_failover_are_passing_for_a_while(
    failure: RedisUnavailableError | hiredis.ReplyError,
) -> None:
    assert is_fault(failure)
    assert judge(failure, 0.0) is CommandFailure.FAILOVER
    assert judge(failure, FAILOVER_S) is CommandFailure.REFUSED


@pytest.mark.parametrize("failure", REFUSALS)
def test_other_errors_refuse_at_once(failure: hiredis.ReplyError) -> None:
    assert is_fault(failure)
    assert judge(failure, 0.0) is CommandFailure.REFUSED
