"""The short drills; `scripts/drills` runs all of them."""

import pytest

from tests.drills import cluster as clusters
from tests.drills import sentinel as sentinels
from tests.redis_topologies import Cluster, SentinelGroup

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [n for n, (_, s) in sentinels.FAULTS.items() if s])
async def test_a_sentinel_group(sentinel_group: SentinelGroup, name: str) -> None:
    result = await sentinels.run(sentinel_group, sentinels.FAULTS[name][0])
    assert result.silent == []


@pytest.mark.parametrize("name", [n for n, (_, s) in clusters.FAULTS.items() if s])
async def test_a_cluster(cluster: Cluster, name: str) -> None:
    result = await clusters.run(cluster, clusters.FAULTS[name][0])
    assert result.silent == []
    if "flushed" in name:
        assert result.refused == 0


@pytest.mark.parametrize("name", [n for n, (_, s) in clusters.SHARDED.items() if s])
async def test_sharded_pub_sub(cluster: Cluster, name: str) -> None:
    result = await clusters.run(cluster, clusters.SHARDED[name][0], sharded=True)
    assert result.silent == []
