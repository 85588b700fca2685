"""Node and its packages: where NODE_PATH says, or where scripts/test puts them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = Path(__file__).parent.parent / ".venv" / "node" / "node_modules"
os.environ.setdefault("NODE_PATH", str(PACKAGES))  # for all Node processes of the tests

NODE = os.environ.get("NODE", "node")
"""The program; `NODE=/path/to/node` runs the client's tests on another version."""


def node_package(name: str) -> Path:
    """The package's directory; without it the test fails in CI and skips at home."""
    if shutil.which("node") is None:
        missing("node is not installed")
    # Not require.resolve(name): `exports` hides what is not meant for import.
    script = """
        const { existsSync } = require("fs"), { join } = require("path");
        for (const place of module.paths.concat(require("module").globalPaths))
          if (existsSync(join(place, process.argv[1])))
            { console.log(join(place, process.argv[1])); break; }"""
    found = subprocess.run(
        ["node", "-e", script, name], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not found:
        missing(f"the npm package {name} is not installed; scripts/test brings it")
    return Path(found)


def missing(what: str) -> NoReturn:
    if "CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)
