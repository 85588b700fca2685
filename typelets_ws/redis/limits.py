"""Counts over all processes: a user's devices, nonces and revoked sessions.

Invariants. While Redis is unreachable everything is granted: the limits of each process
hold. A Redis that answers with errors is a fault: nothing is granted, `refused` is true
until a check of every kind of command has succeeded, and the daemon is not ready
meanwhile. A refused device tries again; a refused message may be lost, so the errors of
a failover refuse no nonce (`failure`). Sessions that this process revoked are written
again to each new connection, so a failover that lost one does not admit it.
Tested by tests/integration/redis/test_limits.py.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

import hiredis

from ..config.live import LiveConfig
from ..config.redis_address import Topology, parse
from ..ports import AcquireResult, LimitsUnavailableError
from ..telemetry.telemetry import Telemetry
from .acquire import Acquisition, run_acquire
from .client import RedisClient
from .connection import RedisUnavailableError
from .failure import CommandFailure, is_fault, judge
from .keys import RedisKeys
from .lease import TTL_S, Lease

__all__ = ["SharedLimits"]

REFUSED_RETRY_S: Final = 1.0
NO_USER: Final = ""
"""Names the keys of the check; a user id is never empty."""
REVOKED_KEPT: Final = 10_000
"""Revoked sessions that are written again after a failover."""


class SharedLimits:
    """Limits over all processes; see `ports.SharedLimits`. `run` renews the lease."""

    def __init__(
        self,
        live: LiveConfig,
        commands: RedisClient,
        *,
        telemetry: Telemetry,
        rng: random.Random,
    ) -> None:
        self._live = live
        self._config = config = live.current.redis
        self._commands = commands
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        cluster = parse(config.url).kind is Topology.CLUSTER
        self._keys = RedisKeys(config.prefix, cluster=cluster)
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._lease = Lease(
            self._keys,
            commands,
            config.lease_s,
            self._check_reply,
            now=self._now,
            rng=rng,
        )
        self._revoked: dict[bytes, float] = {}
        self._stale = False
        self._up = True
        self._refusals = 0
        # Since when Redis answers with errors; None while it does not.
        self._failing_since: float | None = -inf
        self._check_due = asyncio.Event()
        if config.shared_limits:
            commands.on_connect(self._start_lease)
        commands.on_connect(self._revoke_again)
        commands.on_connect(self._check_due.set)

    @property
    def refused(self) -> bool:
        """True after Redis answered with an error, until a check has succeeded."""
        return self._refusals > 0

    async def acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Take one of the user's slots, unless none is free or the session is revoked.

        GRANTED while Redis is unreachable. Raises `LimitsUnavailableError` when it
        answers with an error, unless the session is known to be revoked. Asking again
        for the same device is harmless.
        """
        if not self._config.shared_limits:
            revoked = session_id is not None and await self.is_revoked(session_id)
            return AcquireResult.REVOKED if revoked else AcquireResult.GRANTED
        self._lease.add(user_id, connection_id)
        try:
            result = await self._acquire(user_id, connection_id, session_id)
        except (asyncio.CancelledError, LimitsUnavailableError):
            self.release(user_id, connection_id)
            raise
        if result is not AcquireResult.GRANTED:
            self.release(user_id, connection_id)
        return result

    async def is_revoked(self, session_id: str) -> bool:
        """Whether any process revoked the session; False while Redis is unreachable.

        Raises `LimitsUnavailableError` when Redis answers with an error.
        """
        key, failure = self._keys.revoked(session_id), None
        try:
            return bool(await self._commands.call(b"EXISTS", key) == 1)
        except (RedisUnavailableError, hiredis.ReplyError) as exc:
            failure = self._failure(exc)
        if failure is not CommandFailure.AWAY:
            raise LimitsUnavailableError
        return False

    def release(self, user_id: str, connection_id: str) -> None:
        """Give a slot back; harmless when it was never taken."""
        if self._lease.discard(user_id, connection_id):
            self._commands.send(
                self._check_reply,
                b"SREM",
                self._keys.devices(user_id),
                self._lease.member(connection_id),
            )

    async def claim_nonce(self, user_id: str, nonce: bytes, ttl_ms: int) -> bool:
        """False when the nonce was used before, on any process; True without Redis.

        Raises `LimitsUnavailableError` when Redis answers with an error, but for those
        of a failover.
        """
        if not self._config.shared_nonces:
            return True
        key, failure = self._keys.nonce(user_id, nonce), None
        try:
            reply = await self._commands.call(b"SET", key, b"1", b"NX", b"PX", ttl_ms)
            return reply is not None
        except (RedisUnavailableError, hiredis.ReplyError) as exc:
            failure = self._failure(exc)
        if failure is CommandFailure.REFUSED:
            raise LimitsUnavailableError
        return True

    def revoke_session(self, session_id: str, ttl_ms: int) -> None:
        """Let no process admit the session for this long."""
        key = self._keys.revoked(session_id)
        self._revoked.pop(key, None)
        self._revoked[key] = self._now() + ttl_ms / 1000
        if len(self._revoked) > REVOKED_KEPT:
            del self._revoked[next(iter(self._revoked))]
        self._commands.send(self._check_reply, b"SET", key, b"1", b"PX", ttl_ms)

    async def run(self) -> None:
        """Renew the lease and check refused commands until cancelled."""
        pause = self._config.lease_s / 3
        renew_at = self._now() + pause
        while True:
            wait = renew_at - self._now()
            if self.refused:
                wait = min(wait, REFUSED_RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._check_due.wait()
            if self._check_due.is_set() or self.refused:
                self._check_due.clear()
                await self._check_commands()
            if self._now() >= renew_at:
                renew_at = self._now() + pause
                if self._config.shared_limits:
                    await self._renew(pause)

    async def _renew(self, pause_s: float) -> None:
        try:
            renewed = await self._lease.renew(pause_s)
        except (RedisUnavailableError, hiredis.ReplyError) as exc:
            self._check_reply(exc)
            renewed = True
        if not renewed or (self._stale and self._commands.up):
            # Redis lost the lease, or an answer was lost: the next lease is true.
            self._start_lease()

    def _start_lease(self) -> None:
        self._stale = False
        self._set_up(up=not self.refused)
        self._lease.start()

    def _revoke_again(self) -> None:
        now = self._now()
        self._revoked = {key: end for key, end in self._revoked.items() if end > now}
        for key, end in self._revoked.items():
            ttl_ms = int((end - now) * 1000) + 1
            self._commands.send(self._check_reply, b"SET", key, b"1", b"PX", ttl_ms)

    async def _check_commands(self) -> None:
        """Try each kind of command on keys of no user; all succeed: not refused."""
        before, call = self._refusals, self._commands.call
        try:
            if self._config.shared_limits:
                await self._run_acquire(NO_USER, NO_USER, NO_USER)
                key, member = self._keys.devices(NO_USER), self._lease.member(NO_USER)
                await call(b"SREM", key, member)
                await call(b"SADD", key, member)
                await call(b"EXPIRE", key, TTL_S)
                await call(b"DEL", key)
            await call(b"EXISTS", self._keys.revoked(NO_USER))
            if self._config.shared_nonces:
                key = self._keys.nonce(NO_USER, b"")
                await call(b"SET", key, b"1", b"NX", b"PX", 1)
        except (RedisUnavailableError, hiredis.ReplyError) as exc:
            self._check_reply(exc)
            return
        if self._refusals == before:
            self._refusals = 0
            self._failing_since = None
            if self._stale and self._config.shared_limits:
                # A device that Redis refused to register counts again from here on.
                self._start_lease()
            self._set_up(up=not self._stale)

    async def _acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        failure = None
        try:
            return await self._run_acquire(user_id, connection_id, session_id)
        except (RedisUnavailableError, hiredis.ReplyError) as exc:
            failure = self._failure(exc)
        if failure is CommandFailure.AWAY:
            return AcquireResult.GRANTED
        # The lookup alone needs one right less, and no memory.
        if session_id is not None and await self.is_revoked(session_id):
            return AcquireResult.REVOKED
        raise LimitsUnavailableError

    async def _run_acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Raises `RedisUnavailableError` or `hiredis.ReplyError`."""
        cluster, revoked = self._keys.cluster, b""
        if session_id is not None:
            revoked = self._keys.revoked(session_id)
        if cluster and revoked and await self._commands.call(b"EXISTS", revoked) == 1:
            # Its key has another slot, so the script cannot look it up.
            return AcquireResult.REVOKED
        wanted = Acquisition(
            self._keys.devices(user_id),
            self._keys.lease_prefix(self._keys.bucket(user_id)),
            self._lease.member(connection_id),
            self._live.current.limits.devices_per_user,
            b"" if cluster else revoked,
            TTL_S,
            declared=cluster,
        )
        return await run_acquire(self._commands, wanted)

    def _failure(
        self, exc: RedisUnavailableError | hiredis.ReplyError
    ) -> CommandFailure:
        """Note that a command failed; return what that means for its caller."""
        self._check_reply(exc)
        since = self._failing_since
        return judge(exc, 0.0 if since is None else self._now() - since)

    def _check_reply(self, reply: Any) -> None:
        """After a failure it is unknown what Redis holds: a new lease is started."""
        if is_fault(reply):
            if not self.refused:
                self._check_due.set()
            self._refusals += 1
            if self._failing_since is None:
                self._failing_since = self._now()
        if isinstance(reply, Exception):
            self._stale = True
            self._set_up(up=False, reason=str(reply))

    def _set_up(self, *, up: bool, reason: str = "") -> None:
        self._metrics.shared_limits_up.set(up)
        if up == self._up:
            return
        self._up = up
        if up:
            self._log.info("shared_limits_back")
        else:
            self._log.warning("shared_limits_away", reason=reason)
