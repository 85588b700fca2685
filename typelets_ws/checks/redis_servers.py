"""Why the servers of an address of Redis cannot be used, each with its reason.

They are asked as the daemon asks them: by role and kind, and sentinels for the master.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from ..config.model import Redis
from ..config.redis_address import Node, RedisAddress, Topology, parse
from ..redis.connector import RedisConnector
from ..redis.role import Mode, is_refusal
from .finding import Finding, FindingKind, first_line

__all__ = ["SUBJECT", "server_problems"]

SUBJECT: Final = "redis"
_MODES: Final = {
    Topology.SERVER: Mode.SERVER,
    Topology.SENTINEL: Mode.SENTINEL,
    Topology.CLUSTER: Mode.CLUSTER,
}


async def server_problems(config: Redis) -> Sequence[Finding]:
    """Nothing when enough of the servers can be used; never raises.

    Enough are the one server, more than half of the sentinels, one node of a Cluster.
    """
    address = parse(config.url)
    sentinel = address.kind is Topology.SENTINEL
    connector = RedisConnector(
        address.sentinel_url if sentinel else address.server_url,
        config.connect_timeout_s,
        _MODES[address.kind],
        replica_allowed=address.kind is Topology.CLUSTER,
    )
    nodes = address.nodes or (None,)
    asked = [_problem(connector, address, node) for node in nodes]
    problems = [found for found in await asyncio.gather(*asked) if found is not None]
    usable = len(nodes) - len(problems)
    if sentinel:
        return problems if usable * 2 <= len(nodes) else ()
    return () if usable else problems


async def _problem(
    connector: RedisConnector, address: RedisAddress, node: Node | None
) -> Finding | None:
    sentinel = address.kind is Topology.SENTINEL
    name = f"{node[0]}:{node[1]}" if node and len(address.nodes) > 1 else ""
    question = f"SENTINEL GET-MASTER-ADDR-BY-NAME {address.master}"
    try:
        (reply,) = await connector.ask(node, question if sentinel else "PING")
    except Exception as exc:
        return _failure(exc, name)
    if isinstance(reply, Exception):
        return _failure(reply, name)
    if sentinel and not reply:
        text = f"the sentinel knows no master called {address.master}"
        return Finding(FindingKind.WRONG, SUBJECT, f"{name}: {text}" if name else text)
    return None


def _failure(exc: Exception, name: str) -> Finding:
    kind = FindingKind.WRONG if is_refusal(exc) else FindingKind.AWAY
    text = first_line(exc)
    return Finding(kind, SUBJECT, text if name in text else f"{name}: {text}")
