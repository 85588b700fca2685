"""Turns of connections with unread input."""

from collections.abc import Callable

import pytest

from typelets_ws.websocket.read_queue import TURNS, ReadQueue


class Flood:
    """A connection that is never done, until `left` turns have passed."""

    def __init__(self, queue: ReadQueue, left: int) -> None:
        self.queue = queue
        self.left = left
        self.turns = 0

    def read_rest(self) -> None:
        self.turns += 1
        self.left -= 1
        if self.left:
            self.queue.add(self)


def test_connections_take_turns_a_few_in_each_iteration() -> None:
    scheduled: list[Callable[[], None]] = []
    queue = ReadQueue(scheduled.append)
    floods = [Flood(queue, 3) for _ in range(2 * TURNS + 1)]
    for flood in floods:
        queue.add(flood)
        queue.add(flood)
    gone = floods.pop()
    queue.discard(gone)
    queue.discard(gone)
    iterations = 0
    while queue.busy:
        before = sum(flood.turns for flood in floods)
        (serve,) = scheduled
        scheduled.clear()
        serve()
        iterations += 1
        assert sum(flood.turns for flood in floods) - before <= TURNS
        assert max(f.turns for f in floods) - min(f.turns for f in floods) <= 1
    assert iterations == 6
    assert [flood.turns for flood in floods] == [3] * (2 * TURNS)
    assert gone.turns == 0
    assert not scheduled


def test_a_mistake_in_one_turn_leaves_the_others_theirs() -> None:
    class Broken(Flood):
        def read_rest(self) -> None:
            raise ZeroDivisionError

    scheduled: list[Callable[[], None]] = []
    queue = ReadQueue(scheduled.append)
    flood = Flood(queue, 1)
    queue.add(Broken(queue, 1))
    queue.add(flood)
    with pytest.raises(ZeroDivisionError):
        scheduled.pop()()
    scheduled.pop()()
    assert flood.turns == 1
