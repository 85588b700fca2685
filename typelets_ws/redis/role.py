"""The kind and role that a server reports in its reply to HELLO.

Invariant: HELLO without arguments needs no rights (ACL leaves it out) and changes
nothing, so it can be sent at any time on any connection.
Tested by tests/unit/redis/test_slots.py.
"""

from enum import Enum
from typing import Any, Final

import hiredis
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

__all__ = ["Mode", "NotMasterError", "is_refusal", "is_unknown_command", "role_error"]

REPLICA: Final = (b"replica", b"slave")


class Mode(Enum):
    """The kinds of servers, as HELLO names them."""

    SERVER = b"standalone"
    SENTINEL = b"sentinel"
    CLUSTER = b"cluster"


UNEXPECTED: Final = {
    Mode.SERVER: "this is a single server",
    Mode.SENTINEL: "this is a sentinel: the address begins with redis+sentinel://",
    Mode.CLUSTER: "this is a node of a Cluster: the address begins with redis+cluster://",
}


class NotMasterError(ConnectionError):
    """The server is a replica, or of another kind than the address says."""


def role_error(hello: Any, mode: Mode, *, replica_allowed: bool = False) -> str:
    """Why the server of this reply cannot be used; empty when it can.

    A server or proxy whose reply is not HELLO's is taken for a master.
    """
    if not isinstance(hello, list):
        return ""
    facts = dict(zip(hello[::2], hello[1::2], strict=False))
    try:
        found = Mode(facts.get(b"mode"))
    except ValueError:
        return ""
    if found is not mode:
        return UNEXPECTED[found]
    if facts.get(b"role") in REPLICA and not replica_allowed:
        return "this is a replica"
    return ""


def is_refusal(failure: Exception) -> bool:
    """Whether a connection failed by the server's answer, not for want of one."""
    refusals = (NotMasterError, AuthenticationError, AuthorizationError, ResponseError)
    return isinstance(failure, refusals)


def is_unknown_command(error: hiredis.ReplyError | Exception) -> bool:
    """Whether the server has no such command, as Redis before 6 has no HELLO."""
    return "unknown command" in str(error)
