"""The shortest part of a schedule that still fails: delta debugging.

Parts of the schedule are left out, halves first and then ever smaller ones, as long
as the run fails without them. What is left fails, and no longer fails when any one of
its faults is left out, unless the runs were used up.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["shortest"]

T = TypeVar("T")


def shortest(
    schedule: Sequence[T], fails: Callable[[Sequence[T]], bool], runs: int
) -> Sequence[T]:
    """Leave out faults with at most so many runs; the schedule itself must fail."""
    parts = 2
    while len(schedule) > 1 and runs > 0:
        length = -(-len(schedule) // parts)
        for start in range(0, len(schedule), length):
            rest = [*schedule[:start], *schedule[start + length :]]
            runs -= 1
            if rest and fails(rest):
                schedule, parts = rest, max(2, parts - 1)
                break
            if runs <= 0:
                return schedule
        else:
            if length == 1:
                return schedule
            parts = min(len(schedule), parts * 2)
    return schedule
