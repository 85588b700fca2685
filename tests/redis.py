"""A real Redis for tests, and ways to break it and the link to it.

`redis_server` is one private server for the whole run, empty for each test and
running again after any test. `LinkProxy` stands between a daemon and
any TCP server (Redis, Postgres) and cuts, stalls, delays or refuses.
"""

import asyncio
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.within import PATIENCE_S

TIMEOUTS: Final[dict[str, Any]] = {
    "socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S,
}  # fmt: skip
"""For clients of tests: redis-py's own 5 s are short for a machine without a free core.
"""
PROCESSES: Final = 64
"""Of tests at the same time, each with ports of its own."""


def free_port() -> int:
    """A free port that no outgoing connection is given, so that it stays free."""
    for port in _own_ports():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports never end")


@cache
def _own_ports() -> Iterator[int]:
    """Ports that no other process of tests is given while this one runs, in turn.

    Between the probe and the server that takes the port there may be seconds.
    """
    for number in range(PROCESSES):
        place = Path(tempfile.gettempdir(), f"typelets-test-ports-{number}")
        lock = os.open(place, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            ports = list(range(10_240 + number, 32_000, PROCESSES))
            random.SystemRandom().shuffle(ports)
            return cycle(ports)
    raise AssertionError(f"more than {PROCESSES} processes of tests")


class RedisServer:
    """One redis-server process on one port; `options` as on its command line.

    `program` is another server than `redis-server`; with `config` it is a sentinel.
    With `tls`, its options, it takes no plain connections over TCP; `login` are the
    arguments of redis-py for `command` and the like.
    """

    def __init__(
        self,
        place: Path,
        *options: str,
        program: str = "redis-server",
        config: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.bus_port = 0
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.place = place
        self.options = options
        self.tls: tuple[str, ...] = ()
        self.login: dict[str, Any] = {}
        self._program = program
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """At the same port as before; returns when it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        listening = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if self.tls:
            listening = ["--port", "0", "--tls-port", *listening[1:], *self.tls]
        volatile = ("--save", "", "--appendonly", "no", "--dir", str(self.place))
        command = [self._program, *listening, *volatile, *self.options]
        if self._config is not None:
            command = [self._program, str(self._config), "--sentinel", *listening]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.command("PING")
            except redis.ConnectionError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.kill()
                    raise
                time.sleep(0.01)
            else:
                return

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """As `systemctl stop redis`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As kill -9."""
        self._end(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The process stands still; the kernel still takes what is sent to it."""
        self.freeze()
        try:
            yield
        finally:
            self.resume()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(signal.SIGCONT)

    def command(self, *args: object) -> Any:
        """One command over a connection of its own; replies as text."""
        login = {"decode_responses": True, **self.login}
        with redis.Redis(
            host="127.0.0.1", port=self.port, **login, **TIMEOUTS
        ) as client:
            return client.execute_command(*args)

    def calls(self, command: str) -> int:
        """How often Redis has done a command since CONFIG RESETSTAT."""
        stats = self.command("INFO", "commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))

    def subscribers(self, channel: str) -> int:
        with redis.Redis(port=self.port, **TIMEOUTS) as client:
            return int(client.pubsub_numsub(channel)[0][1])

    def client_ports(self, kind: str) -> set[int]:
        """The ports of the clients of a kind: normal or pubsub."""
        with redis.Redis(port=self.port, **TIMEOUTS) as client:
            listed = client.client_list(_type=kind)
        return {int(one["addr"].rpartition(":")[2]) for one in listed}

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        if "CI" in os.environ:
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    place = Path(tempfile.mkdtemp(prefix="typelets-test-"))
    server = RedisServer(place, "--enable-debug-command", "yes")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    redis_process.start()
    with redis.Redis(port=redis_process.port, **TIMEOUTS) as client:
        client.replicaof("NO", "ONE")
        client.flushall()
        client.script_flush()
        client.config_resetstat()
    return redis_process


class ProxiedLink:
    """One connection through the proxy, both halves."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self.client = client
        self.server = server
        self.to_server = _gate()
        self.to_client = _gate()

    @property
    def port(self) -> int:
        """Our port as the server sees it (CLIENT LIST, pg_stat_activity)."""
        return int(self.server.get_extra_info("sockname")[1])

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Let nothing through. Held bytes are sent on at `heal`, as TCP would."""
        if to_server:
            self.to_server.clear()
        if to_client:
            self.to_client.clear()

    def heal(self) -> None:
        self.to_server.set()
        self.to_client.set()


class LinkProxy:
    """A TCP proxy to a port or a Unix socket that can misbehave; use `link_proxy`.

    A server sees a client of another loopback address than 127.0.0.1 at that address.
    `answer` changes what the server sends.
    """

    def __init__(
        self, target: int | Path, answer: Callable[[bytes], bytes] = bytes
    ) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.busy = asyncio.Lock()
        """For tests with several faults at a time: held by one of them."""

        self.links: set[ProxiedLink] = set()
        self._target = target
        self._answer = answer
        self._listener: asyncio.Server | None = None
        self._stalled: dict[str, bool] | None = None
        self._serving = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def target(self, port: int) -> None:
        """Lead new connections to another port."""
        self._target = port

    def cut(self) -> None:
        """Reset all connections; new ones are welcome."""
        for link in self.links:
            link.cut()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Accept, and forward nothing (or nothing in one direction): a black hole."""
        self._stalled = {"to_server": to_server, "to_client": to_client}
        for link in self.links:
            link.stall(**self._stalled)

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        await self._deaf()
        self.cut()

    async def heal(self) -> None:
        """Behave again; what was held goes on its way."""
        self._stalled = None
        self.delay_s = 0.0
        for link in self.links:
            link.heal()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port
            )

    async def close(self) -> None:
        await self._deaf()
        while self._serving:
            for link in self.links:
                link.cut()
                link.heal()
            await asyncio.sleep(0.001)

    async def _deaf(self) -> None:
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Coroutine[Any, Any, None]:
        self._serving += 1  # at once, so that `close` waits for it
        return self._serve(reader, writer)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            from_server, to_server = await self._open(writer)
        except OSError:
            writer.transport.abort()
            self._serving -= 1
            return
        link = ProxiedLink(writer, to_server)
        if self._stalled is not None:
            link.stall(**self._stalled)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_server, link.to_server))
                back = self._pump(from_server, writer, link.to_client, self._answer)
                group.create_task(back)
        finally:
            self.links.discard(link)
            self._serving -= 1

    async def _open(
        self, client: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        address = client.get_extra_info("peername")[0]
        local = None if address == "127.0.0.1" else (address, 0)
        return await asyncio.open_connection(
            "127.0.0.1", self._target, local_addr=local
        )

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        change: Callable[[bytes], bytes] = bytes,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await gate.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if writer.transport.is_closing():
                    return  # cut meanwhile; uvloop refuses to write to it
                writer.write(change(data))
                await writer.drain()
        # A black hole swallows the end of a connection, too.
        await gate.wait()
        writer.transport.abort()


@asynccontextmanager
async def link_proxy(
    target: int | Path, answer: Callable[[bytes], bytes] = bytes
) -> AsyncIterator[LinkProxy]:
    """A proxy to a port or a Unix socket of this machine, on a port of its own."""
    proxy = LinkProxy(target, answer)
    await proxy.heal()
    try:
        yield proxy
    finally:
        await proxy.close()


def _gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate
