"""A user's devices on this process, from the start of their `auth` to their end.

Invariants. The user's subscription lives while one device is counted, so a leaving
device must not unsubscribe a user whose other device is still authenticating. A slot
that was granted is released once. Tested by tests/unit/session/test_authenticator.py.

Devices are only counted here: `redis.lease` records those that asked for a slot, the
hub those that are attached.
"""

from collections import Counter

from ..config.live import LiveConfig
from ..delivery.hub import Device, Hub
from ..delivery.recovery import Recovery
from ..ports import AcquireResult, SharedLimits, Subscriptions

__all__ = ["Presence"]


class Presence:
    """Attaches devices to the hub, with their subscription and their slot."""

    def __init__(
        self,
        hub: Hub,
        recovery: Recovery,
        subscriptions: Subscriptions,
        shared: SharedLimits,
        live: LiveConfig,
    ) -> None:
        self._hub = hub
        self._recovery = recovery
        self._subscriptions = subscriptions
        self._shared = shared
        self._live = live
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def devices_per_user(self) -> int:
        """The limit, also over all processes."""
        return self._live.current.limits.devices_per_user

    @property
    def cursor(self) -> str | None:
        """The position up to which an attached device gets every change."""
        return self._recovery.cursor

    async def acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Subscribe to the user and take a slot; then call `attach` or `abandon`."""
        self._counts[user_id] += 1
        try:
            # One after the other: a session revoked meanwhile is either reported by
            # its event or found revoked.
            await self._subscriptions.subscribe(user_id)
            return await self._shared.acquire(user_id, connection_id, session_id)
        except BaseException:
            self._forget(user_id)
            raise

    def is_full(self, user_id: str, acquired: AcquireResult) -> bool:
        """Return whether the user has no slot left, here or over all processes."""
        here = self._hub.count(user_id)
        return acquired is AcquireResult.FULL or here >= self.devices_per_user

    def attach(self, user_id: str, device: Device) -> None:
        """Deliver the user's events to the device from now on."""
        self._hub.attach(user_id, device)
        self._recovery.attach(user_id, device)

    def abandon(
        self, user_id: str, connection_id: str, acquired: AcquireResult
    ) -> None:
        """End what `acquire` began for a device that is not attached."""
        if acquired is AcquireResult.GRANTED:
            self._shared.release(user_id, connection_id)
        self._forget(user_id)

    def detach(self, user_id: str, device: Device) -> None:
        """Release everything of a device that was attached."""
        self._hub.detach(user_id, device)
        self._recovery.detach(user_id, device)
        self._shared.release(user_id, device.connection_id)
        self._forget(user_id)

    async def is_revoked(self, session_id: str) -> bool:
        """Whether any process revoked the session."""
        return await self._shared.is_revoked(session_id)

    async def claim_nonce(self, user_id: str, nonce: bytes, ttl_ms: int) -> bool:
        """Return False when the nonce was used before, on any process."""
        return await self._shared.claim_nonce(user_id, nonce, ttl_ms)

    def _forget(self, user_id: str) -> None:
        self._counts[user_id] -= 1
        if not self._counts[user_id]:
            del self._counts[user_id]
            self._subscriptions.unsubscribe(user_id)
