"""Upper limits of time that a machine without a free core does not break."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PATIENCE_S", "allowed_s", "starved_s", "within"]

PRESSURE = Path("/proc/pressure/cpu")
PATIENCE_S = 60.0
"""For all that comes at last. A shorter wait proves no more, and fails on a machine
without a free core. What must be quick is `within` a limit."""
MOST = 10
"""A limit grows to at most so many times itself: what waits for ever still fails."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The body takes at most so long, besides the time in which tasks lacked a core."""
    began, starved = time.monotonic(), starved_s()
    yield
    took, starved = time.monotonic() - began, starved_s() - starved
    limit = allowed_s(seconds, starved)
    assert took < limit, f"{took:.2f} s, {starved:.2f} s of them without a free core"


def allowed_s(seconds: float, starved: float) -> float:
    """The limit where tasks have waited for a core for so many seconds meanwhile."""
    return min(seconds + starved, MOST * seconds)


def starved_s() -> float:
    """For how long some task of this machine has waited for a core, since its start.

    0 where the kernel does not count it.
    """
    if not PRESSURE.exists():
        return 0.0
    some = PRESSURE.read_text().splitlines()[0]
    return int(some.rpartition("=")[2]) / 1e6
