"""Samples of a running system, and whether they drift.

A gate compares the median of the last third of the run with that of the third after
the warm-up. A figure that grows by more than its allowance fails.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.chaos.topology import ask_all
from tests.chaos.world import DaemonProcess, World

__all__ = ["GATES", "Sample", "drifts", "sample"]


@dataclass(frozen=True)
class Gate:
    """How much a figure may grow: by a part of itself, and by so many on top."""

    label: str
    part: float
    more: float

    def allows(self, before: float, after: float) -> bool:
        """Whether the later figure is within the allowance."""
        return after <= before * (1 + self.part) + self.more


GATES = {
    "memory_mb": Gate("memory of all daemons, MB", 0.05, 4),
    "descriptors": Gate("descriptors of all daemons", 0.1, 20),
    "threads": Gate("threads of all daemons", 0.0, 4),
    "tasks": Gate("tasks of all daemons", 0.1, 10),
    "channels": Gate("subscribed channels", 0.2, 10),
    "redis_keys": Gate("keys in Redis without nonces", 0.2, 20),
    "backends": Gate("connections to Postgres", 0.2, 4),
}


@dataclass(frozen=True)
class Sample:
    """All figures at one time (s since the start)."""

    at: float
    figures: Mapping[str, float]


def sample(world: World, at: float) -> Sample:
    """Measure now. Processes that are down for a moment count as they are."""
    daemons = world.daemons
    keys = [key for key in ask_all(world.redis, "KEYS", "*") if ":nonce:" not in key]
    (row,) = world.database.execute(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE usename = 'typelets_ws'"
    )
    return Sample(
        at,
        {
            "memory_mb": sum(_status(daemon, "VmRSS:") for daemon in daemons) / 1024,
            "threads": sum(_status(daemon, "Threads:") for daemon in daemons),
            "tasks": sum(daemon.figure("tasks") for daemon in daemons),
            "descriptors": sum(_descriptors(daemon) for daemon in daemons),
            "channels": len(ask_all(world.redis, "PUBSUB", "CHANNELS", "*user:*")),
            "redis_keys": len(keys),
            "backends": int(row["n"]),
        },
    )


def drifts(samples: Sequence[Sample]) -> list[str]:
    """Which figures grew by more than their gates allow."""
    third = len(samples) // 3
    if third == 0:
        return ["too few samples"]
    early, late = samples[third : 2 * third], samples[-third:]
    found = []
    for name, gate in GATES.items():
        before = median(one.figures[name] for one in early)
        after = median(one.figures[name] for one in late)
        if not gate.allows(before, after):
            found.append(f"{gate.label}: {before:.1f} became {after:.1f}")
    return found


def _status(daemon: DaemonProcess, name: str) -> float:
    try:
        text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    return 0.0


def _descriptors(daemon: DaemonProcess) -> int:
    try:
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    except OSError:
        return 0
