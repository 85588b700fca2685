"""What every test file gets: plugins with servers, and one Hypothesis profile."""

import importlib.util

from hypothesis import settings

# No deadline per example: a slow machine is no bug. The suite has its own timeout.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

pytest_plugins = [
    plugin
    for plugin in ("tests.postgres", "tests.redis")
    if importlib.util.find_spec(plugin)
]
