"""Limits of handshakes: in all, per address and per second. Pure.

Invariants. Time is an argument, monotonic. An IPv6 client counts as its /64. Memory is
bounded: a counter per address with a connection, `MAX_ADDRESSES` addresses with refused
tokens, and what `fair_share` keeps. (spec section 5)
Tested by tests/unit/websocket/test_limiter.py.
"""

from collections import Counter
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from ..config.addresses import limit_key
from ..config.live import LiveConfig
from ..protocol.errors import CloseCode
from .fair_share import FairRate, FairSlots, Strikes

__all__ = [
    "RETRY_AFTER_S", "ConnectionLimiter", "Entry", "LimitedSocket", "LimiterVerdict",
]  # fmt: skip

RETRY_AFTER_S: Final = 5.0
"""For a client that is refused because everything is taken."""
TOKENS_WINDOW_S: Final = 60.0
"""Refused tokens are counted by the minute (spec section 5)."""
REQUESTS_FACTOR: Final = 4
"""Sockets accepted in a second, as a multiple of handshakes: 2,000 plain requests take
a third of a core. Health checks go on while the handshakes of a second are taken."""
LEAST_REQUESTS: Final = 100
MAX_ADDRESSES: Final = 10_000
"""Addresses whose refused tokens are remembered: 2 MB."""


class LimitedSocket(Protocol):
    """A connection, as the limits see it."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing."""


class LimiterVerdict(StrEnum):
    """Why a handshake is refused; also the metric label."""

    OPEN = "open"
    FULL = "connections"
    UNAUTHENTICATED = "unauthenticated"
    ADDRESS = "per_address"
    RATE = "accept_rate"
    TOKENS = "refused_tokens"
    SOCKETS = "handshakes"


class Entry(NamedTuple):
    """The answer to a handshake.

    `evicted` must be closed in its favour. A refused client may try again after
    `retry_after_s`.
    """

    verdict: LimiterVerdict
    evicted: LimitedSocket | None = None
    retry_after_s: float = RETRY_AFTER_S


class ConnectionLimiter:
    """Counts connections from an accepted handshake until `release`.

    A connection is unauthenticated until `authenticated`.
    """

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._addresses: Counter[str] = Counter()
        self._slots: FairSlots[LimitedSocket] = FairSlots()
        self._accepts = FairRate(1.0)
        self._requests = FairRate(1.0)
        self._tokens = Strikes(TOKENS_WINDOW_S, MAX_ADDRESSES)
        self.total = 0

    @property
    def unauthenticated(self) -> int:
        """Connections that have not authenticated yet."""
        return len(self._slots)

    def acquire(self, address: str, holder: LimitedSocket, now: float) -> Entry:
        """Judge one handshake at `now` (s); count it when it is accepted."""
        limits, key = self._live.current.limits, limit_key(address)
        shut_out_s = self._tokens.retry_after(key, now, limits.refused_tokens)
        if shut_out_s:
            return Entry(LimiterVerdict.TOKENS, retry_after_s=shut_out_s)
        if self.total >= limits.connections:
            return Entry(LimiterVerdict.FULL)
        if self._addresses[key] >= limits.per_address:
            return Entry(LimiterVerdict.ADDRESS)
        if not self._slots.allows(key, limits.unauthenticated):
            return Entry(LimiterVerdict.UNAUTHENTICATED)
        accepts, share = limits.accepts_per_second, limits.accept_share
        if not self._accepts.try_acquire(key, now, accepts, share):
            return Entry(LimiterVerdict.RATE)
        self.total += 1
        self._addresses[key] += 1
        evicted = self._slots.acquire(key, holder, limits.unauthenticated)
        return Entry(LimiterVerdict.OPEN, evicted)

    def allows_request(self, address: str, now: float) -> bool:
        """Count a socket, or a request by a proxy, at `now`; False: too many."""
        limits = self._live.current.limits
        limit = max(LEAST_REQUESTS, REQUESTS_FACTOR * limits.accepts_per_second)
        key = limit_key(address)
        return self._requests.try_acquire(key, now, limit, limits.accept_share)

    def authenticated(self, address: str, holder: LimitedSocket) -> None:
        """The connection has authenticated."""
        self._slots.release(limit_key(address), holder)

    def token_refused(self, address: str, now: float) -> None:
        """A client of this address sent a refused token, or flooded before auth."""
        limit = self._live.current.limits.refused_tokens
        self._tokens.add(limit_key(address), now, limit)

    def release(self, address: str, holder: LimitedSocket) -> None:
        """The connection is gone."""
        self.total -= 1
        address = limit_key(address)
        self._slots.release(address, holder)
        if self._addresses[address] > 1:
            self._addresses[address] -= 1
        else:
            del self._addresses[address]
