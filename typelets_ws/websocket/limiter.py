"""Connection limits: total, unauthenticated, per address, accepts per second.

Pure: time is an argument. Bounded: one counter per address with a connection.
"""

from collections import Counter
from enum import StrEnum

from ..config import model as config
from ..config.addresses import limit_key
from ..session.rate_limit import RateVerdict, SlidingWindow

__all__ = ["ConnectionLimiter", "LimiterVerdict"]


class LimiterVerdict(StrEnum):
    """Why a handshake is refused; also the metric label."""

    OPEN = "open"
    FULL = "connections"
    UNAUTHENTICATED = "unauthenticated"
    ADDRESS = "per_address"
    RATE = "accept_rate"


class ConnectionLimiter:
    """The caps at the door: in all, unauthenticated, per address, per second.

    A connection is counted from the moment its handshake is admitted until
    `leave`; it is unauthenticated until `authenticated`.
    """

    def __init__(self, limits: config.Limits) -> None:
        self._limits = limits
        self._accepts = SlidingWindow(limits.accepts_per_second, 1.0)
        self._addresses: Counter[str] = Counter()
        self.total = 0
        self.unauthenticated = 0

    def reconfigure(self, limits: config.Limits) -> None:
        """Take new limits; nobody who is inside is sent away."""
        self._limits = limits
        self._accepts = SlidingWindow(limits.accepts_per_second, 1.0)

    def acquire(self, address: str, now: float) -> LimiterVerdict:
        """Judge one handshake at `now` (s) and count it when it may come in."""
        limits = self._limits
        if self.total >= limits.connections:
            return LimiterVerdict.FULL
        if self.unauthenticated >= limits.unauthenticated:
            return LimiterVerdict.UNAUTHENTICATED
        address = limit_key(address)
        if self._addresses[address] >= limits.per_address:
            return LimiterVerdict.ADDRESS
        if self._accepts.count(now) is not RateVerdict.SERVED:
            return LimiterVerdict.RATE
        self.total += 1
        self.unauthenticated += 1
        self._addresses[address] += 1
        return LimiterVerdict.OPEN

    def authenticated(self) -> None:
        """One of those inside has authenticated."""
        self.unauthenticated -= 1

    def release(self, address: str, *, authenticated: bool) -> None:
        """One of those inside has gone."""
        self.total -= 1
        if not authenticated:
            self.unauthenticated -= 1
        address = limit_key(address)
        if self._addresses[address] > 1:
            self._addresses[address] -= 1
        else:
            del self._addresses[address]
