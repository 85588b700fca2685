"""The deadlines of one connection, and which of them has expired. Pure.

Times are seconds on the monotonic clock. Each deadline is an attribute, `NEVER` while
it does not run. `expired` returns the most serious expired one, `next` the next one.
"""

from enum import Enum, auto
from typing import Final

from ..config.live import LiveConfig
from ..config.model import Limits

__all__ = ["NEVER", "ConnectionTimers", "Timer"]

NEVER: Final = float("inf")


class Timer(Enum):
    """The deadlines, the most serious first."""

    ABORT = auto()
    AUTH_TIMEOUT = auto()
    RESYNC = auto()
    UNFINISHED = auto()
    STALL_CHECK = auto()
    PONG_MISSING = auto()
    PING = auto()


class ConnectionTimers:
    """The deadlines of one connection."""

    __slots__ = (
        "_abort_at",
        "_auth_until",
        "_drained",
        "_live",
        "_next_ping",
        "_pinged_at",
        "_resync_at",
        "_stall_at",
        "_unfinished_until",
        "resync_reason",
    )

    def __init__(self, live: LiveConfig, now: float) -> None:
        """Opened at `now`."""
        self._live = live
        self._auth_until = now + live.current.auth.auth_timeout_ms / 1000
        self._next_ping = now + self._limits.ping_interval_s
        self._pinged_at = self._resync_at = self._stall_at = NEVER
        self._abort_at = self._unfinished_until = NEVER
        self._drained = 0
        self.resync_reason = ""

    @property
    def _limits(self) -> Limits:
        return self._live.current.limits

    def authenticated(self) -> None:
        """Stop the deadline for `auth`."""
        self._auth_until = NEVER

    @property
    def awaits_pong(self) -> bool:
        """True between a ping and its pong."""
        return self._pinged_at != NEVER

    def pong_received(self) -> bool:
        """Stop the deadline for a pong; return whether one was awaited."""
        awaited = self._pinged_at != NEVER
        self._pinged_at = NEVER
        return awaited

    def message_unfinished(self, now: float) -> bool:
        """Start the deadline of an unfinished message; False if it runs already."""
        if self._unfinished_until != NEVER:
            return False
        self._unfinished_until = now + self._limits.unfinished_s
        return True

    def message_finished(self) -> None:
        """Stop the deadline of an unfinished message."""
        self._unfinished_until = NEVER

    def write_blocked(self, now: float, drained: int) -> None:
        """Start the stall check; `drained` bytes have left the transport so far."""
        if self._stall_at == NEVER:
            self._stall_at = now + self._limits.stalled_s
            self._drained = drained

    def stalled(self, now: float, drained: int, unsent: int) -> bool:
        """Return whether no byte has left since the last stall check."""
        if not unsent:
            self._stall_at = NEVER
            return False
        self._stall_at = now + self._limits.stalled_s
        stuck = drained == self._drained
        self._drained = drained
        return stuck

    def ask_resync(self, reason: str, at: float) -> None:
        """Send a resync at `at`; an earlier pending one is kept."""
        if at < self._resync_at:
            self._resync_at = at
            self.resync_reason = reason

    def take_resync(self) -> str:
        """Stop the deadline of a resync; return its reason."""
        self._resync_at = NEVER
        return self.resync_reason

    def closing(self, now: float) -> None:
        """Stop all deadlines but the abort, which comes in `limits.abort_s`."""
        self._auth_until = self._next_ping = NEVER
        self._pinged_at = self._resync_at = self._stall_at = NEVER
        self._unfinished_until = NEVER
        self._abort_at = min(self._abort_at, now + self._limits.abort_s)

    def expired(self, now: float, *, reading: bool) -> Timer | None:
        """Return the expired deadline; `reading`: whether the socket is being read."""
        if now >= self._abort_at:
            return Timer.ABORT
        if now >= self._auth_until:
            return Timer.AUTH_TIMEOUT
        if now >= self._resync_at:
            return Timer.RESYNC
        if now >= self._unfinished_until:
            if reading:
                return Timer.UNFINISHED
            # Its rest may have arrived and be unread: its time starts again.
            self._unfinished_until = now + self._limits.unfinished_s
        if now >= self._stall_at:
            return Timer.STALL_CHECK
        return self._expired_ping(now, reading=reading)

    def _expired_ping(self, now: float, *, reading: bool) -> Timer | None:
        if now >= self._pinged_at + self._limits.ping_timeout_s:
            if reading:
                return Timer.PONG_MISSING
            # The pong may have arrived and be unread: its time starts again.
            self._pinged_at = now
        if now >= self._next_ping:
            self._next_ping = now + self._limits.ping_interval_s
            if self._pinged_at == NEVER:
                self._pinged_at = now
                return Timer.PING
        return None

    def next(self) -> float | None:
        """Return the next deadline; None for never."""
        at = min(
            self._abort_at,
            self._auth_until,
            self._resync_at,
            self._stall_at,
            self._unfinished_until,
            self._pinged_at + self._limits.ping_timeout_s,
            self._next_ping,
        )
        return None if at == NEVER else at
