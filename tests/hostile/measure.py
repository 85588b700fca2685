"""An attack, and what an honest client and the process's memory show of it."""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from statistics import median, quantiles

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.daemon import DEFAULT_DATABASE, Device, eventually
from tests.e2e.supervisor import Process, supervised
from tests.tokens import mint
from typelets_ws.config.model import Limits

from .clients import Attack

__all__ = ["MEMORY_MIB", "P99_S", "Measurement", "Victim", "measure", "victim"]

P99_S = 0.25
MEMORY_MIB = 64.0
SETTLE_S = 15.0
"""For the memory of an attack to be freed: the deadline of a refused connection is 2 s,
that of a request 10 s."""
PAUSE_S = 0.01
USERS = 40
# The defaults of the settings that the tests relax.
DEFAULTS = {
    name: getattr(Limits(), name)
    for name in ("accepts_per_second", "per_address", "abort_s")
}


@dataclass
class Victim:
    """A daemon of its own process."""

    process: Process
    port: int
    admin_port: int

    @property
    def memory_mib(self) -> float:
        """Resident memory."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1_048_576

    def evictions(self, reason: str) -> float:
        """Connections closed for this reason."""
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        series = f'typelets_ws_evictions_total{{reason="{reason}"}} '
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(x.removeprefix(series)) for x in lines if x.startswith(series))

    @property
    def cpu_s(self) -> float:
        """CPU time used so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Measurement:
    """Times in seconds, memory in MiB."""

    cpu_share: float
    before: float
    peak: float
    after: float
    idle_p50: float
    idle_p99: float
    p50: float
    p99: float
    handshakes: int
    refused: int

    @property
    def bearable(self) -> bool:
        """Whether the honest client was served as it must be."""
        return self.p99 <= max(20 * self.idle_p99, P99_S)


@contextmanager
def victim(redis_url: str, database_url: str, attack: Attack) -> Iterator[Victim]:
    """A daemon with default limits, and the settings of the attack."""
    sections = {
        "limits": {**DEFAULTS, **attack.settings.get("limits", {})},
        "database": DEFAULT_DATABASE,
    }
    sections |= {k: v for k, v in attack.settings.items() if k != "limits"}
    with supervised(redis_url, database_url, **sections) as supervisor:
        process = supervisor.start()
        process.await_note("READY=1")
        yield Victim(process, supervisor.port, supervisor.admin_port)


async def measure(victim: Victim, attack: Attack, seconds: float) -> Measurement:
    """Attack for so long; the honest client pings before and meanwhile."""
    async with connect(f"ws://127.0.0.1:{victim.port}/", compression=None) as socket:
        device = Device(socket)
        await device.receive()
        await device.auth(mint("user_honest"))
        idle = await pinged(device, min(seconds, 1.0))
        before, cpu = victim.memory_mib, victim.cpu_s
        async with attacking(victim, attack, seconds), asyncio.TaskGroup() as group:
            began = time.monotonic()
            peaks = group.create_task(peak_memory(victim, seconds))
            knocks = group.create_task(knock(victim, seconds))
            busy = await pinged(device, seconds)
            share = (victim.cpu_s - cpu) / (time.monotonic() - began)
        after = await settled(victim, before)
    peak = max(before, after, peaks.result())
    handshakes, refused = knocks.result()
    cuts, busy_cuts = quantiles(idle, n=100), quantiles(busy, n=100)
    return Measurement(
        share, before, peak, after, median(idle), cuts[98], median(busy),
        busy_cuts[98], handshakes, refused,
    )  # fmt: skip


async def pinged(device: Device, seconds: float) -> list[float]:
    """Round trips of pings for so long; at least two."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(found) < 2:
        began = time.perf_counter()
        await device.barrier()
        found.append(time.perf_counter() - began)
        # The honest client keeps to its rate of 300 a minute.
        await asyncio.sleep(max(PAUSE_S, seconds / 100))
    return found


async def knock(victim: Victim, seconds: float) -> tuple[int, int]:
    """Honest handshakes from an address of their own: how many, how many refused."""
    tried = refused = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tried += 1
        try:
            async with connect(
                f"ws://127.0.0.1:{victim.port}/",
                compression=None,
                local_addr=("127.0.5.1", 0),
            ) as socket:
                await socket.recv()
        except (OSError, WebSocketException):
            refused += 1
        await asyncio.sleep(seconds / 10)
    return tried, refused


async def peak_memory(victim: Victim, seconds: float) -> float:
    """The highest of twenty looks a second at the memory."""
    peak, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        peak = max(peak, victim.memory_mib)
        await asyncio.sleep(0.05)
    return peak


@asynccontextmanager
async def attacking(
    victim: Victim, attack: Attack, seconds: float
) -> AsyncIterator[None]:
    """The attack, in a process of its own; it has ended on the way out."""
    tokens = [mint(f"user_{n}", expires_in=3600) for n in range(USERS)]
    order = {"name": attack.name, "port": victim.port, "seconds": seconds}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile.attacker", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({**order, "tokens": tokens}).encode() + b"\n")
    try:
        await process.stdout.readline()
        yield
        await asyncio.wait_for(process.wait(), seconds + 10)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def settled(victim: Victim, before: float) -> float:
    """The memory once it is back, or after `SETTLE_S`."""
    with suppress(AssertionError):
        await eventually(lambda: victim.memory_mib <= before + MEMORY_MIB / 2, SETTLE_S)
    return victim.memory_mib
