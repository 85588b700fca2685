"""Addresses of Redis: one server, a Sentinel group or a Cluster. Pure.

Invariants. `parse` accepts what the daemon and the publisher can connect to, and
nothing else; its errors name the expectation and quote no part of the address, which
may hold a password. A server's options (database, TLS, credentials) are those of
redis-py's URLs; `user:pass@` are the credentials of the Redis servers.
Tested by tests/unit/config/test_redis_address.py.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

__all__ = ["Node", "RedisAddress", "Topology", "parse"]

Node = tuple[str, int]
"""Host and port."""

SENTINEL_PORT: Final = 26_379
SERVER_PORT: Final = 6_379
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")
_OPTIONS: Final = (
    *("client_name", "db", "decode_responses", "health_check_interval"),
    *("max_connections", "password"),
    *("protocol", "socket_connect_timeout", "socket_keepalive", "socket_read_size"),
    *("socket_timeout", "username"),
)
_TLS_OPTIONS: Final = (
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile"),
    *("ssl_check_hostname", "ssl_ciphers", "ssl_keyfile", "ssl_min_version"),
    "ssl_password",
)
_EXPECTED_OPTIONS: Final = (
    f"one with no other options than {' '.join(_OPTIONS)}; and with rediss:// "
    f"{' '.join(_TLS_OPTIONS)}"
)
_EXPECTED_SERVER: Final = (
    "one server with redis://, rediss:// or unix://; for several servers "
    "redis+sentinel://host,host/master or redis+cluster://host,host"
)
_EXPECTED_SENTINEL: Final = (
    "redis+sentinel://user:pass@host:26379,host:26379/master/0 with the master's name"
)
_EXPECTED_CLUSTER: Final = (
    "redis+cluster://user:pass@host:6379,host:6379 without a database number"
)


class Topology(Enum):
    """The kind of servers behind an address."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`nodes` are servers, sentinels or seeds of a cluster; none for a unix socket.

    `server_url` is for redis-py: for a server the whole address, for the other kinds
    the options of a connection, whose host is replaced. `sentinel_url` has those of a
    connection to a sentinel. `master` is the name of the Sentinel group.
    """

    kind: Topology
    nodes: tuple[Node, ...]
    server_url: str
    master: str = ""
    sentinel_url: str = ""


def parse(url: str) -> RedisAddress:
    """Raises `ValueError` with what was expected."""
    prefix, _, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    # From Python 3.14 on urlsplit refuses an IPv6 host behind others.
    parts = urlsplit(f"redis://host{rest.removeprefix(netloc)}")
    scheme, plus, kind = prefix.lower().partition("+")
    _check_options(parts.query, tls=scheme == "rediss", sentinel=kind == "sentinel")
    if scheme == "unix" and not plus:
        if not parts.path.strip("/"):
            raise ValueError("unix:///path/of/the/socket")
        return RedisAddress(Topology.SERVER, (), url)
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"}:
        raise ValueError(_EXPECTED_SERVER)
    credentials, at, hosts = netloc.rpartition("@")
    if not plus:
        return _server(url, hosts, parts.path.strip("/"))
    base = f"{scheme}://{credentials}{at}"
    if kind == "sentinel":
        return _sentinel(scheme, base, hosts, parts.path, parts.query)
    nodes = _nodes(hosts, SERVER_PORT, _EXPECTED_CLUSTER)
    if parts.path.strip("/") not in {"", "0"}:
        raise ValueError(_EXPECTED_CLUSTER)
    query = f"?{parts.query}" if parts.query else ""
    return RedisAddress(Topology.CLUSTER, nodes, f"{base}{_text(nodes[0])}/0{query}")


def _check_options(query: str, *, tls: bool, sentinel: bool) -> None:
    """Raises ValueError for an option that no connection has."""
    known = {*_OPTIONS, *(_TLS_OPTIONS if tls else ())}
    if sentinel:
        known.update(_SENTINEL_OPTIONS)
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    if names - known:
        raise ValueError(_EXPECTED_OPTIONS)


def _server(url: str, hosts: str, database: str) -> RedisAddress:
    nodes = _nodes(hosts, SERVER_PORT, _EXPECTED_SERVER)
    if len(nodes) != 1 or (database and not database.isdecimal()):
        raise ValueError(_EXPECTED_SERVER)
    return RedisAddress(Topology.SERVER, nodes, url)


def _sentinel(
    scheme: str, base: str, hosts: str, path: str, query: str
) -> RedisAddress:
    nodes = _nodes(hosts, SENTINEL_PORT, _EXPECTED_SENTINEL)
    master, _, database = path.strip("/").partition("/")
    if not master or (database and not database.isdecimal()):
        raise ValueError(_EXPECTED_SENTINEL)
    options = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in options if name in _SENTINEL_OPTIONS}
    servers = [option for option in options if option[0] not in _SENTINEL_OPTIONS]
    tls = [option for option in servers if option[0].startswith("ssl_")]
    user = quote(own.get("sentinel_username", ""), safe="")
    password = quote(own.get("sentinel_password", ""), safe="")
    login = f"{user}:{password}@" if user or password else ""
    host = _text(nodes[0])
    return RedisAddress(
        Topology.SENTINEL,
        nodes,
        f"{base}{host}/{database or 0}{_query(servers)}",
        unquote(master),
        f"{scheme}://{login}{host}{_query(tls)}",
    )


def _query(options: list[tuple[str, str]]) -> str:
    return f"?{urlencode(options)}" if options else ""


def _nodes(hosts: str, default_port: int, expected: str) -> tuple[Node, ...]:
    try:
        found = tuple(_node(host, default_port) for host in hosts.split(","))
    except ValueError:
        found = ()
    if not found:
        raise ValueError(expected)
    return found


def _node(text: str, default_port: int) -> Node:
    """`host`, `host:port` or `[IPv6]:port`; raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.port == 0:
        raise ValueError
    return parts.hostname, parts.port or default_port


def _text(node: Node) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
