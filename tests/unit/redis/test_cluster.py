"""How often the map of a Cluster is read."""

import asyncio

import pytest
import structlog

from typelets_ws.config.redis_address import Node
from typelets_ws.redis import cluster
from typelets_ws.redis.cluster import ClusterClient
from typelets_ws.redis.commands import NodeClient
from typelets_ws.redis.node_watch import NodeWatch
from typelets_ws.redis.slots import SlotMap
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry


class Topology:
    """A map without nodes, whose first reading tells a short node timeout."""

    slots = SlotMap()
    node_timeout_s = 3_600.0

    def __init__(self) -> None:
        self.third_reading = asyncio.Event()
        self._readings = 0

    async def refresh(self) -> None:
        self.node_timeout_s = 0.001
        self._readings += 1
        if self._readings == 3:
            self.third_reading.set()


def no_member(node: Node) -> NodeClient:
    raise AssertionError(node)


@pytest.mark.timeout(20)
async def test_the_map_is_read_as_often_as_the_node_timeout_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first reading on: a node may be lost and back within seconds."""
    monkeypatch.setattr(cluster, "REFRESH_S", 3_600.0)
    monkeypatch.setattr(cluster, "REFRESH_PAUSE_S", 0.0)
    topology, telemetry = Topology(), Telemetry(Metrics(), structlog.get_logger())
    watch = NodeWatch(no_member, lambda: 0.0, telemetry)
    client = ClusterClient(topology, no_member, watch, telemetry)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        await topology.third_reading.wait()
        running.cancel()
