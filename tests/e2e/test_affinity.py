"""A user's devices on one process: a hash of a hint in the query, behind nginx."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.daemon import Boot, Device, eventually, publish
from tests.programs import program
from tests.readme import blocks
from tests.redis import RedisServer, free_port
from tests.tokens import mint

USERS, DEVICES = 21, 3
"""An odd number: in turn, the devices of a user come to different processes."""
CONFIG = """
daemon off;
pid {place}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  upstream typelets_ws {{
    {balance}
    {servers}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://typelets_ws;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }}
  }}
}}
"""


@contextmanager
def nginx(place: Path, balance: str, ports: list[int]) -> Iterator[int]:
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{each};" for each in ports)
    config = place / "nginx.conf"
    config.write_text(
        CONFIG.format(place=place, balance=balance, servers=servers, port=port)
    )
    process = subprocess.Popen([program("nginx"), "-p", str(place), "-c", str(config)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def rule_of_the_readme() -> str:
    """The README's line that hashes the hint."""
    texts = [block.text for block in blocks() if "hash $arg_u" in block.text]
    (line,) = [line for line in texts[0].splitlines() if "hash $arg_u" in line]
    return line.strip()


@pytest.mark.parametrize("hashed", [True, False])
async def test_the_hint_keeps_a_users_devices_together(
    boot: Boot, redis_server: RedisServer, tmp_path: Path, hashed: bool
) -> None:
    async with boot() as one, boot() as other, AsyncExitStack() as stack:
        ports = [one.daemon.port, other.daemon.port]
        rule = rule_of_the_readme() if hashed else ""
        port = stack.enter_context(nginx(tmp_path, rule, ports))
        await eventually(lambda: _listens(port))
        for number in range(USERS * DEVICES):
            user = f"user_{number % USERS}"
            socket = await stack.enter_async_context(
                connect(f"ws://127.0.0.1:{port}/?u={user}", compression=None)
            )
            device = Device(socket)
            await device.receive()
            assert (await device.auth(mint(user)))["type"] == "auth_success"
        event = {"event": "note_deleted", "noteId": "x"}
        for number in range(USERS):
            await publish(redis_server.url, f"user_{number}", event)

        def read() -> float:
            labels = {"event": "note_deleted", "result": "ok"}
            return sum(each.figure("events_total", **labels) for each in (one, other))

        def delivered() -> float:
            return sum(each.figure("deliveries_total") for each in (one, other))

        await eventually(lambda: delivered() == USERS * DEVICES)
        if hashed:
            assert read() == USERS
        else:
            assert read() > USERS


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
