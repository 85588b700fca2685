"""The command `scripts/mutate`: which changes to a module no test notices.

Each mutant runs in a forked child, which has pytest and the libraries already and
loads the mutant in place of the module. First the module's own test file, then the
other tests of its room, then those of `--also`. A child that takes ten times as long as
these tests take without a mutant counts as noticed.
"""

import argparse
import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import random
import signal
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command_line import at_least, command_line
from tests.mutation.mutants import mutants

EQUIVALENT = Path(__file__).with_name("equivalent.txt")
SLOWER = 10
SLOW = {"test_simulation.py"}
"""They run last."""
LEAST_TIMEOUT_S = 10.0
LIBRARIES = [
    "hypothesis.extra.pytestplugin", "pytest_timeout", "jwt", "cryptography.x509",
    "websockets.server", "structlog.testing", "msgspec", "psycopg_pool", "uvloop",
    "prometheus_client", "redis.asyncio", "websockets.asyncio.client",
]  # fmt: skip


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from other source."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.source, f"<{self.name}>", "exec"), module.__dict__)


class Stage(NamedTuple):
    """Tests that run together, and how long they may take."""

    tests: Sequence[str]
    timeout_s: float


def timed(name: str, source: str, tests: Sequence[Sequence[str]]) -> list[Stage] | None:
    """The stages, each with its time; None if one fails without a mutant."""
    stages = []
    for some in tests:
        began = time.monotonic()
        if some and not _passes(name, source, Stage(some, 600.0)):
            return None
        took = time.monotonic() - began
        stages.append(Stage(some, max(LEAST_TIMEOUT_S, SLOWER * took)))
    return stages


def noticed(name: str, source: str, stages: Sequence[Stage]) -> bool:
    """Run the tests against the mutant, stage by stage."""
    return any(not _passes(name, source, one) for one in stages if one.tests)


def _passes(name: str, source: str, stage: Stage) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.meta_path.insert(0, MutantFinder(name, source))
            code = _run(stage.tests)
        finally:
            os._exit(code)
    end = time.monotonic() + stage.timeout_s
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run(tests: Sequence[str]) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        flags = ["-x", "-q", "-p", "no:cacheprovider"]
        # To import all plugins that are installed takes half of a child's time.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        flags += ["-p", "pytest_timeout", "-p", "hypothesis.extra.pytestplugin"]
        # The libraries were imported before pytest could see them.
        flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main([*flags, *tests]))


def stages_of(module: Path) -> list[list[str]]:
    """The tests named after the module, then all unit tests of its room."""
    room = Path("tests/unit") / module.parent.name
    if not room.is_dir():
        room = Path("tests/unit")
    all_tests = sorted(room.glob("**/test_*.py"))
    all_tests.sort(key=lambda one: one.name in SLOW)
    own = [one for one in all_tests if one.stem.startswith(f"test_{module.stem}")]
    fast = [str(one) for one in own if one.name not in SLOW]
    return [fast, [str(one) for one in all_tests]]


def module(text: str) -> Path:
    """A type for `add_argument`: the file of a module of the package."""
    path = Path(text)
    if path.suffix != ".py" or path.parts[0] != "typelets_ws" or not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no module, typelets_ws/....py")
    return path


def main() -> int:
    """Judge the modules; returns 1 when a survivor is not known as equivalent."""
    parser = command_line(
        "scripts/mutate",
        "Change one operator, constant or statement at a time; list what no test sees.",
        "typelets_ws/session/signing.py",
        "typelets_ws/delivery/*.py --sample 50",
    )
    option = parser.add_argument
    option("modules", nargs="+", type=module, help="of typelets_ws/")
    option("--sample", type=at_least(1), help="only so many mutants of each")
    option("--seed", type=int, default=1, help="of the sample")
    option("--also", nargs="*", default=[], metavar="TEST", help="run for survivors")
    options = parser.parse_args()
    known = set(EQUIVALENT.read_text().splitlines()) if EQUIVALENT.exists() else set()
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.freeze()  # a child's collections leave out what it shares with this process
    unknown = 0
    for path in options.modules:
        source = path.read_text()
        found = list(mutants(source))
        if options.sample and len(found) > options.sample:
            found = random.Random(options.seed).sample(found, options.sample)
        name = ".".join(path.with_suffix("").parts)
        lines, survivors, equivalent = source.splitlines(), [], 0
        stages = timed(name, source, [*stages_of(path), options.also])
        if stages is None:
            print(f"{path}: its tests fail without a change")
            return 2
        for mutant in sorted(found, key=lambda one: one.line):
            if noticed(name, mutant.source, stages):
                continue
            text = f"{path}: {lines[mutant.line - 1].strip()} | {mutant.change}"
            if text in known:
                equivalent += 1
            else:
                survivors.append(f"{mutant.line}: {text}")
                print(f"  {survivors[-1]}", flush=True)
        killed = len(found) - len(survivors) - equivalent
        print(
            f"{path}: {killed} of {len(found)} noticed, {equivalent} equivalent,"
            f" {len(survivors)} survived",
            flush=True,
        )
        unknown += len(survivors)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
