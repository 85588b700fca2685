"""The listening sockets of the public and the admin port, and the timers' tick.

Sockets may come from systemd (socket activation): the kernel then queues connections
during a restart. A port is bound before anything else is started, so that a second
daemon started by mistake ends with one line of log.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ..config.model import Config, hosts
from .handshake import HandshakeProtocol
from .state import ServerState
from .tls_listener import TlsListener

__all__ = [
    "Listener", "advance_timers", "bind_admin", "bind_public", "listen",
    "listen_public",
]  # fmt: skip

ANY_ADDRESS: Final = "::"
"""All addresses of both families, as on most systems (RFC 3493 section 5.3)."""


def bind_public(config: Config) -> list[socket.socket]:
    """Bind the public port. Raises `OSError` that names host, port and cause."""
    server = config.server
    found: list[socket.socket] = []
    try:
        for host in hosts(server):
            found += _bind("server", host, server.port, reuse_port=server.reuse_port)
    except OSError:
        for sock in found:
            sock.close()
        raise
    return found


def bind_admin(config: Config) -> list[socket.socket]:
    """Bind the admin port, if it is enabled. Raises like `bind_public`."""
    admin = config.admin
    return _bind("admin", admin.host, admin.port) if admin.enabled else []


def _bind(
    section: str, host: str, port: int, *, reuse_port: bool = False
) -> list[socket.socket]:
    """Return a socket for each address of `host`; `::` serves IPv4 as well."""
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
                v6_only = int(host != ANY_ADDRESS)
                found[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
            found[-1].bind(address)
    except OSError as exc:
        for sock in found:
            sock.close()
        where = f"[{section}] host = {host!r}, port = {port}"
        raise OSError(f"{where}: cannot listen: {exc.strerror or exc}") from None
    return found


class Listener(Protocol):
    """Accepts connections on its sockets until it is closed."""

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets."""

    def close(self) -> None:
        """Accept no more."""


async def listen_public(
    state: ServerState,
    sockets: list[socket.socket],
    *,
    backlog: int,
    tls: ssl.SSLContext | None,
) -> list[Listener]:
    """Accept clients on these sockets, which are the listeners' from now on."""
    if tls is None:
        return await listen(lambda: HandshakeProtocol(state), sockets, backlog=backlog)
    listeners = [TlsListener(sock, state, tls) for sock in sockets]
    for listener in listeners:
        listener.start(backlog)
    return list(listeners)


async def listen(
    factory: Callable[[], asyncio.Protocol],
    sockets: list[socket.socket],
    *,
    backlog: int,
) -> list[Listener]:
    """Accept on these sockets, which are the listeners' from now on."""
    loop = asyncio.get_running_loop()
    return [
        await loop.create_unix_server(factory, sock=sock, backlog=backlog)
        if sock.family is socket.AF_UNIX
        else await loop.create_server(factory, sock=sock, backlog=backlog)
        for sock in sockets
    ]


async def advance_timers(state: ServerState, tick_s: float) -> None:
    """Advance the timer wheel until cancelled; observe how late the loop is (s)."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(tick_s)
        state.metrics.loop_lag.observe(max(0.0, loop.time() - before - tick_s))
        state.timer_wheel.advance(state.monotonic())
