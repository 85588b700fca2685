"""Which master of a Cluster serves which slot. Pure, but for the map it holds.

Invariant: `owner` names the master of the newest map, or None for a slot that no
master serves. A map comes from one reply to CLUSTER SLOTS.
Tested by tests/unit/redis/test_slots.py.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import Any

from redis.crc import key_slot

from ..config.redis_address import Node

__all__ = ["SlotMap", "parse_slots", "redirection", "slot_of"]


def slot_of(key: bytes) -> int:
    """The slot of a key or sharded channel: that of its `{tag}`, if it has one."""
    return int(key_slot(key))


class SlotMap:
    """Ranges of slots with their masters: (first, last, master); and all replicas."""

    def __init__(
        self,
        ranges: Sequence[tuple[int, int, Node]] = (),
        replicas: Collection[Node] = (),
    ) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _, _ in self._ranges]
        self.masters = frozenset(master for _, _, master in self._ranges)
        self.nodes = self.masters | frozenset(replicas)

    def owner(self, slot: int) -> Node | None:
        """The master of a slot."""
        index = bisect_right(self._firsts, slot) - 1
        if index < 0 or slot > self._ranges[index][1]:
            return None
        return self._ranges[index][2]


def parse_slots(reply: Any, asked: Node) -> SlotMap:
    """The map of a CLUSTER SLOTS reply; raises ValueError for another reply.

    A node that does not know its own address leaves it empty: it is the one `asked`.
    """
    if not isinstance(reply, list) or not reply:
        raise ValueError("no slots are served")
    ranges, replicas = [], set()
    for first, last, *nodes in reply:
        master, *others = [_node(host, int(port), asked) for host, port, *_ in nodes]
        ranges.append((int(first), int(last), master))
        replicas.update(others)
    return SlotMap(ranges, replicas)


def _node(host: object, port: int, asked: Node) -> Node:
    name = host.decode() if isinstance(host, bytes) else (host or "")
    return (str(name), port) if name and name != "?" else (asked[0], port)


def redirection(error: str, asked: Node) -> tuple[str, Node] | None:
    """MOVED or ASK with the node of such an error; None for any other error."""
    kind, _, rest = error.partition(" ")
    if kind not in {"MOVED", "ASK"}:
        return None
    host, _, port = rest.rpartition(" ")[2].rpartition(":")
    return kind, (host.strip("[]") or asked[0], int(port))
