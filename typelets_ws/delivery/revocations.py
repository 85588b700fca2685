"""Revoked sessions, remembered until their tokens have expired.

Pure: time is an argument. Bounded by `limit`; the oldest entry is dropped first.
"""

from collections import OrderedDict

__all__ = ["RevokedSessions"]


class RevokedSessions:
    """Revoked sessions, until their tokens have expired. Monotonic times in seconds."""

    def __init__(self, keep_s: float, limit: int) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._until: OrderedDict[str, float] = OrderedDict()

    def revoke(self, session_id: str, now: float) -> None:
        """Bar a session from now on."""
        self._until.pop(session_id, None)
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if len(self._until) >= self._limit:
            # The oldest are nearest to their end; Redis remembers them as well.
            self._until.popitem(last=False)
        self._until[session_id] = now + self._keep_s

    def is_revoked(self, session_id: str | None, now: float) -> bool:
        """True while the session may not come in."""
        return session_id is not None and self._until.get(session_id, 0.0) > now
