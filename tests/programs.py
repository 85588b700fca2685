"""Programs that tests start: from the PATH, or unpacked by scripts/test."""

import os
import shutil

import pytest

from tests.readme import ROOT

UNPACKED = ROOT / ".venv" / "tools" / "bin"


def program(name: str) -> str:
    """The path of a program; without it a test fails in CI and skips elsewhere."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{UNPACKED}")
    if found is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is not installed; scripts/test brings it")
        pytest.skip(f"{name} is not installed; scripts/test brings it")
    return found
