"""The child processes: the daemon, and the servers it is compared with.

    daemon   the daemon as `typelets-ws serve` runs it
    relay    what a competent developer would write first: `websockets.serve`,
             redis-py's pub/sub, `websockets.broadcast`, json; no authentication
    floor    a loop of os.write(fd, frame) over accepted sockets, and nothing else
    gate     the least that a handshake with authentication takes, see `servers_gate`
    update   the daemon's UPDATE in a bare loop over a pool of the same size

Each says on which port it listens, in one line of JSON on standard output.
"""

import asyncio
import json
import os
import random
import resource
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import msgspec
import redis.asyncio as redis_client
import uvloop
import websockets
from psycopg_pool import AsyncConnectionPool
from websockets.asyncio.server import ServerConnection, broadcast, serve

from typelets_ws import process as service
from typelets_ws.app import Daemon
from typelets_ws.config.model import Config
from typelets_ws.postgres import sql
from typelets_ws.systemd import Systemd
from typelets_ws.telemetry.log import Output

from .servers_gate import gate

__all__ = ["main"]

MESSAGE = bytes(300)


def main() -> None:
    """Run the server that the first argument (JSON) asks for."""
    order = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {order.pop("core")})
    prefix = order.pop("prefix")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    kind = order.pop("kind")
    if kind == "floor":
        floor()
    elif kind == "daemon":
        daemon(prefix, **order)
    else:
        # Each baseline runs on the loop on which it does best.
        factory = uvloop.new_event_loop if order.pop("uvloop") else None
        with asyncio.Runner(loop_factory=factory) as runner:
            match kind:
                case "relay":
                    runner.run(relay(prefix, **order))
                case "gate":
                    runner.run(gate(prefix, announce=announce, **order))
                case "update":
                    runner.run(update(**order))


def announce(port: int) -> None:
    """Tell the parent."""
    print(json.dumps({"port": port}), flush=True)


def daemon(prefix: str, config: dict[str, dict[str, Any]]) -> None:
    """Serve with this configuration."""
    config["redis"]["prefix"] = prefix
    settings = msgspec.convert(config, Config)
    lines = Output(sys.stderr, time.time, level="error", form="json", burst=50)
    service.run(
        service.serve(
            settings,
            lines,
            systemd=Systemd({}, os.getpid(), time.monotonic),
            reload=lambda: None,
            announce=announce_ready,
        )
    )


def announce_ready(daemon: Daemon) -> None:
    """Tell the parent once Redis and Postgres are there."""
    if daemon.health.unready_reasons():
        asyncio.get_running_loop().call_later(0.02, announce_ready, daemon)
    else:
        announce(daemon.port)


async def relay(prefix: str, redis_url: str, ping_interval: float | None) -> None:
    """Relay events of a user to the sockets that said to be theirs; answer pings."""
    users: dict[str, set[ServerConnection]] = {}
    link = redis_client.Redis.from_url(redis_url)
    pubsub = link.pubsub()
    await pubsub.subscribe(f"{prefix}nobody")

    async def handle(ws: ServerConnection) -> None:
        user = ""
        try:
            async for text in ws:
                message = json.loads(text)
                if message["type"] == "ping":
                    now = int(time.time() * 1000)
                    await ws.send(json.dumps({"type": "pong", "timestamp": now}))
                elif message["type"] == "join":
                    user = message["user"]
                    users.setdefault(user, set()).add(ws)
                    await pubsub.subscribe(f"{prefix}user:{user}")
                    await ws.send(json.dumps({"type": "joined"}))
        except websockets.ConnectionClosed:
            pass
        finally:
            users.get(user, set()).discard(ws)

    async def forward() -> None:
        async for item in pubsub.listen():
            if item["type"] != "message":
                continue
            user = item["channel"].decode().removeprefix(f"{prefix}user:")
            event = json.loads(item["data"])
            sync = {
                "type": "note_sync",
                "noteId": event["noteId"],
                "changes": event["changes"],
                "updatedNote": event["updatedNote"],
                "timestamp": int(time.time() * 1000),
                "fromUserId": event.get("fromUserId", "server"),
            }
            broadcast(users.get(user, set()), json.dumps(sync))

    async with serve(
        handle,
        "127.0.0.1",
        0,
        compression=None,
        backlog=4096,
        ping_interval=ping_interval,
    ) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await forward()


def floor() -> None:
    """Write a frame of the size in each line on the first socket to all the others.

    With a count in the line as well: to that many of them, chosen at random.
    """
    with (
        suppress(OSError),
        socket.create_server(("127.0.0.1", 0), backlog=4096) as door,
    ):
        announce(door.getsockname()[1])
        control, _ = door.accept()
        with control, control.makefile("r") as lines:
            count = int(lines.readline())
            socks = [door.accept()[0] for _ in range(count)]
            for sock in socks:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fds = [sock.fileno() for sock in socks]
            control.send(b"ready\n")
            for line in lines:
                size, *some = map(int, line.split())
                message = MESSAGE[:size]
                for fd in random.choices(fds, k=some[0]) if some else fds:
                    os.write(fd, message)


async def update(database_url: str, notes: list[list[str]]) -> None:
    """Run as many UPDATEs as each line on the one connection asks for."""
    query = sql.update_note(("content",), into_folder=False)
    pool = AsyncConnectionPool(
        database_url, kwargs={"autocommit": True}, min_size=8, max_size=8, open=False
    )

    async def work(numbers: list[int]) -> None:
        while numbers:
            user, note = notes[numbers.pop() % len(notes)]
            params = {"content": f"c{len(numbers)}", "note": note, "user": user}
            async with pool.connection() as link:
                cursor = await link.execute(query, params)
                await cursor.fetchone()

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await reader.readline():
            numbers = list(range(int(line)))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(8):
                    tasks.create_task(work(numbers))
            writer.write(b"done\n")

    async with pool, await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        await pool.wait()
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    main()
