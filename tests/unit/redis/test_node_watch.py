"""Nodes that no command goes to: which events at them are reported, and when."""

from collections.abc import Callable, Coroutine
from typing import Any

import hiredis
import structlog

from typelets_ws.config.redis_address import Node
from typelets_ws.redis.commands import Argument, ReplyCallback
from typelets_ws.redis.node_watch import MOST_LOST, REPORT_EVERY_S, WATCH_S, NodeWatch
from typelets_ws.redis.slots import SlotMap
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

MASTER, A, B = ("m", 1), ("a", 1), ("b", 1)
TIMEOUT_S = 4.0


class Client:
    """Of one node, which acknowledges each probe."""

    def __init__(self) -> None:
        self.up = True
        self.reply: Any = 0
        self.connected: list[Callable[[], None]] = []
        self.lost: list[Callable[[str], None]] = []
        self.on_connect = self.connected.append
        self.on_lost = self.lost.append
        self.probes: list[bytes] = []
        self.ended = False

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        assert isinstance(args[2], bytes)
        self.probes.append(args[2])
        callback(self.reply)

    def count(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def cancel(self) -> None:
        self.ended = True
        self.disconnect("closed")

    def connect(self) -> None:
        self.up = True
        for notify in self.connected:
            notify()

    def disconnect(self, reason: str = "lost") -> None:
        self.up = False
        for notify in self.lost:
            notify(reason)


class Process:
    """A process that watches; `create_task` runs nothing."""

    def __init__(self, *nodes: Node) -> None:
        self.clients: dict[Node, Client] = {}
        self.reports = 0
        self.now = 0.0
        self.connection = object()
        telemetry = Telemetry(Metrics(), structlog.get_logger())
        self.watch = NodeWatch(self._make, lambda: self.now, telemetry)  # type: ignore[arg-type]
        self.watch.on_settled(self._settled)
        self.map(*nodes)

    def map(self, *replicas: Node) -> None:
        slots = SlotMap([(0, 16383, MASTER)], replicas)
        self.watch.follow(slots, TIMEOUT_S, self)  # type: ignore[arg-type]

    def create_task(self, work: Coroutine[Any, Any, None]) -> Client:
        work.close()
        return self._newest

    def probe(self, after_s: float = 1.0) -> None:
        self.now += after_s
        self.watch.probe(b"channel", self.connection)

    def hear(self, node: Node) -> None:
        assert self.watch.heard(self.clients[node].probes[-1])

    def prove(self, node: Node) -> int:
        """A probe through the node is heard; returns the reports after it."""
        self.probe()
        self.hear(node)
        self.probe()
        self.hear(node)
        return self.reports

    def _make(self, node: Node) -> Client:
        self._newest = self.clients[node] = Client()
        self._newest.connect()
        return self._newest

    def _settled(self) -> None:
        self.reports += 1


def test_probes_go_through_replicas_and_a_sound_one_is_not_reported() -> None:
    process = Process(A, B)
    for _ in range(3):
        process.probe()
        process.hear(A)
        process.hear(B)
    assert set(process.clients) == {A, B}
    assert process.reports == 0


def test_a_lost_node_is_reported_when_it_is_heard_not_when_the_map_has_it() -> None:
    """The node of the subscriber may know it later than the node with the map."""
    process = Process(A, B)
    process.probe()
    process.hear(B)
    process.map(A)
    process.probe()
    process.map(A, B)
    process.probe()
    process.probe()
    assert process.reports == 0
    assert process.prove(B) == 1
    assert process.prove(B) == 1


def test_a_lost_node_that_is_heard_before_the_map_has_it_is_reported_once() -> None:
    process = Process(A)
    process.map()
    assert process.prove(A) == 1
    process.map()
    process.map(A)
    process.now += REPORT_EVERY_S
    assert process.prove(A) == 1


def test_a_node_that_no_map_misses_is_reported() -> None:
    """It is lost and back between two readings of the map."""
    process = Process(A)
    process.probe()
    process.probe(TIMEOUT_S / 2 + 0.1)
    assert process.reports == 0
    assert process.prove(A) == 1


def test_a_late_probe_may_have_overtaken_lost_events() -> None:
    process = Process(A)
    process.probe()
    process.now += TIMEOUT_S / 2 + 0.1
    process.hear(A)
    process.probe()
    assert process.reports == 1


def test_a_node_that_joins_later_is_reported() -> None:
    """This process started while the others had forgotten it."""
    process = Process(A)
    process.map(A, B)
    assert process.reports == 0
    assert process.prove(B) == 1


def test_a_master_that_joins_later_is_watched_until_it_is_heard() -> None:
    process = Process(A)
    slots = SlotMap([(0, 9, MASTER), (10, 16383, B)], [A])
    process.watch.follow(slots, TIMEOUT_S, process)  # type: ignore[arg-type]
    assert process.prove(B) == 1
    process.watch.follow(slots, TIMEOUT_S, process)  # type: ignore[arg-type]
    assert process.clients[B].ended


def test_a_node_whose_connection_ended_is_reported_when_it_is_heard() -> None:
    """After a restart it takes commands before it has joined again."""
    process = Process(A)
    process.probe()
    process.hear(A)
    process.clients[A].disconnect()
    process.probe()
    assert process.reports == 0
    process.clients[A].connect()
    assert process.prove(A) == 1


def test_a_lost_node_that_ends_is_reported_at_once_and_when_it_is_heard() -> None:
    process = Process(A)
    process.map()
    process.probe()
    process.clients[A].disconnect()
    process.probe()
    assert process.reports == 1
    process.clients[A].connect()
    process.now += REPORT_EVERY_S
    assert process.prove(A) == 2


def test_a_lost_node_that_goes_on_is_reported_and_left() -> None:
    process = Process(A)
    process.map()
    process.now += WATCH_S
    process.map()
    assert process.clients[A].ended
    process.probe()
    assert process.reports == 1
    process.map(A)
    assert process.prove(A) == 1
    process.probe(REPORT_EVERY_S)
    assert process.reports == 2


def test_a_node_that_comes_and_goes_reports_at_most_once_in_a_while() -> None:
    process = Process(A)
    for _ in range(20):
        process.clients[A].disconnect()
        process.clients[A].connect()
        process.prove(A)
    assert process.now == 40.0
    assert 4 <= process.reports <= 5


def test_more_lost_nodes_than_are_watched_are_reported_at_once() -> None:
    nodes = [("n", port) for port in range(MOST_LOST + 1)]
    process = Process(*nodes)
    process.map()
    assert sum(client.ended for client in process.clients.values()) == 1
    process.probe()
    assert process.reports == 1


def test_a_probe_that_a_former_connection_misses_reports_nothing() -> None:
    process = Process(A)
    process.probe()
    process.connection = object()
    process.probe(TIMEOUT_S)
    assert process.prove(A) == 0


def test_a_node_that_refuses_to_publish_takes_no_events() -> None:
    process = Process(A)
    process.clients[A].reply = hiredis.ReplyError("NOPERM")
    process.probe()
    process.probe(TIMEOUT_S)
    process.clients[A].reply = 0
    assert process.prove(A) == 0


def test_probes_through_masters_are_left_to_others() -> None:
    assert not Process(A).watch.heard(b"17.2")
