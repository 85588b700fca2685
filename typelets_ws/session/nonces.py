"""The nonces that each user has used: a signed message is accepted once.

A nonce is remembered until a message with its timestamp is too old to be accepted,
also after its connection has ended. It is never evicted earlier: beyond the bound of a
user, new ones are refused. All users together hold at most twice `MOST_NONCES`: beyond
it, a user with more than an equal share gets no more.
"""

from collections import OrderedDict
from enum import StrEnum
from hashlib import blake2b
from math import ceil
from typing import Final
from weakref import WeakValueDictionary

from ..config.live import LiveConfig

__all__ = [
    "MAX_AGE_MS", "NonceMemory", "NonceRegistry", "NonceVerdict", "nonce_digest",
    "nonce_ttl_ms",
]  # fmt: skip

MAX_AGE_MS: Final = 300_000
MOST_NONCES: Final = 1_000_000
"""Of all users, before shares are enforced: some 100 bytes each."""
_BUCKET_MS: Final = 10_000


class NonceVerdict(StrEnum):
    """Whether a nonce may be used."""

    FRESH = "fresh"
    USED = "used"
    FULL = "full"


def nonce_digest(nonce: str) -> bytes:
    """Return 16 bytes for a nonce of any length."""
    return blake2b(nonce.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def nonce_ttl_ms(timestamp_ms: float, now_ms: int) -> int:
    """How long a memory shared by several hosts has to keep a nonce, ms.

    Ten seconds longer than this host's clock says, for hosts whose clocks are behind.
    """
    return max(1, ceil(timestamp_ms + MAX_AGE_MS + _BUCKET_MS - now_ms))


class NonceMemory:
    """The nonces of one user that can still be replayed, at most `nonces_per_user`.

    A bucket has those whose messages become too old within the same ten seconds, and is
    forgotten as a whole, up to ten seconds late. `all_users` counts those of all users.
    """

    __slots__ = (
        "__weakref__", "_all_users", "_buckets", "_live", "_size", "_swept", "user_id",
    )  # fmt: skip

    def __init__(
        self,
        live: LiveConfig,
        user_id: str = "",
        all_users: "NonceRegistry | None" = None,
    ) -> None:
        self._live = live
        self.user_id = user_id
        self._all_users = all_users
        self._buckets: dict[int, set[bytes]] = {}
        self._size = 0
        self._swept = 0

    def __len__(self) -> int:
        return self._size

    def claim(self, nonce: str, timestamp_ms: float, now_ms: int) -> NonceVerdict:
        """Use up a nonce. USED for any timestamp; FULL evicts none.

        The timestamp must be one that `check_age` accepts.
        """
        self.expire(now_ms)
        key = nonce_digest(nonce)
        for bucket in self._buckets.values():
            if key in bucket:
                return NonceVerdict.USED
        if self._size >= self._live.current.limits.nonces_per_user:
            return NonceVerdict.FULL
        if self._all_users is not None and not self._all_users.take(self, now_ms):
            return NonceVerdict.FULL
        last = int((timestamp_ms + MAX_AGE_MS) // _BUCKET_MS)
        self._buckets.setdefault(last, set()).add(key)
        self._size += 1
        return NonceVerdict.FRESH

    def expire(self, now_ms: int) -> None:
        """Forget the buckets whose last moment has passed."""
        current = now_ms // _BUCKET_MS
        if current == self._swept:
            return
        self._swept = current
        for last in [last for last in self._buckets if last < current]:
            expired = len(self._buckets.pop(last))
            self._size -= expired
            if self._all_users is not None:
                self._all_users.total -= expired


class NonceRegistry:
    """The nonce memories of all users.

    A memory is the same one for all connections of a user. It lives while a connection
    holds it, and while it has nonces that count: a replay after a reconnect is noticed
    too. Each `of` looks at two of the memories and drops the expired ones, so there are
    never many more of them than users that count.
    """

    __slots__ = ("_known", "_live", "_unexpired", "total")

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._known: WeakValueDictionary[str, NonceMemory] = WeakValueDictionary()
        self._unexpired: OrderedDict[str, NonceMemory] = OrderedDict()
        self.total = 0
        """Nonces of all users."""

    def __len__(self) -> int:
        return len(self._known)

    def of(self, user_id: str, now_ms: int) -> NonceMemory:
        """The memory of this user."""
        self._expire_some(now_ms)
        known = self._known.get(user_id)
        if known is None:
            known = NonceMemory(self._live, user_id, self)
            self._known[user_id] = known
        return known

    def take(self, memory: NonceMemory, now_ms: int) -> bool:
        """Count one more nonce of a memory; False when it has too many already."""
        if self.total >= MOST_NONCES:
            self._expire_some(now_ms)
            if len(memory) > MOST_NONCES // max(1, len(self._unexpired)):
                return False
        self.total += 1
        self._unexpired.setdefault(memory.user_id, memory)
        return True

    def _expire_some(self, now_ms: int) -> None:
        for _ in range(min(2, len(self._unexpired))):
            user, memory = self._unexpired.popitem(last=False)
            memory.expire(now_ms)
            if len(memory):
                self._unexpired[user] = memory
