"""The doors to the network: the public port, the admin port, and the sweep.

Sockets may come from systemd (socket activation): then a restart refuses
nobody, as the kernel goes on queueing connections in the meantime. A port is
taken before anything else is started, so that a second daemon by mistake ends
with one line instead of half a start.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from ..config.model import Config
from .connection import Connection
from .state import ServerState

__all__ = ["bind_admin", "bind_public", "listen", "sweep"]


def bind_public(config: Config) -> list[socket.socket]:
    """Take the public port. Raises `OSError`, saying which and why."""
    server = config.server
    return _bind("server", server.host, server.port, reuse_port=server.reuse_port)


def bind_admin(config: Config) -> list[socket.socket]:
    """Take the admin port, if there is to be one. Raises `OSError` likewise."""
    admin = config.admin
    return _bind("admin", admin.host, admin.port) if admin.enabled else []


def _bind(
    section: str, host: str, port: int, *, reuse_port: bool = False
) -> list[socket.socket]:
    """One socket for each address that `host` stands for."""
    found: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            found.append(socket.socket(family, kind, proto))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family is socket.AF_INET6:
                found[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found[-1].bind(address)
    except OSError as exc:
        for sock in found:
            sock.close()
        where = f"[{section}] host = {host!r}, port = {port}"
        raise OSError(f"{where}: cannot listen: {exc.strerror or exc}") from None
    return found


async def listen(
    factory: Callable[[], asyncio.Protocol],
    sockets: list[socket.socket],
    *,
    backlog: int,
    tls: ssl.SSLContext | None = None,
) -> list[asyncio.Server]:
    """Accept on these sockets, which are the servers' from now on."""
    loop = asyncio.get_running_loop()
    return [
        await loop.create_server(factory, sock=sock, ssl=tls, backlog=backlog)
        for sock in sockets
    ]


def public(state: ServerState) -> Callable[[], asyncio.Protocol]:
    """The factory of the public port's connections."""
    return lambda: Connection(state)


async def sweep(state: ServerState, grain: float) -> None:
    """Turn the wheel of deadlines for ever; observe how late the loop is (s)."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(grain)
        state.metrics.loop_lag.observe(max(0.0, loop.time() - before - grain))
        state.timer_wheel.advance(state.monotonic())
