"""State shared by all connections: the open ones, limits, memory, accepted origins.

One `ServerState` per daemon, built by `app`. No method waits. Every refusal is counted
in a metric and logged here, in one place.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from math import ceil
from typing import Any, Final

from websockets.http11 import Response

from ..config.addresses import ClientAddresses, limit_key
from ..config.model import Config
from ..config.origins import AllowedOrigins
from ..fastpaths import ALL, FastPaths
from ..protocol import messages
from ..protocol.errors import CloseCode, Disconnect
from ..session.context import Context
from ..session.user_rates import UserRate, UserRates
from ..wire.frames import is_pong, no_pong, no_text, whole_text
from ..wire.upgrade import Upgrade, read_no_upgrade, read_upgrade
from .fair_share import FairSlots
from .flush_queue import FlushQueue
from .http import Endpoints, text_response
from .limiter import RETRY_AFTER_S, ConnectionLimiter, LimiterVerdict
from .memory import Holder, MemoryBudget
from .read_queue import ReadQueue
from .sockets import ClientSocket, PendingSocket
from .timer_wheel import TimerWheel

__all__ = ["ServerState"]

SECURITY_CLOSES: Final = frozenset({"flood", "other_user", "too_many_devices"})


class ServerState:
    """The open connections, and the rules for accepting one."""

    def __init__(
        self,
        context: Context,
        *,
        endpoints: Endpoints,
        limiter: ConnectionLimiter,
        timer_wheel: TimerWheel,
        flush_queue: FlushQueue,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        fast: FastPaths = ALL,
    ) -> None:
        self.context = context
        self.spawn = spawn
        self.endpoints = endpoints
        self.timer_wheel = timer_wheel
        self.flush_queue = flush_queue
        self.read_queue = ReadQueue(flush_queue.call_soon)
        self.live = live = context.live
        self.read_upgrade = read_upgrade if fast.upgrade else read_no_upgrade
        self.whole_text = whole_text if fast.frames else no_text
        self.is_pong = is_pong if fast.frames else no_pong
        self.direct_writes = fast.writes
        self.metrics = context.telemetry.metrics
        self.log = context.telemetry.log
        self.monotonic = context.clock.monotonic
        self.now_ms = context.clock.now_ms
        self.limiter = limiter
        self.memory = MemoryBudget(live)
        self.connections: set[ClientSocket] = set()
        self._sockets: FairSlots[PendingSocket] = FairSlots()
        """Sockets that are no connection, by the address of the peer."""
        self._rates = UserRates(live)
        """Messages before `auth`, by address."""
        self._relief_due = False
        self.sent_bytes = 0
        """Bytes written since `Daemon.refresh_status` last added them to the metric."""
        self.reconfigure()

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.live.current

    def reconfigure(self) -> None:
        """Derive from the settings in force what is too dear to derive at each use."""
        server, limits = self.config.server, self.config.limits
        self.least_unread = min(limits.unread_bytes, limits.unread_bytes_before_auth)
        """No message may be larger. An attribute, because it is read for each."""
        self._addresses = ClientAddresses(server.trusted_proxies)
        self.origins = AllowedOrigins(server.allowed_origins)

    def add_socket(self, socket: PendingSocket, peer: str) -> None:
        """Count a socket that was accepted from this address.

        Refuses it, or another one, when there are too many, or too many in a second.
        Sockets of a trusted proxy do not count for an address: it forwards requests of
        many clients.
        """
        limits = self.live.current.limits
        self.connections.add(socket)
        # Sockets of proxies have no share: the sum is bounded as well.
        room = limits.connections + limits.unauthenticated + 2 * limits.handshakes
        if len(self.connections) > room:
            self.refuse_handshake(LimiterVerdict.SOCKETS, peer)
            socket.abort()
            return
        if self._addresses.trusts(peer):
            return
        key = limit_key(peer)
        if not self._sockets.allows(key, limits.handshakes):
            socket.evict(LimiterVerdict.SOCKETS)
            return
        evicted = self._sockets.acquire(key, socket, limits.handshakes)
        if evicted is not None:
            evicted.evict(LimiterVerdict.SOCKETS)
        if not self.limiter.allows_request(peer, self.monotonic()):
            socket.refuse(LimiterVerdict.RATE)

    def replace_socket(
        self, socket: PendingSocket, successor: PendingSocket, peer: str
    ) -> None:
        """Count `successor` in place of a socket: its TLS handshake is over."""
        self._sockets.replace(limit_key(peer), socket, successor)
        self.connections.add(successor)

    def discard_socket(self, socket: PendingSocket, peer: str) -> None:
        """Count a socket no more: it is gone, or has become a connection."""
        self._sockets.release(limit_key(peer), socket)
        self.discard(socket)
        self.memory.report(socket, 0)

    def allows_request(self, peer: str, address: str) -> bool:
        """Count a request that a proxy forwards for this address.

        One that came directly was counted as a socket.
        """
        if address == peer or self._addresses.trusts(address):
            return True
        return self.limiter.allows_request(address, self.monotonic())

    def discard(self, connection: ClientSocket) -> None:
        """Count a connection no more."""
        self.connections.discard(connection)

    def token_refused(self, address: str) -> None:
        """Count a refused token, unless the address is that of a trusted proxy."""
        if not self._addresses.trusts(address):
            self.limiter.token_refused(address, self.monotonic())

    def rate_of(self, address: str, now: float) -> UserRate | None:
        """Return the count of messages before `auth`; None for a trusted proxy."""
        if self._addresses.trusts(address):
            return None
        return self._rates.of(limit_key(address), now)

    def account(self, holder: Holder) -> None:
        """Take note of the bytes that a holder holds; evict when they are too many."""
        self.memory.report(holder, holder.held_bytes)
        if self.memory.exceeded and not self._relief_due:
            self._relief_due = True
            self.flush_queue.call_soon(self._relieve)

    def _relieve(self) -> None:
        self._relief_due = False
        self.memory.relieve()

    def client_address(self, peer: str, forwarded_for: str, real_ip: str) -> str:
        """Return the address a request counts for; see `ClientAddresses.client`."""
        return self._addresses.client(peer, forwarded_for, real_ip)

    def allows(self, upgrade: Upgrade) -> bool:
        """Return whether the fast handshake may answer: no endpoint, a known origin."""
        if self.live.current.server.permessage_deflate:
            return False
        if self.endpoints.owns(upgrade.path):
            return False
        return self.origins.allows(upgrade.origin)

    def try_accept(self, address: str, connection: ClientSocket) -> float | None:
        """Count a valid handshake, if the limits allow it.

        Returns None, or after how many seconds the refused client may try again.
        """
        # Accepted while draining, too: a client counts a refusal as a failure, and a
        # 1012 right after the handshake as a restart.
        entry = self.limiter.acquire(address, connection, self.monotonic())
        if entry.verdict is not LimiterVerdict.OPEN:
            self.refuse_handshake(entry.verdict, address)
            return entry.retry_after_s
        if entry.evicted is not None:
            self.metrics.evictions.labels(str(LimiterVerdict.UNAUTHENTICATED)).inc()
            entry.evicted.close(CloseCode.TOO_SLOW, "unauthenticated")
        return None

    def refuse_handshake(self, reason: str, address: str) -> None:
        """Count and log a socket that gets no connection."""
        self.metrics.evictions.labels(str(reason)).inc()
        self.log.warning("handshake_refused", reason=str(reason), address=address)

    @staticmethod
    def busy_response(retry_after_s: float = RETRY_AFTER_S) -> Response:
        """Return the answer to a client that is not accepted."""
        response = text_response(503, "Too busy, come back later.\n")
        response.headers["Retry-After"] = str(ceil(retry_after_s))
        return response

    def record_handshake(self, status: str) -> None:
        """Count an answer by its status, or a socket that got none by the reason."""
        self.metrics.handshakes.labels(status).inc()

    def allows_origins(self, origins: list[str], address: str) -> bool:
        """Return whether a handshake with these `Origin` fields may go on."""
        if len(origins) <= 1 and self.origins.allows(origins[0] if origins else None):
            return True
        self.metrics.security_events.labels("origin").inc()
        self.log.warning(
            "origin_refused", security=True, origin=origins[:1], address=address
        )
        return False

    @property
    def debug(self) -> bool:
        """True while the log level is debug."""
        return self.live.current.log.level == "debug"

    def resync(self, reason: str) -> bytes:
        """Return a `resync_required` message, and count it."""
        self.metrics.resyncs.inc()
        return messages.encode(
            messages.ResyncRequired(reason=reason, timestamp=self.now_ms())
        )

    def observe_end(self, code: str, reason: str, about: Mapping[str, str]) -> None:
        """Count a close of the client's; a line of its own at level debug."""
        self.metrics.closes.labels(code, reason).inc()
        if self.debug:
            self.log.debug("connection_closed", code=code, reason=reason, **about)

    def observe_ping_timeout(self, about: Mapping[str, str]) -> None:
        """Count and log a connection that is aborted for want of a pong."""
        self.metrics.evictions.labels("ping_timeout").inc()
        self.log.info("connection_closed", code="1006", reason="ping_timeout", **about)

    def record_close(self, disconnect: Disconnect, about: Mapping[str, str]) -> None:
        """Count and log a close by the daemon; `about` are the connection's
        `log_fields`.

        A restart closes all of them, so its lines are written at level debug only.
        """
        code = str(int(disconnect.close_code))
        if disconnect.close_code is CloseCode.RESTARTING:
            self.observe_end(code, disconnect.reason, about)
            return
        self.metrics.closes.labels(code, disconnect.reason).inc()
        if disconnect.reason == "flood" and "user" not in about:
            # No user is known: only the address can be limited.
            self.token_refused(about["address"])
        if disconnect.reason in SECURITY_CLOSES:
            self.metrics.security_events.labels(disconnect.reason).inc()
            self.log.warning(
                "connection_refused", security=True, reason=disconnect.reason, **about
            )
        else:
            self.log.info(
                "connection_closed", code=code, reason=disconnect.reason, **about
            )
