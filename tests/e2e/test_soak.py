"""Churn for a while: subscriptions, leases, descriptors and memory come back.

Ten seconds in the suite; TYPELETS_SOAK_S=600 for the long run, which prints its
figures as it goes.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.daemon import Device, eventually, publish
from tests.postgres import Database
from tests.redis import RedisServer, free_port
from tests.tokens import mint, public_pem
from tests.within import PATIENCE_S

SOAK_S = float(os.environ.get("TYPELETS_SOAK_S", "10"))
VISITORS = 40
GROWTH = 1.10
"""Memory after the churn, as a multiple of what it was once warm."""


@contextmanager
def served(redis_url: str, database_url: str, port: int) -> Iterator[int]:
    """The daemon as a process of its own; yields its pid."""
    settings = {
        "CLERK_JWT_KEY": public_pem(),
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "TYPELETS_WS_SERVER_PORT": str(port),
        "TYPELETS_WS_SERVER_DRAIN_SECONDS": "0",
        # A pool that grows under load is no leak: it is full from the start.
        "TYPELETS_WS_DATABASE_POOL_MIN": "8",
        "TYPELETS_WS_ADMIN_ENABLED": "false",
        "TYPELETS_WS_REDIS_UNSUBSCRIBE_DELAY_S": "0.2",
        "TYPELETS_WS_LOG_LEVEL": "error",
    }
    program = Path(sys.executable).with_name("typelets-ws")
    process = subprocess.Popen([program, "serve"], env={**os.environ, **settings})
    try:
        yield process.pid
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def visit(port: int, url: str, rng: random.Random, until: float) -> int:
    """Come and go as one of a few users until the time is over."""
    visits = 0
    while time.monotonic() < until:
        user = f"user_{rng.randrange(VISITORS // 2)}"
        async with connect(f"ws://127.0.0.1:{port}/", max_queue=None) as link:
            device = Device(link)
            await device.receive()
            if rng.random() < 0.1:
                await device.send("junk")
            assert (await device.auth(mint(user)))["type"] in {"auth_success", "error"}
            if device.user_id:
                data = {
                    "id": str(uuid.UUID(int=1)),
                    "text": "x" * rng.randrange(2_000),
                }
                await device.send({"type": "note_created", "noteData": data})
                await publish(url, user, {"event": "note_created", "noteData": data})
                await device.barrier()
            if rng.random() < 0.3:
                link.transport.abort()
        visits += 1
    return visits


async def churn(port: int, url: str, seconds: float, seed: int) -> int:
    until = time.monotonic() + seconds
    visits = await asyncio.gather(
        *(
            visit(port, url, random.Random(seed * 1000 + number), until)
            for number in range(VISITORS)
        )
    )
    return sum(visits)


@pytest.mark.slow
@pytest.mark.timeout(60 + 3 * SOAK_S)
async def test_churn_leaves_no_trace(
    redis_server: RedisServer, database: Database
) -> None:
    port = free_port()
    url = redis_server.url

    def subscribed() -> int:
        return len(redis_server.command("PUBSUB", "CHANNELS", "*user:*"))

    async def answers() -> bool:
        try:
            async with connect(f"ws://127.0.0.1:{port}/"):
                return True
        except OSError:
            return False

    with served(url, database.url, port) as pid:
        await eventually(answers)
        await churn(port, url, min(5.0, SOAK_S / 2), seed=0)
        await eventually(lambda: subscribed() == 0)
        warm, files = resident_mb(pid), descriptors(pid)
        visits = 0
        rounds = max(1, int(SOAK_S // 60))
        for number in range(1, rounds + 1):
            visits += await churn(port, url, SOAK_S / rounds, seed=number)
            await eventually(lambda: subscribed() == 0)
            now = resident_mb(pid)
            print(f"{visits} visits, {now:.1f} MB (warm: {warm:.1f})", flush=True)
        await eventually(lambda: redis_server.command("KEYS", "*:devices:*") == [])
        await eventually(lambda: descriptors(pid) <= files)
        assert resident_mb(pid) < warm * GROWTH + 5
