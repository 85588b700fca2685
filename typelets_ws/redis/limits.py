"""What is counted over all processes: a user's devices, nonces, barred sessions.

Theory of operation. A user's devices are a Redis set of ``<era>:<connection>``. An
era is one stretch of this process with an unbroken link; its key is a lease, renewed
each third of its time. Members whose era has no key count for nothing and are
dropped when somebody looks: 10 000 devices cost one renewal, and a killed process'
places come free by themselves.

Law: whatever happened to the link, the next era tells the truth. It begins by ending
the last one and registering every device that is here, so a lost release, an
unanswered acquire and a Redis that has forgotten everything need no thought of their
own. While Redis is unreachable everything is granted: the process' own limits hold.
A Redis that answers with errors is a fault: `refused` is true until a check of every
kind of command has succeeded, and the daemon is not ready meanwhile.
"""

import asyncio
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from math import ceil
from typing import Any, Final

import hiredis

from ..config.live import LiveConfig
from ..ports import AcquireResult
from ..telemetry.telemetry import Telemetry
from .acquire import ACQUIRE, run_acquire
from .commands import RedisClient, ReplyCallback
from .connection import RedisUnavailable, redis_key

__all__ = ["SharedLimits"]

FORGOTTEN_AFTER_S: Final = 3600
"""A user's set lives this long unless touched; each is touched three times in it."""
BATCH: Final = 256
REFUSED_RETRY_S: Final = 1.0
NO_USER: Final = ""
"""Names the keys of the check; a user id is never empty."""


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
        self._rng = rng
        self._leases = f"{config.prefix}era:".encode()
        self._devices = f"{config.prefix}devices:".encode()
        self._nonces = f"{config.prefix}nonce:".encode()
        self._revoked = f"{config.prefix}barred:".encode()
        self._lease_ms = int(config.lease_s * 1000)
        self._lease = self._new_lease()
        self._local_devices: dict[str, set[str]] = {}
        self._unregistered: Iterator[str] = iter(())
        self._round: Iterator[str] = iter(())
        self._stale = False
        self._up = True
        self._refusals = 0
        self._check_due = asyncio.Event()
        if config.shared_limits:
            commands.on_connect(self._start_lease)
        commands.on_connect(self._check_due.set)

    @property
    def refused(self) -> bool:
        """True after Redis answered with an error, until a check has succeeded."""
        return self._refusals > 0

    async def acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Take one of the user's places, unless none is free or the session is barred.

        GRANTED while Redis is unreachable, and when it answers with an error (the
        daemon is not ready then) unless the session is known to be barred. Asking
        again for the same device is harmless.
        """
        if not self._config.shared_limits:
            revoked = session_id is not None and await self.is_revoked(session_id)
            return AcquireResult.REVOKED if revoked else AcquireResult.GRANTED
        # Held from now on, so that an era that begins meanwhile registers it.
        self._local_devices.setdefault(user_id, set()).add(connection_id)
        try:
            place = await self._acquire(user_id, connection_id, session_id)
        except asyncio.CancelledError:
            self.release(user_id, connection_id)
            raise
        if place is not AcquireResult.GRANTED:
            self.release(user_id, connection_id)
        return place

    async def is_revoked(self, session_id: str) -> bool:
        """Whether any process revoked the session; False while Redis is away."""
        key = redis_key(self._revoked, session_id)
        reply = await self._call_or_false(b"EXISTS", key)
        return reply is not False and reply == 1

    def release(self, user_id: str, connection_id: str) -> None:
        """Give a place back; harmless when it was never taken."""
        held = self._local_devices.get(user_id)
        if held is None or connection_id not in held:
            return
        held.discard(connection_id)
        if not held:
            del self._local_devices[user_id]
        self._commands.send(
            self._check_reply,
            b"SREM",
            redis_key(self._devices, user_id),
            self._member(connection_id),
        )

    async def claim_nonce(self, user_id: str, nonce: bytes, ttl_ms: int) -> bool:
        """False when the nonce was used before, on any process; True without Redis."""
        if not self._config.shared_nonces:
            return True
        key = redis_key(self._nonces, user_id) + b":" + nonce
        return (
            await self._call_or_false(b"SET", key, b"1", b"NX", b"PX", ttl_ms)
            is not None
        )

    def revoke_session(self, session_id: str, ttl_ms: int) -> None:
        """Let no process admit the session for this long."""
        key = redis_key(self._revoked, session_id)
        self._commands.send(self._check_reply, b"SET", key, b"1", b"PX", ttl_ms)

    async def run(self) -> None:
        """Renew the lease and check refused commands until cancelled."""
        pause = self._config.lease_s / 3
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + pause
        while True:
            wait = renew_at - loop.time()
            if self.refused:
                wait = min(wait, REFUSED_RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._check_due.wait()
            if self._check_due.is_set() or self.refused:
                self._check_due.clear()
                await self._check_commands()
            if loop.time() >= renew_at:
                renew_at = loop.time() + pause
                if self._config.shared_limits:
                    await self._renew(pause)

    async def _renew(self, pause: float) -> None:
        key = self._leases + self._lease
        renewed = await self._call_or_false(
            b"SET", key, b"1", b"XX", b"PX", self._lease_ms
        )
        if renewed is None or (self._stale and self._commands.up):
            # Redis has forgotten us, or we have something to make good.
            self._start_lease()
        else:
            users = len(self._local_devices) * pause * 3 / FORGOTTEN_AFTER_S
            self._register(self._touching(ceil(users)), self._check_reply)

    async def _check_commands(self) -> None:
        """Try each kind of command on keys of no user; all succeed: not refused."""
        before = self._refusals
        try:
            if self._config.shared_limits:
                await self._run_acquire(NO_USER, NO_USER, NO_USER)
                key = redis_key(self._devices, NO_USER)
                await self._commands.call(b"SREM", key, self._member(NO_USER))
                await self._commands.call(b"EXPIRE", key, FORGOTTEN_AFTER_S)
                await self._commands.call(b"SADD", key, self._member(NO_USER))
                await self._commands.call(b"DEL", key)
            if self._config.shared_nonces:
                key = redis_key(self._nonces, NO_USER)
                await self._commands.call(b"SET", key, b"1", b"NX", b"PX", 1)
        except (RedisUnavailable, hiredis.ReplyError) as exc:
            self._check_reply(exc)
            return
        if self._refusals == before:
            self._refusals = 0
            self._set_up(up=not self._stale)

    def _start_lease(self) -> None:
        """Begin an era: the last one's places end, and all who are here get theirs."""
        old, self._lease = self._lease, self._new_lease()
        lease = self._leases + self._lease
        self._stale = False
        self._set_up(up=not self.refused)
        self._commands.send(self._check_reply, b"SCRIPT", b"LOAD", ACQUIRE)
        self._commands.send(
            self._check_reply, b"SET", lease, b"1", b"PX", self._lease_ms
        )
        self._commands.send(self._check_reply, b"DEL", self._leases + old)
        self._unregistered = iter(list(self._local_devices))
        self._register_more(None)

    def _register_more(self, reply: Any) -> None:
        """The next batch, after Redis' answer to the last."""
        self._check_reply(reply)
        some = list(islice(self._unregistered, BATCH))
        if some and not isinstance(reply, Exception):
            self._register(some, self._register_more)

    def _register(self, users: Iterable[str], last: ReplyCallback) -> None:
        """Put the places of these users' devices down as held; `last` ends it."""
        here = [user_id for user_id in users if user_id in self._local_devices]
        for number, user_id in enumerate(here, 1):
            key = redis_key(self._devices, user_id)
            members = [self._member(one) for one in self._local_devices[user_id]]
            callback = last if number == len(here) else self._check_reply
            self._commands.send(self._check_reply, b"SADD", key, *members)
            self._commands.send(callback, b"EXPIRE", key, FORGOTTEN_AFTER_S)

    def _touching(self, count: int) -> list[str]:
        """The next users in a round over all who are here."""
        some = list(islice(self._round, count))
        if len(some) < count:
            self._round = iter(list(self._local_devices))
        return some

    async def _acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        try:
            return await self._run_acquire(user_id, connection_id, session_id)
        except RedisUnavailable as exc:
            self._check_reply(exc)
            return AcquireResult.GRANTED
        except hiredis.ReplyError as exc:
            self._check_reply(exc)
        if session_id is None:
            return AcquireResult.GRANTED
        # The bar alone needs one right less, and no memory.
        barred = await self._call_or_false(
            b"EXISTS", redis_key(self._revoked, session_id)
        )
        return AcquireResult.REVOKED if barred == 1 else AcquireResult.GRANTED

    async def _run_acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Raises `RedisUnavailable` or `hiredis.ReplyError`."""
        arguments: tuple[bytes | int, ...] = (
            1,
            redis_key(self._devices, user_id),
            self._leases,
            self._member(connection_id),
            self._live.current.limits.devices_per_user,
            b"" if session_id is None else redis_key(self._revoked, session_id),
            FORGOTTEN_AFTER_S,
        )
        return await run_acquire(self._commands, arguments)

    async def _call_or_false(self, *args: bytes | int) -> Any:
        """Redis' reply; False when there is none to be had."""
        try:
            return await self._commands.call(*args)
        except (RedisUnavailable, hiredis.ReplyError) as exc:
            self._check_reply(exc)
            return False

    def _check_reply(self, reply: Any) -> None:
        """After a failure nobody knows what Redis holds: the next era does."""
        if isinstance(reply, hiredis.ReplyError):
            if not self.refused:
                self._check_due.set()
            self._refusals += 1
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

    def _member(self, connection_id: str) -> bytes:
        return redis_key(self._lease + b":", connection_id)

    def _new_lease(self) -> bytes:
        return b"%016x" % self._rng.getrandbits(64)
