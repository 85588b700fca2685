"""The keys of the shared limits. Pure.

Invariant: the keys that one script touches share a slot. One server has the documented
names. In a Cluster the users are spread over `BUCKETS` hash tags, `{00}` to `{3f}`, so
a process renews at most that many leases; a user id may hold braces itself, so it
cannot be a tag. `barred:` and `nonce:` keys are touched alone and keep their names.
Tested by tests/unit/redis/test_slots.py.
"""

from typing import Final
from zlib import crc32

from .connection import redis_key

__all__ = ["RedisKeys"]

BUCKETS: Final = 64


class RedisKeys:
    """Names with `prefix`; `cluster` adds the tags."""

    def __init__(self, prefix: str, *, cluster: bool) -> None:
        self.cluster = cluster
        self._prefix = prefix.encode()
        self._devices = self._prefix + b"devices:"
        self._nonce = self._prefix + b"nonce:"
        self._revoked = self._prefix + b"barred:"

    def bucket(self, user_id: str) -> bytes:
        """The tag of a user's keys; empty for one server."""
        if not self.cluster:
            return b""
        return b"{%02x}:" % (crc32(redis_key(b"", user_id)) % BUCKETS)

    def devices(self, user_id: str) -> bytes:
        """The set of a user's devices."""
        prefix = self._devices
        if self.cluster:
            prefix += self.bucket(user_id)
        return redis_key(prefix, user_id)

    def lease_prefix(self, bucket: bytes) -> bytes:
        """The part before the lease in the keys of a bucket's leases."""
        return self._prefix + b"era:" + bucket

    def nonce(self, user_id: str, nonce: bytes) -> bytes:
        """The key of a nonce that was used."""
        return redis_key(self._nonce, user_id) + b":" + nonce

    def revoked(self, session_id: str) -> bytes:
        """The key of a session that no process admits."""
        return redis_key(self._revoked, session_id)
