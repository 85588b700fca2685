"""The command `scripts/drills`."""

import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
import uvloop

from tests.command_line import command_line
from tests.drills import cluster as clusters
from tests.drills import sentinel as sentinels
from tests.drills.drill import HEADER, DrillResult
from tests.redis_topologies import Cluster, SentinelGroup

Drill = Callable[[], Awaitable[DrillResult]]


def drills(group: SentinelGroup, cluster: Cluster) -> dict[str, Drill]:
    """All of them by name."""
    found: dict[str, Drill] = {}
    for name, (fault, _) in sentinels.FAULTS.items():
        found[f"Sentinel: {name}"] = partial(sentinels.run, group, fault)
    for name, (fault_, _) in clusters.FAULTS.items():
        found[f"Cluster: {name}"] = partial(clusters.run, cluster, fault_)
    for name, (fault_, _) in clusters.SHARDED.items():
        run = partial(clusters.run, cluster, fault_, sharded=True)
        found[f"Cluster, sharded: {name}"] = run
    return found


async def play(run: Drill) -> DrillResult:
    return await run()


def main() -> int:
    """Run the drills whose name has the word; returns the exit code."""
    parser = command_line(
        "scripts/drills",
        "Faults of a Sentinel group and a Cluster under load.",
        "--only forget",
    )
    parser.add_argument("--only", default="", help="drills with this in their name")
    only = parser.parse_args().only.lower()
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="typelets-drills-") as place:
        for kind in ("sentinel", "cluster"):
            (Path(place) / kind).mkdir()
        group = SentinelGroup(Path(place) / "sentinel")
        cluster = Cluster(Path(place) / "cluster")
        known = drills(group, cluster)
        chosen = [name for name in known if only in name.lower()]
        if not chosen:
            parser.error("\n  ".join(["no drill has such a name:", *known]))
        try:
            group.start()
            cluster.start()
            print(HEADER)
            for name in chosen:
                (group if name.startswith("Sentinel") else cluster).recover()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    result = runner.run(play(known[name]))
                print(result.row(name), flush=True)
                failed += bool(result.silent)
        finally:
            group.kill()
            cluster.kill()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
