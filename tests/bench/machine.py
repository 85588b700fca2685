"""Child processes, and what they have used.

CPU time is read from the kernel's clock of the other process, to the nanosecond,
so nothing runs inside a server that measures it.
"""

import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

__all__ = ["Child", "Meter", "Process", "free_port"]

QUIET_S = 0.03
SIGN_IN_S = 0.5
"""Recovery gathers sign-ins for a tenth of a second before it looks."""
PATIENCE_S = 60.0
_numbers = itertools.count(1)


class Process:
    """A server that listens on `port`: what it has used, and whether it is at work."""

    prefix: str
    """Of its channels on Redis."""

    def __init__(self, pid: int, port: int = 0) -> None:
        self.pid = pid
        self.port = port

    def cpu(self) -> float:
        """Seconds of CPU time used so far, all threads."""
        # clock_getcpuclockid(3): the pid's complement, and CPUCLOCK_SCHED.
        return time.clock_gettime((~self.pid << 3) | 2)

    def waited(self) -> float:
        """Seconds in which it could have run, and other programs had the core."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def rss(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most resident bytes since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def settle(self) -> None:
        """Return when recovery has looked at who signed in, and the rest is done."""
        time.sleep(SIGN_IN_S)
        self.quiesce()

    def quiesce(self) -> None:
        """Return when the process has nothing to do any more."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            before = self.cpu()
            time.sleep(QUIET_S)
            # The daemon's own sweep takes a little all the time.
            if self.cpu() - before < 0.1 * QUIET_S:
                return

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {name} of process {self.pid}")


class Child(Process):
    """A server in a process of its own on `core`; ready when entered.

    `settings` go to `servers.main`; it answers with one line of JSON. Each has its own
    `prefix` on Redis, so that none hears what is published for another, unless it is
    to hear what that other server hears.
    """

    def __init__(
        self, kind: str, core: int, prefix: str | None = None, **settings: Any
    ) -> None:
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self.prefix = prefix or f"bench-{next(_numbers)}:"
        order = {"kind": kind, "core": core, "prefix": self.prefix, **settings}
        self._process = subprocess.Popen(
            [*bound, sys.executable, "-m", "tests.bench.servers", json.dumps(order)],
            stdout=subprocess.PIPE,
        )
        super().__init__(self._process.pid)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError("a server did not start; its last words are above")
        self.port = json.loads(line)["port"]
        return self

    def __exit__(self, *_: object) -> None:
        # The daemon would close ten thousand devices; the bench does not wait for it.
        self._process.kill()
        self._process.communicate()


class Meter:
    """CPU of servers, and what may have spoilt the figures meanwhile.

    `busy` is the load generator's share of its core at most, `robbed` the share of
    the time in which a server was kept waiting by programs that are not ours.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin another row."""
        self.busy = self.robbed = 0.0

    @property
    def shares(self) -> tuple[float, float]:
        """Both, for a figure."""
        return self.busy, self.robbed

    @contextmanager
    def watch(
        self, child: Process | Sequence[Process], cost: list[float], units: int
    ) -> Iterator[None]:
        """Add the CPU time per unit of what happens inside, in seconds.

        Of several children: what they used together.
        """
        children = [child] if isinstance(child, Process) else child
        for each in children:
            each.quiesce()
        before, waited = _used(children), _waited(children)
        busy, began = time.process_time(), time.monotonic()
        yield
        took = time.monotonic() - began
        self.busy = max(self.busy, (time.process_time() - busy) / took)
        self.robbed = max(self.robbed, (_waited(children) - waited) / took)
        for each in children:
            each.quiesce()
        cost.append((_used(children) - before) / units)


def _used(children: Sequence[Process]) -> float:
    return sum(child.cpu() for child in children)


def _waited(children: Sequence[Process]) -> float:
    return sum(child.waited() for child in children)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
