"""Nodes of a Cluster that no command goes to: replicas, and nodes that left the map.

A client may PUBLISH at any node. One that the node of our subscriber does not know
acknowledges PUBLISH, and the event does not arrive: it is cut off, was forgotten, or is
joining again. So a probe goes through each such node, as through every master.

Invariants. Events at a node are owed from the last probe through it that was heard.
They are owed when a probe is late or unheard, when the node's connection ends or opens
again, when it leaves the map, and when it joins one that is not the first. Owed events
are reported when a probe is heard, when the node stops answering, and after `WATCH_S`.
All due reports are one call of `on_settled`, at most one in `REPORT_EVERY_S`. At most
`MOST_LOST` lost nodes are watched; one more is reported at once.
Tested by tests/integration/redis/test_cluster.py.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..config.redis_address import Node
from ..telemetry.telemetry import Telemetry
from .commands import NodeClient
from .slots import SlotMap

__all__ = ["NodeWatch"]

WATCH_S: Final = 60.0
REPORT_EVERY_S: Final = 10.0
"""A node that comes and goes must not keep all devices reading."""
MOST_LOST: Final = 64


class NodeWatch:
    """`make(node)` makes the client of one; `monotonic` in seconds."""

    def __init__(
        self,
        make: Callable[[Node], NodeClient],
        monotonic: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._make = make
        self._monotonic = monotonic
        self._log = telemetry.log
        self._on_settled: list[Callable[[], None]] = []
        self._known: frozenset[Node] = frozenset()
        self._watched: dict[Node, _Watched] = {}
        self._sent: dict[bytes, _Watched] = {}
        self._number = 0
        self._late_s = 0.0
        self._subscriber: object = None
        self._report_due = False
        self._reported_at = -REPORT_EVERY_S

    def on_settled(self, callback: Callable[[], None]) -> None:
        """Call `callback` when events that were published until now may be missing."""
        self._on_settled.append(callback)

    def follow(
        self, slots: SlotMap, node_timeout_s: float, group: asyncio.TaskGroup
    ) -> None:
        """Watch the nodes of the newest map; the clients run in `group`."""
        self._late_s, now = node_timeout_s / 2, self._monotonic()
        for node in self._known - slots.nodes:
            self._log.warning("redis_node_lost", node=_name(node))
            lost = self._watched.pop(node, None) or self._make_watched(node, group)
            self._watched[node] = lost
            lost.owe(now)
            lost.lost_at = now
        for node in slots.nodes - self._watched.keys():
            joined = bool(self._known) and node not in self._known
            if joined or node not in slots.masters:
                watched = self._watched[node] = self._make_watched(node, group)
                if joined:
                    watched.owe(now)
        self._known = slots.nodes
        self._end_watches(slots, now)

    def probe(self, channel: bytes, subscriber: object) -> None:
        """Publish a probe through each node; report what is due.

        `subscriber` is the identity of the connection that hears `channel`.
        """
        moved, self._subscriber = subscriber is not self._subscriber, subscriber
        for node, watched in self._watched.items():
            if watched.payload is not None:
                # One that moved has reported every user; it misses only older probes.
                if not moved and not self._is_late(watched):
                    continue
                if not moved and watched.acknowledged:
                    watched.owe(self._monotonic())
                self._forget_probe(watched)
            if watched.client.up:
                self._send(channel, node, watched)
        now = self._monotonic()
        if self._report_due and now - self._reported_at >= REPORT_EVERY_S:
            self._report_due, self._reported_at = False, now
            for notify in self._on_settled:
                notify()

    def heard(self, payload: bytes) -> bool:
        """A message on the probe channel; False when it is no probe of a node here."""
        if b"@" not in payload:
            return False
        watched = self._sent.get(payload)
        if watched is not None:
            late = self._is_late(watched)
            self._forget_probe(watched)
            if late or watched.owed_since is not None:
                watched.owed_since = None
                self._report(watched, "heard")
        return True

    def _make_watched(self, node: Node, group: asyncio.TaskGroup) -> "_Watched":
        client = self._make(node)
        watched = _Watched(node, client, group.create_task(client.run()))
        client.on_connect(partial(self._on_connected, watched))
        client.on_lost(partial(self._on_connection_lost, watched))
        return watched

    def _end_watches(self, slots: SlotMap, now: float) -> None:
        lost = [node for node in self._watched if node not in slots.nodes]
        too_many = set(lost[: max(0, len(lost) - MOST_LOST)])
        for node, watched in tuple(self._watched.items()):
            away = node not in slots.nodes
            over = node in too_many or (away and now - watched.lost_at >= WATCH_S)
            if over or watched.owed_for(now) >= WATCH_S:
                self._give_up(watched, away=away)
            if over or (node in slots.masters and watched.owed_since is None):
                del self._watched[node]
                self._forget_probe(watched)
                watched.task.cancel()

    def _give_up(self, watched: "_Watched", *, away: bool) -> None:
        """Report what is owed without waiting for a probe any longer."""
        if watched.owed_since is not None and (watched.client.up or not away):
            self._report(watched, "unheard")
        watched.owed_since = None

    def _send(self, channel: bytes, node: Node, watched: "_Watched") -> None:
        self._number += 1
        payload = b"%d@%s" % (self._number, _name(node).encode())
        watched.payload, watched.sent_at = payload, self._monotonic()
        watched.acknowledged = False
        self._sent[payload] = watched
        watched.client.send(
            partial(self._answered, watched, payload), b"PUBLISH", channel, payload
        )
        watched.client.count()

    def _answered(self, watched: "_Watched", payload: bytes, reply: Any) -> None:
        if watched.payload == payload:
            watched.acknowledged = reply.__class__ is int
            if not watched.acknowledged:
                # It takes no events from clients either.
                self._forget_probe(watched)

    def _on_connected(self, watched: "_Watched") -> None:
        if watched.was_connected:
            watched.owe(self._monotonic())
        watched.was_connected = True

    def _on_connection_lost(self, watched: "_Watched", reason: str) -> None:
        if reason == "closed":
            return
        self._forget_probe(watched)
        if watched.owed_since is not None:
            self._report(watched, "gone")
        watched.owe(self._monotonic())

    def _is_late(self, watched: "_Watched") -> bool:
        return self._monotonic() - watched.sent_at > self._late_s

    def _forget_probe(self, watched: "_Watched") -> None:
        if watched.payload is not None:
            del self._sent[watched.payload]
            watched.payload = None

    def _report(self, watched: "_Watched", reason: str) -> None:
        node = _name(watched.node)
        self._log.warning("redis_node_reported", node=node, reason=reason)
        self._report_due = True


class _Watched:
    """One node; `payload` is the probe on its way. Times in monotonic seconds."""

    def __init__(
        self, node: Node, client: NodeClient, task: asyncio.Task[None]
    ) -> None:
        self.node = node
        self.client = client
        self.task = task
        self.owed_since: float | None = None
        self.lost_at = 0.0
        self.was_connected = False
        self.payload: bytes | None = None
        self.sent_at = 0.0
        self.acknowledged = False

    def owe(self, now: float) -> None:
        """Events at this node may be unheard from its last proof on."""
        if self.owed_since is None:
            self.owed_since = now

    def owed_for(self, now: float) -> float:
        """For how long; 0 when none are owed."""
        return 0.0 if self.owed_since is None else now - self.owed_since


def _name(node: Node) -> str:
    return f"{node[0]}:{node[1]}"
