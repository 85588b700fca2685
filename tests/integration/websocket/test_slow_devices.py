"""200 devices that stop reading: cut in time, memory bounded, others undisturbed.

The daemon runs as a process of its own, so that its memory is its own. The
delays of the honest devices are printed, with and without the stalled ones (`-s`).
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.client import connect

from tests.daemon import (
    Boot,
    Device,
    Message,
    RunningDaemon,
    eventually,
    publish,
    raw_http,
)  # fmt: skip
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.raw import Raw, raw
from tests.redis import RedisServer, free_port
from tests.tokens import mint, public_pem
from tests.within import PATIENCE_S

STALLED = 200
HONEST = 3
EVENTS = 30
MEGABYTE = 1_000_000
MOST_GROWTH = 150 * 1_048_576
"""Events are shared by all devices; 200 times 4 MiB would be 800 MiB."""
MOST_LEFT = 64 * 1_048_576


def settings(redis_url: str, database_url: str, port: int, admin: int) -> str:
    return f"""
[server]
port = {port}
drain_seconds = 0.0
[admin]
port = {admin}
[auth]
jwt_key = '''{public_pem()}'''
[limits]
devices_per_user = 300
per_address = 1000
stalled_s = 1.5
abort_s = 0.5
[redis]
url = "{redis_url}"
[database]
url = "{database_url}"
"""


@asynccontextmanager
async def process(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "typelets_ws", "serve", "-c", str(path),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await child.wait()


def resident(pid: int | None) -> int:
    """Bytes of memory a process has."""
    text = Path(f"/proc/{pid}/statm").read_text("ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def figures(admin: int) -> dict[str, float]:
    answer = await raw_http(
        admin, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    found = re.findall(r"^(typelets_ws_\S+) (\S+)$", answer.decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


async def stall(stack: AsyncExitStack, server: RunningDaemon) -> Raw:
    """A device that is in, and reads no more."""
    client = await stack.enter_async_context(raw(server, receive_buffer=2_048))
    client.send(json.dumps({"type": "auth", "token": mint(ALICE)}))
    assert b"auth_success" in await client.text()
    client.stop_reading()
    return client


async def test_a_reply_of_any_size_reaches_a_device_that_reads(
    boot: Boot, database: Database
) -> None:
    """Also when it asks for the next one before it has read the last."""
    database.add_user(ALICE)
    database.add_user(BOB)
    large = database.add_note(ALICE, encrypted_content="x" * 3 * MEGABYTE)
    small = database.add_note(BOB)
    titles = ["a", "b", "c", "d", "e"]

    def update(note: str, title: str) -> Message:
        return {"type": "note_update", "noteId": note, "changes": {"title": title}}

    limits = {"unsent_bytes": 200_000, "stalled_s": PATIENCE_S}
    async with (
        boot(limits=limits) as server,
        server.device(BOB) as other,
        AsyncExitStack() as stack,
    ):
        device = await stall(stack, server)
        for title in titles:
            device.send(json.dumps(update(large, title)))
        await eventually(lambda: database.note(large)["title"] == "a")
        # As many statements as would have brought the next reply.
        for number in range(20):
            await other.send(update(small, str(number)))
            await other.next_of("note_update_success")
        device.read_on()
        answered: list[str] = []
        while len(answered) < len(titles):
            message = json.loads(await device.text())
            if message["type"] == "note_update_success":
                answered.append(message["updatedNote"]["title"])
        assert answered == titles


@pytest.mark.parametrize("beside", [False, True])
async def test_rows_wait_for_a_device_that_is_slow_to_read(
    boot: Boot, database: Database, *, beside: bool
) -> None:
    """Alone it is healed as its user is, beside another one on its own."""
    database.add_user(ALICE)
    database.add_user(BOB)
    notes = {
        database.add_note(ALICE, encrypted_content="x" * size)
        for size in [200_000] * 8 + [3 * MEGABYTE] * 2
    }
    small = database.add_note(BOB)
    limits = {"unsent_bytes": 200_000, "stalled_s": PATIENCE_S}
    recovery = {"enabled": True, "audit_s": PATIENCE_S}
    async with (
        boot(limits=limits, recovery=recovery) as server,
        AsyncExitStack() as stack,
    ):
        other = await stack.enter_async_context(server.device(ALICE))
        await other.next_of("healed")
        if not beside:
            await other.socket.close()
            await eventually(lambda: not server.daemon.hub.count(ALICE))
        device = await stall(stack, server)
        # In the time of as many replays as would have overtaken it.
        for _ in range(5):
            async with server.device(BOB) as witness:
                assert (await witness.next_of("note_sync"))["noteId"] == small
        device.read_on()
        read: set[str] = set()
        while read != notes:
            message = json.loads(await device.text())
            if message["type"] == "note_sync":
                read.add(message["noteId"])


async def stream(redis_url: str, devices: list[Device], pid: int | None) -> list[Any]:
    """Publish events of 1 MB; returns each honest device's delays (s), and the peak."""
    event: dict[str, Any] = {"event": "note_created", "noteData": {}}
    delays, peak = [], 0
    for number in range(EVENTS):
        event["noteData"] = {"n": number, "x": "a" * MEGABYTE}
        before = time.monotonic()
        await publish(redis_url, ALICE, event)
        for device in devices:
            message = await device.receive()
            assert message["noteData"]["n"] == number
            delays.append(time.monotonic() - before)
        peak = max(peak, resident(pid))
    return [delays, peak]


def p99(delays: list[float]) -> str:
    return f"{quantiles(delays, n=100)[98] * 1000:.0f} ms"


async def test_200_devices_that_stop_reading_harm_no_one(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:
    port, admin = free_port(), free_port()
    path = tmp_path / "config.toml"
    path.write_text(settings(redis_server.url, database.url, port, admin), "utf-8")

    async def ready() -> bool:
        try:
            answer = await raw_http(port, b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        except OSError:
            return False
        return b" 200 " in answer[:15]

    async def all_cut() -> bool:
        state = 'typelets_ws_connections{state="authenticated"}'
        return (await figures(admin)).get(state) == HONEST

    server = cast(RunningDaemon, SimpleNamespace(daemon=SimpleNamespace(port=port)))
    async with process(path) as child, AsyncExitStack() as stack:
        await eventually(ready)
        honest = []
        for _ in range(HONEST):
            socket = connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None)
            honest.append(Device(await stack.enter_async_context(socket)))
            await honest[-1].receive()
            await honest[-1].auth(mint(ALICE))
        alone, _ = await stream(redis_server.url, honest, child.pid)
        base = resident(child.pid)
        stalled = [await stall(stack, server) for _ in range(STALLED)]
        beside, peak = await stream(redis_server.url, honest, child.pid)
        await eventually(all_cut)
        for device in honest:
            assert await device.barrier() == []
        left = resident(child.pid)
        print(
            f"honest p99: {p99(alone)} alone, {p99(beside)} beside the stalled;"
            f" memory: +{(peak - base) >> 20} MiB, +{(left - base) >> 20} left"
        )
        assert peak - base < MOST_GROWTH
        assert left - base < MOST_LEFT
        said = await figures(admin)
        evicted = sum(
            value
            for name, value in said.items()
            if name.startswith('typelets_ws_closes_total{code="1013"')
        )
        assert evicted == STALLED
        for client in stalled[:5]:
            client.read_on()
            await client.ended()
