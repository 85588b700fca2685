"""Plugins with servers, the Hypothesis profile, and the loop of `async def` tests."""

import asyncio
import importlib.util
import inspect
from collections.abc import Coroutine
from typing import Any, cast

import pytest
import uvloop
from hypothesis import settings

from tests.loops import LoopFactory, run

LOOPS: dict[str, LoopFactory] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

SHARE = 0.8
"""Of a test's timeout: its loop ends it then. pytest-timeout's signal comes after that,
for a loop that is blocked; uvloop does not raise its exception while it waits."""

# No deadline per example: a slow machine is not a bug, and each test has a timeout.
# 20 examples keep the unit tests fast on each save; `.ci/run` looks for rare inputs.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")

pytest_plugins = [
    plugin
    for plugin in (
        "tests.postgres",
        "tests.redis",
        "tests.redis_topologies",
        "tests.daemon",
    )
    if importlib.util.find_spec(plugin)
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: all workers then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """Run an `async def` test once on each event loop that the daemon supports."""
    return LOOPS[request.param]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on uvloop, as production does, or on `loop_factory`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    factory = cast(
        LoopFactory, pyfuncitem.funcargs.get("loop_factory", uvloop.new_event_loop)
    )
    test = _limited(pyfuncitem.obj(**arguments), SHARE * _timeout(pyfuncitem))
    run(test, factory)
    return True


async def _limited(test: Coroutine[Any, Any, None], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await test


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout"))
