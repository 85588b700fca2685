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
from typing import cast

from websockets.http11 import Request
from websockets.protocol import SEND_EOF
from websockets.server import ServerProtocol

from .config import Config
from .connection import Connection
from .endpoints import Endpoints
from .house import ServerState

__all__ = ["AdminConnection", "bind_admin", "bind_public", "listen", "sweep"]


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


class AdminConnection(asyncio.Protocol):
    """One request on the admin port, one answer."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._http = ServerProtocol()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast(asyncio.Transport, transport)
        # Nobody has reason to be slow on a private port.
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(10, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        http = self._http
        http.receive_data(data)
        for event in http.events_received():
            if isinstance(event, Request):
                answer = self._endpoints.answer(event, admin=True)
                http.send_response(answer or http.reject(404, "Not found.\n"))
        for chunk in http.data_to_send():
            if chunk is not SEND_EOF:
                self._transport.write(chunk)
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._deadline.cancel()
