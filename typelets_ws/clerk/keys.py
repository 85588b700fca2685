"""The keys that may have signed a token: one PEM, or Clerk's JWK set over HTTP.

Invariants. Tokens from outside do not control how often Clerk is asked. One fetch runs
at a time. All tokens that fit no cached key force one fetch per ``key_refetch_s``: an
unknown ``kid``, or a bad signature, as Clerk rotates under the same ``kid``. While
fetching fails, old keys stay in use. `find` never waits.
(spec section 2; tests/unit/clerk/test_keys.py)
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ..config.model import AuthSettings
from ..ports import TokenError, TokenRejectReason
from ..telemetry.telemetry import Telemetry
from .jwks import LEAST_BITS, KeyFetchError, KeySet, parse_keys

__all__ = ["FetchedKeys", "FixedKey", "Keys", "retry_delay"]

_WAIT_S = 5.0
"""As long as a fetch may take; a name server may take longer, a device must not."""
_LONGEST_RETRY_S = 30.0


class Keys(Protocol):
    """A source of keys for tokens."""

    def find(self, kid: str | None) -> tuple[RSAPublicKey, ...]:
        """Return the keys for `kid`, without waiting. Raises `TokenError`."""

    async def renewed(self) -> bool:
        """Wait for newer keys; True when the token should be verified again."""

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""


class FixedKey:
    """A public key from the configuration: no network, any ``kid``.

    Raises `ValueError` for anything but an RSA public key of 2048 bits or more.
    """

    def __init__(self, pem: str) -> None:
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        # The error that was caught may quote the key; it is not passed on.
        if not isinstance(key, RSAPublicKey) or key.key_size < LEAST_BITS:
            raise ValueError(
                "auth.jwt_key: expected an RSA public key in PEM of at least 2048 "
                "bits (-----BEGIN PUBLIC KEY----- ...)"
            )
        self._keys = (key,)

    def find(self, _kid: str | None) -> tuple[RSAPublicKey, ...]:
        """Return the key."""
        return self._keys

    async def renewed(self) -> bool:
        """There is never another one."""
        return False

    async def run(self) -> None:
        """Nothing to do."""


class FetchedKeys:
    """Keys that `fetch` brings, kept fresh by `run`.

    `monotonic` in seconds. `fetch` returns a JWK set or raises, best a
    `KeyFetchError`; only one is ever under way.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        config: AuthSettings,
        monotonic: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._fetch = fetch
        self._config = config
        self._monotonic = monotonic
        self._telemetry = telemetry
        self._keys: KeySet | None = None
        self._stale_at = 0.0
        self._due = monotonic()
        self._forced_at: float | None = None
        self._failures = 0
        self._wanted = asyncio.Event()
        self._fetching = False
        # One per fetch: cancelling a waiter must not cancel the fetch.
        self._round = asyncio.Event()
        self._closed = False

    def find(self, kid: str | None) -> tuple[RSAPublicKey, ...]:
        """Return the keys for `kid`, without waiting. Raises `TokenError`."""
        if self._keys is None:
            raise TokenError(TokenRejectReason.KEYS_UNAVAILABLE)
        # Never a search through the others: the kid says which.
        found: tuple[RSAPublicKey, ...] = ()
        if kid is not None:
            found = self._keys.by_kid.get(kid, ())
        elif self._keys.only is not None:
            found = (self._keys.only,)
        if not found:
            raise TokenError(TokenRejectReason.UNKNOWN_KEY)
        return found

    async def renewed(self) -> bool:
        """Wait for the fetch under way, or for a forced one where that is allowed.

        Without any keys yet it waits for the next try. Five seconds at most.
        """
        if self._closed or not (self._keys is None or self._coming() or self._force()):
            return False
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._round.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Fetch when keys grow old or are asked for, until cancelled."""
        try:
            while True:
                await self._until_due()
                await self._fetch_once()
        finally:
            self._closed = True
            self._round.set()

    def _coming(self) -> bool:
        return self._fetching or self._wanted.is_set()

    def _force(self) -> bool:
        now = self._monotonic()
        if (
            self._forced_at is not None
            and now - self._forced_at < self._config.key_refetch_s
        ):
            return False
        self._forced_at = now
        self._wanted.set()
        return True

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._due - self._monotonic())):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _fetch_once(self) -> None:
        self._fetching = True
        self._wanted.clear()
        try:
            body = await self._fetch()
            self._took(await asyncio.to_thread(parse_keys, body))
        except KeyFetchError as failure:
            self._failed(failure.reason, failure.error)
        except Exception as exc:
            # After any error the next attempt must follow. Its text may hold an address
            # with credentials, its type cannot.
            self._failed("error", type(exc).__name__)
        finally:
            self._fetching = False
            done, self._round = self._round, asyncio.Event()
            done.set()

    def _took(self, keys: KeySet) -> None:
        self._keys = keys
        self._failures = 0
        self._due = self._stale_at = self._monotonic() + self._config.key_cache_s
        self._telemetry.metrics.key_fetches.labels("ok").inc()
        self._telemetry.log.info("keys_fetched", kids=len(keys.by_kid))

    def _failed(self, reason: str, error: str = "") -> None:
        self._failures += 1
        retry_at = self._monotonic() + retry_delay(self._failures)
        # While keys are fresh, a forced fetch that failed asks for no others.
        self._due = max(retry_at, self._stale_at)
        self._telemetry.metrics.key_fetches.labels(reason).inc()
        self._telemetry.log.warning(
            "key_fetch_failed",
            reason=reason,
            error=error,
            failures=self._failures,
            serving_old_keys=self._keys is not None,
        )


def retry_delay(failures: int) -> float:
    """Seconds until the next try after so many failures in a row: 1, 2, 4 ... 30."""
    return min(_LONGEST_RETRY_S, 2.0 ** min(failures - 1, 10))
