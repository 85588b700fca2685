"""Cores: which one does what, and how busy each of them was.

A rate is bounded by whichever core is full. Only the kernel's own account of a core
(/proc/stat) has everything in it: the server, the load, Redis, Postgres, strangers.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Busy", "Layout", "layout", "times"]


@dataclass(frozen=True)
class Layout:
    """Where what runs. Redis and Postgres are where the load is."""

    server: int
    second: int
    load: frozenset[int]

    @property
    def groups(self) -> list[Set[int]]:
        """The same cores, each once."""
        apart = [frozenset({self.server}), frozenset({self.second}), self.load]
        return list(dict.fromkeys(apart))


def layout(cores: Set[int]) -> Layout:
    """One core for the server, and the others for the load.

    A second server has a core of its own where that leaves one for the load.
    """
    first, *rest = sorted(cores)
    load = rest[1:] or rest or [first]
    return Layout(first, rest[0] if rest else first, frozenset(load))


class Busy:
    """How busy these groups of cores were, over all that was watched."""

    def __init__(self, groups: Sequence[Set[int]]) -> None:
        self._groups = groups
        self._spent: dict[int, list[int]] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count what happens inside."""
        before = times(Path("/proc/stat").read_text())
        yield
        for core, after in times(Path("/proc/stat").read_text()).items():
            spent = self._spent.setdefault(core, [0, 0])
            for part in (0, 1):
                spent[part] += after[part] - before[core][part]

    @property
    def shares(self) -> list[float]:
        """The busy share of the fullest core in each group."""
        share = {core: busy / (all_ or 1) for core, (busy, all_) in self._spent.items()}
        return [max(share.get(core, 0.0) for core in group) for group in self._groups]


def times(text: str) -> dict[int, tuple[int, int]]:
    """Of each core in /proc/stat: ticks in which it was not idle, and all ticks."""
    result = {}
    for line in text.splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name != "cpu":
            # The later numbers are counted in these eight already.
            ticks = list(map(int, words[:8]))
            result[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return result
