"""The nonces that each user has used: a signed message is accepted once.

A nonce is remembered until a message with its timestamp is too old to be accepted,
also after its connection has ended, and is never evicted earlier: beyond the bound new
ones are refused. The bound is per user, so users do not evict each other's nonces.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from math import ceil
from typing import Final
from weakref import WeakValueDictionary

from ..config.live import LiveConfig

__all__ = [
    "MAX_AGE_MS",
    "NonceMemory",
    "NonceRegistry",
    "NonceVerdict",
    "nonce_digest",
    "nonce_ttl_ms",
]

MAX_AGE_MS: Final = 300_000
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

    Each is kept in a bucket of ten seconds by the moment from which its message is too
    old anyway, so that the expired ones go a bucket at a time, up to ten seconds late.
    `expire` is called before a memory that was empty takes its first nonce.
    """

    __slots__ = ("__weakref__", "_buckets", "_keep", "_live", "_size", "_swept")

    def __init__(
        self, live: LiveConfig, keep: "Callable[[NonceMemory], None] | None" = None
    ) -> None:
        self._live = live
        self._keep = keep
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
        if not self._size and self._keep is not None:
            self._keep(self)
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
            self._size -= len(self._buckets.pop(last))


class NonceRegistry:
    """The nonce memories of all users.

    A memory is the same one for all connections of a user. It lives while a connection
    holds it, so a connection may keep what `of` returns, and while it has nonces that
    count, so a replay after a reconnect is noticed too. Each `of` looks at two of the
    memories with nonces and lets the expired ones go: there are never many more of
    them than users that count.
    """

    __slots__ = ("_known", "_live", "_unexpired")

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._known: WeakValueDictionary[str, NonceMemory] = WeakValueDictionary()
        self._unexpired: OrderedDict[str, NonceMemory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, user_id: str, now_ms: int) -> NonceMemory:
        """The memory of this user."""
        for _ in range(min(2, len(self._unexpired))):
            user, memory = self._unexpired.popitem(last=False)
            memory.expire(now_ms)
            if len(memory):
                self._unexpired[user] = memory
        known = self._known.get(user_id)
        if known is None:
            keep = partial(self._unexpired.__setitem__, user_id)
            known = NonceMemory(self._live, keep)
            self._known[user_id] = known
        return known
