"""A schedule cut at the rests of its run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.chaos.faults import ScheduledFault

__all__ = ["Stretch", "stretches"]


@dataclass(frozen=True)
class Stretch:
    """The faults between two rests; their times count from `begin_s`."""

    begin_s: float
    seconds: float
    faults: Sequence[ScheduledFault]


def stretches(
    schedule: Sequence[ScheduledFault], seconds: float, rest_every_s: float
) -> list[Stretch]:
    """Stretches of `rest_every_s` each; the last may be shorter, and has the rest."""
    count = max(1, math.ceil(seconds / rest_every_s))
    found = []
    for number in range(count):
        begin = number * rest_every_s
        end = begin + rest_every_s if number < count - 1 else math.inf
        faults = [
            replace(entry, at=round(entry.at - begin, 2))
            for entry in schedule
            if begin <= entry.at < end
        ]
        found.append(Stretch(begin, min(end, seconds) - begin, faults))
    return found
