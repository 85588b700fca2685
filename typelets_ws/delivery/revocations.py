"""Revoked sessions, remembered until their tokens have expired.

Pure: time is an argument. Bounded by `limit`; the oldest entry is dropped first, and
`ports.SharedLimits` still knows it. Tested by tests/unit/delivery/test_revocations.py.
"""

from collections import OrderedDict

from ..ports import SharedLimits

__all__ = ["RevokedSessions"]


class RevokedSessions:
    """Sessions that may not authenticate. Monotonic times in seconds.

    An entry is kept for `ttl_s`, on this process and in `shared`.
    """

    def __init__(self, ttl_s: float, limit: int, shared: SharedLimits) -> None:
        self._ttl_s = ttl_s
        self._limit = limit
        self._shared = shared
        self._until: OrderedDict[str, float] = OrderedDict()

    def revoke(self, session_id: str, now: float) -> None:
        """Refuse a session from now on, on every process."""
        self._until.pop(session_id, None)
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if len(self._until) >= self._limit:
            # The oldest expires first.
            self._until.popitem(last=False)
        self._until[session_id] = now + self._ttl_s
        self._shared.revoke_session(session_id, int(self._ttl_s * 1000))

    def is_revoked(self, session_id: str | None, now: float) -> bool:
        """True while the session may not authenticate."""
        return session_id is not None and self._until.get(session_id, 0.0) > now
