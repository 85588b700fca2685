"""The integration tests run twice: with all fast paths, and with none.

A test runs twice if it boots a daemon or opens a store (fixture `fast_paths`); the
others run the same code either way. A test with a choice of its own runs with that.
Where `TYPELETS_WS_FASTPATHS` is set, it decides for the rest.
"""

import os

import pytest

from typelets_ws.fastpaths import VARIABLE

CHOICES = [os.environ[VARIABLE]] if VARIABLE in os.environ else ["all", "none"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.definition.iter_markers("parametrize")
    if "fast_paths" in metafunc.fixturenames and not any(
        "fast_paths" in mark.args[0] for mark in chosen
    ):
        metafunc.parametrize("fast_paths", CHOICES, indirect=True)
