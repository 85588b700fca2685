"""The doors to the network: the public port, the admin port, and the sweep.

Sockets may come from systemd (socket activation): then a restart refuses
nobody, as the kernel goes on queueing connections in the meantime.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from websockets.http11 import Request
from websockets.protocol import SEND_EOF
from websockets.server import ServerProtocol

from .config import Server
from .connection import Connection
from .endpoints import Endpoints
from .house import House

__all__ = ["AdminConnection", "listen", "sweep", "tls_context"]


async def listen(
    factory: Callable[[], asyncio.Protocol],
    server: Server,
    *,
    host: str,
    port: int,
    inherited: list[socket.socket],
    tls: ssl.SSLContext | None = None,
) -> list[asyncio.Server]:
    """Open a port, or take over the `inherited` sockets. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if inherited:
        return [
            await loop.create_server(
                factory, sock=sock, ssl=tls, backlog=server.backlog
            )
            for sock in inherited
        ]
    return [
        await loop.create_server(
            factory,
            host,
            port,
            ssl=tls,
            backlog=server.backlog,
            reuse_port=server.reuse_port or None,
        )
    ]


def public(house: House) -> Callable[[], asyncio.Protocol]:
    """The factory of the public port's connections."""
    return lambda: Connection(house)


def tls_context(server: Server) -> ssl.SSLContext | None:
    """The TLS settings, or None behind a proxy. Raises `OSError`, `ssl.SSLError`."""
    if not server.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_certificate, server.tls_key)
    return context


async def sweep(house: House, grain: float) -> None:
    """Turn the wheel of deadlines for ever; observe how late the loop is (s)."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(grain)
        house.metrics.loop_lag.observe(max(0.0, loop.time() - before - grain))
        house.deadlines.sweep(house.monotonic())


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
