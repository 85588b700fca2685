"""The meaning of a failed command of the shared limits, for its caller. Pure.

Invariants. A server that is unreachable or starting is away: its absence is tolerated
(spec section 6). A server that answers with an error is a fault, and nothing is granted
on its word. Errors of a failover are distinguished, because they end by themselves.
Tested by tests/unit/redis/test_failure.py.
"""

from enum import Enum
from typing import Any, Final

import hiredis

from .connection import RedisUnavailableError

__all__ = ["CommandFailure", "is_fault", "judge"]

FAILOVER_S: Final = 5.0
FAILOVER: Final = ("READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")
"""Errors of a server that is about to be replaced, or has just been."""
LOADING: Final = "LOADING"
"""The error of a server that is starting."""
ANSWERED: Final = frozenset({"refused", "readonly"})
"""Reasons of `RedisUnavailableError` when a server answered."""


class CommandFailure(Enum):
    """Redis is away, is failing over, or refuses."""

    AWAY = "away"
    FAILOVER = "failover"
    REFUSED = "refused"


def is_fault(reply: Any) -> bool:
    """Whether a server answered with an error."""
    if isinstance(reply, RedisUnavailableError):
        return reply.reason in ANSWERED
    return isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(LOADING)


def judge(
    failure: RedisUnavailableError | hiredis.ReplyError, failing_s: float
) -> CommandFailure:
    """`failing_s`: how long Redis has answered with errors by now."""
    if not is_fault(failure):
        return CommandFailure.AWAY
    if failing_s >= FAILOVER_S:
        return CommandFailure.REFUSED
    if isinstance(failure, RedisUnavailableError) or str(failure).startswith(FAILOVER):
        return CommandFailure.FAILOVER
    return CommandFailure.REFUSED
