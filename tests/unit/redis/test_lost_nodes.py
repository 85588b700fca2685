"""Nodes that left the map: reported when they are back, or answer no longer."""

import asyncio

import pytest

from typelets_ws.redis import lost_nodes
from typelets_ws.redis.lost_nodes import LostNodes

A, B = ("a", 1), ("b", 2)
BOTH = frozenset({A, B})


class Watched:
    """A watch over a node whose answers a test chooses."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.settled = 0
        self.nodes = LostNodes(self._answer, self._settle)

    async def _answer(self, node: tuple[str, int]) -> bool:
        assert node == B
        self.asked += 1
        self.was_asked.set()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _settle(self) -> None:
        self.settled += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_nodes, "ASK_EVERY_S", 0.001)
    monkeypatch.setattr(lost_nodes, "WATCH_S", 0.05)


async def test_a_first_map_and_new_nodes_report_nothing() -> None:
    watched = Watched(True)
    async with asyncio.TaskGroup() as group:
        watched.nodes.follow(frozenset({A}), group)
        watched.nodes.follow(BOTH, group)
    assert (watched.asked, watched.settled) == (0, 0)


async def test_one_that_is_back_is_reported_once() -> None:
    watched = Watched(True)
    async with asyncio.TaskGroup() as group:
        watched.nodes.follow(BOTH, group)
        watched.nodes.follow(frozenset({A}), group)
        await watched.was_asked.wait()
        watched.nodes.follow(BOTH, group)
        watched.nodes.follow(BOTH, group)
    assert watched.settled == 1


async def test_one_that_is_dead_is_reported_when_it_is_back() -> None:
    watched = Watched(False)
    async with asyncio.TaskGroup() as group:
        watched.nodes.follow(BOTH, group)
        watched.nodes.follow(frozenset({A}), group)
    assert watched.settled == 0
    async with asyncio.TaskGroup() as group:
        watched.nodes.follow(BOTH, group)
    assert watched.settled == 1


@pytest.mark.parametrize(
    "answers", [(True, True, False), (False, True, False), (True,)]
)
async def test_one_that_took_events_is_reported_at_its_end(
    answers: tuple[bool, ...],
) -> None:
    watched = Watched(*answers)
    async with asyncio.TaskGroup() as group:
        watched.nodes.follow(BOTH, group)
        watched.nodes.follow(frozenset({A}), group)
    assert watched.settled == 1
