"""An event loop whose time is simulated: a test sleeps for minutes in milliseconds."""

import asyncio
import selectors
from collections.abc import Callable

import pytest

__all__ = ["VirtualTimeLoop", "loop_factory"]

MOST_TURNS = 10_000
"""Of the loop while its time stands still."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time passes only when no task can run, up to the next timer. No I/O."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 1_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Imported into a module, it runs all tests there on this loop."""
    return VirtualTimeLoop


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "no task can ever run again"
        self._turns = 0 if timeout > 0 else self._turns + 1
        if self._turns == MOST_TURNS:
            self._turns = 0
            raise AssertionError("tasks run for ever, and wait for no time")
        self._loop.now += timeout
        return super().select(0)
