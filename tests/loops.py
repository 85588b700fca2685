"""Runs a test's coroutine. What it leaves open on its loop is an error."""

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

__all__ = ["LoopFactory", "run"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(
    work: Coroutine[Any, Any, None], factory: LoopFactory = uvloop.new_event_loop
) -> None:
    """Run it; by default on the loop that production uses.

    Raises `AssertionError` when a transport or a server is still open at the end.
    uvloop warns of it before it closes it. Were that warning an error, it would not
    close it, and wait for its end for ever.
    """
    runner = asyncio.Runner(loop_factory=factory)
    try:
        runner.run(work)
    finally:
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always", ResourceWarning)
            runner.close()
    assert not left_open, [str(warning.message) for warning in left_open]
