"""Commands to a Cluster: each goes to the master of its key's slot.

Invariants. There is one connection to each master of the newest map. Commands with the
same key reach Redis in the order of the calls, but for those that a slot's move sends
on. PUBLISH is heard from any node, so one whose own master is away goes to another.
`up` is true while every slot has a master and every master a connection.
Tested by tests/integration/redis/test_cluster.py.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import hiredis

from ..config.redis_address import Node
from ..telemetry.telemetry import Telemetry
from .commands import Argument, NodeClient, ReplyCallback, reply_to
from .connection import RedisUnavailableError
from .node_watch import NodeWatch
from .role import Mode, is_refusal, role_error
from .slots import redirection, slot_of
from .topology import ClusterTopology

__all__ = ["ClusterClient"]

REFRESH_S: Final = 5.0
REFRESH_PAUSE_S: Final = 0.1
"""At least this long between two refreshes."""
ASKED_S: Final = 60.0
"""A node that ASK named keeps its connection this long; by then the map has it."""
TRY_AGAIN_S: Final = 0.05
MAX_TRIES: Final = 10
BROADCAST: Final = frozenset({b"SCRIPT"})
KEY_INDEX: Final = {b"EVAL": 3, b"EVALSHA": 3}


class ClusterClient:
    """A `RedisClient` of all masters; `make(node)` makes the client of one."""

    def __init__(
        self,
        topology: ClusterTopology,
        make: Callable[[Node], NodeClient],
        watch: NodeWatch,
        telemetry: Telemetry,
    ) -> None:
        self._topology = topology
        self._make = make
        self._watch = watch
        self._failovers = telemetry.metrics.redis_failovers
        self._log = telemetry.log
        self._members: dict[Node, NodeClient] = {}
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        self._on_connect: list[Callable[[], None]] = []
        self._on_lost: list[Callable[[str], None]] = []
        self._on_map: list[Callable[[], None]] = []
        self._refresh_due = asyncio.Event()
        self._refused = False
        self._asked: dict[Node, float] = {}

    @property
    def up(self) -> bool:
        """See `RedisClient.up`."""
        return bool(self._members) and not self._down()

    @property
    def node(self) -> str:
        """The masters without a connection."""
        return ",".join(_name(node) for node in self._down() or self._members)

    @property
    def probe_interval_s(self) -> float:
        """A node that is cut off for longer than its timeout loses messages."""
        return self._topology.node_timeout_s / 4

    @property
    def late_probe_s(self) -> float:
        """A probe later than this may have overtaken lost messages."""
        return self._topology.node_timeout_s / 2

    def on_connect(self, callback: Callable[[], None]) -> None:
        """See `RedisClient.on_connect`."""
        self._on_connect.append(callback)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """See `RedisClient.on_lost`; ``promoted``: a replica has become a master."""
        self._on_lost.append(callback)

    def on_settled(self, callback: Callable[[], None]) -> None:
        """Call `callback` when events at a node that was lost may be missing."""
        self._watch.on_settled(callback)

    def on_map(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each refresh of the map."""
        self._on_map.append(callback)

    def request_refresh(self) -> None:
        """Refresh the map soon: something did not fit it."""
        self._refresh_due.set()

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        """See `NodeClient.send`."""
        if args[0] in BROADCAST:
            for member in self._members.values():
                member.send(callback, *args)
            return
        self._send(callback, args, 0)

    def call(self, *args: Argument) -> Coroutine[Any, Any, Any]:
        """See `NodeClient.call`."""
        return reply_to(self.send, *args)

    async def flush(self) -> None:
        """See `RedisClient.flush`."""
        for member in tuple(self._members.values()):
            await member.call(b"PING")

    async def probe(self, channel: bytes, number: int) -> frozenset[bytes]:
        """See `RedisClient.probe`."""
        if not self.up:
            raise RedisUnavailableError("down")
        expected = set()
        async with asyncio.timeout(None):
            for index, member in enumerate(tuple(self._members.values())):
                payload = b"%d.%d" % (number, index)
                expected.add(payload)
                await member.call(b"PUBLISH", channel, payload)
                if role_error(await member.call(b"HELLO"), Mode.CLUSTER):
                    self._refresh_due.set()
                    raise RedisUnavailableError("unproven")
        return frozenset(expected)

    def healthy(self) -> None:
        """See `RedisClient.healthy`."""
        for member in self._members.values():
            member.healthy()

    def count(self) -> None:
        """See `RedisClient.count`."""
        for member in self._members.values():
            member.count()

    async def run(self) -> None:
        """Keep the map and the connections until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._topology.refresh()
                    self._refused = False
                    # A node is lost to the others for longer than their timeout.
                    pause = min(REFRESH_S, self._topology.node_timeout_s)
                except Exception as exc:
                    self._refused = is_refusal(exc)
                    # The map of before stays in use; failing nodes show by themselves.
                    self._log.warning("redis_cluster_unknown", reason=str(exc))
                    pause = 1.0
                self._follow(group)
                self._watch.follow(
                    self._topology.slots, self._topology.node_timeout_s, group
                )
                for notify in self._on_map:
                    notify()
                self._refresh_due.clear()
                await asyncio.sleep(REFRESH_PAUSE_S)
                try:
                    async with asyncio.timeout(pause):
                        await self._refresh_due.wait()
                except TimeoutError:
                    continue

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """One member for each master of the map."""
        now = asyncio.get_running_loop().time()
        self._asked = {node: end for node, end in self._asked.items() if end > now}
        masters = self._topology.slots.masters | self._asked.keys()
        gone = [node for node in self._members if node not in masters]
        promoted = [node for node in masters if node not in self._members]
        for node in gone:
            self._tasks.pop(node).cancel()
            del self._members[node]
        for node in promoted:
            member = self._members[node] = self._make(node)
            member.on_connect(self._on_member_connected)
            member.on_lost(partial(self._on_member_lost, node))
            self._tasks[node] = group.create_task(member.run())
        if gone and promoted:
            self._failovers.inc(len(promoted))
            for node in promoted:
                self._log.warning("redis_failover", node=_name(node))
            self._notify_lost("promoted")
        elif gone and self.up:
            self._on_member_connected()

    def _send(
        self, callback: ReplyCallback, args: tuple[Argument, ...], tries: int
    ) -> None:
        node = self._node_for(args)
        member = self._members.get(node) if node is not None else None
        if node is None or member is None:
            self._refresh_due.set()
            callback(RedisUnavailableError("refused" if self._refused else "down"))
        else:
            member.send(partial(self._answer, callback, args, node, tries), *args)

    def _node_for(self, args: tuple[Argument, ...]) -> Node | None:
        name = args[0]
        assert isinstance(name, bytes)
        key = args[KEY_INDEX.get(name, 1)]
        assert isinstance(key, bytes)
        node: Node | None = self._topology.slots.owner(slot_of(key))
        if args[0] == b"PUBLISH" and (node is None or not self._is_up(node)):
            return next((each for each in self._members if self._is_up(each)), node)
        return node

    def _answer(
        self,
        callback: ReplyCallback,
        args: tuple[Argument, ...],
        node: Node,
        tries: int,
        reply: Any,
    ) -> None:
        if not isinstance(reply, hiredis.ReplyError):
            callback(reply)
            return
        error = str(reply)
        moved = redirection(error, node)
        if tries >= MAX_TRIES:
            callback(reply)
        elif moved is not None:
            self._redirect(callback, args, moved, tries + 1)
        elif error.startswith("TRYAGAIN"):
            loop = asyncio.get_running_loop()
            loop.call_later(TRY_AGAIN_S, self._send, callback, args, tries + 1)
        elif error.startswith("CLUSTERDOWN"):
            self._refresh_due.set()
            callback(RedisUnavailableError("refused"))
        else:
            callback(reply)

    def _redirect(
        self,
        callback: ReplyCallback,
        args: tuple[Argument, ...],
        moved: tuple[str, Node],
        tries: int,
    ) -> None:
        kind, node = moved
        member = self._members.get(node)
        if kind == "MOVED":
            self._refresh_due.set()
        elif member is None:
            # A master that has no slot yet, so the map does not name it.
            self._asked[node] = asyncio.get_running_loop().time() + ASKED_S
            self._refresh_due.set()
        if member is None or not member.up:
            # The next refresh connects to it.
            loop = asyncio.get_running_loop()
            loop.call_later(TRY_AGAIN_S * 2, self._send, callback, args, tries)
            return
        if kind == "ASK":
            member.send(_ignore, b"ASKING")
        member.send(partial(self._answer, callback, args, node, tries), *args)

    def _on_member_connected(self) -> None:
        if self.up:
            for notify in self._on_connect:
                notify()

    def _on_member_lost(self, node: Node, reason: str) -> None:
        self._refresh_due.set()
        if node in self._members:
            self._notify_lost(reason)

    def _notify_lost(self, reason: str) -> None:
        for notify in self._on_lost:
            notify(reason)

    def _is_up(self, node: Node) -> bool:
        member = self._members.get(node)
        return member is not None and member.up

    def _down(self) -> list[Node]:
        return [node for node, member in self._members.items() if not member.up]


def _name(node: Node) -> str:
    return f"{node[0]}:{node[1]}"


def _ignore(_reply: object) -> None:
    pass
