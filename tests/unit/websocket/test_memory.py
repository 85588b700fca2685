"""The memory budget: largest holders first, and only as many as needed."""

from tests.fakes import live
from typelets_ws.websocket.memory import MemoryBudget


class FakeHolder:
    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self.budget = budget
        self.held_bytes = size
        self.evicted = ""
        budget.report(self, size)

    def evict(self, reason: str) -> None:
        self.evicted = reason
        self.held_bytes = 0
        self.budget.report(self, 0)


def test_the_largest_are_evicted_until_the_limit_is_kept() -> None:
    budget = MemoryBudget(live(memory_bytes=100))
    small, large, larger = (FakeHolder(budget, size) for size in (40, 50, 60))
    assert budget.total == 150
    assert budget.exceeded
    budget.relieve()
    assert [h.evicted for h in (small, large, larger)] == ["", "", "memory"]
    assert budget.total == 90
    assert not budget.exceeded


def test_holders_are_counted_again_before_one_is_evicted() -> None:
    budget = MemoryBudget(live(memory_bytes=100))
    one, other = FakeHolder(budget, 60), FakeHolder(budget, 60)
    one.held_bytes = 10
    budget.relieve()
    assert (one.evicted, other.evicted, budget.total) == ("", "", 70)


def test_a_report_replaces_the_one_before_and_nothing_is_kept_of_zero() -> None:
    budget = MemoryBudget(live(memory_bytes=100))
    one = FakeHolder(budget, 60)
    budget.report(one, 20)
    assert budget.total == 20
    budget.report(one, 0)
    budget.report(one, 0)
    assert budget.total == 0
    assert not budget._held
