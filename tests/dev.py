"""`typelets-ws dev` as its users start it: the installed command, a process of its own.

`dev` is one for a test module, on free ports and with its own data.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis import free_port
from tests.within import PATIENCE_S

COMMAND = Path(sys.executable).with_name("typelets-ws")


class Dev:
    """The process, and what it has said; `flags` as on its command line."""

    def __init__(self, place: Path, *flags: str) -> None:
        self.data = place / "data"
        self.port, self.admin_port = free_port(), free_port()
        self._output = place / "output.txt"
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        return [
            str(COMMAND), "dev", "--data", str(self.data), "--port", str(self.port),
            "--admin-port", str(self.admin_port), *self._flags,
        ]  # fmt: skip

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def said(self) -> str:
        return self._output.read_text("utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it greets."""
        with self._output.open("wb") as output:
            # A session of its own, as a terminal gives it.
            self._process = subprocess.Popen(
                self.command, stdout=output, stderr=output, start_new_session=True
            )
        end = time.monotonic() + PATIENCE_S
        while "In another terminal" not in self.said:
            assert self._process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def interrupt(self) -> int:
        """Ctrl-C: the terminal tells the whole process group. Returns the exit code."""
        return self._end(signal.SIGINT)

    def hang_up(self) -> int:
        """The terminal closes, and tells the same group."""
        return self._end(signal.SIGHUP)

    def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        os.killpg(self._process.pid, how)
        code = self._process.wait(PATIENCE_S)
        self._process = None
        return code

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.interrupt()

    def told(self, name: str) -> str:
        """A row of the greeting."""
        found = re.search(rf"^  {name} +(\S+)", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]


def descendants(pid: int) -> set[int]:
    """All that lives below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8", errors="replace").rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields.split()[1])
    found = {pid}
    while more := {c for c, p in parents.items() if p in found} - found:
        found |= more
    return found - {pid}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = Dev(tmp_path_factory.mktemp("dev"))
    running.start()
    try:
        yield running
    finally:
        running.stop()
