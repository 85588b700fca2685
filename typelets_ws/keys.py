"""Which keys may have signed a token: one PEM, or Clerk's JWK set over HTTP.

Laws: what strangers send never decides how often Clerk is asked. One fetch at a
time; a token that does not fit the keys at hand (unknown ``kid``, or a bad signature,
as Clerk rotates under the same ``kid``) forces one at most every ``key_refetch_s``,
all tokens together. Keys that were good stay in use while fetching fails: stale
beats down. `find` never waits, so that a token whose key is here costs no turn of
the event loop. (spec section 2)
"""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Protocol
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError
from structlog.typing import FilteringBoundLogger

from .metrics import Metrics
from .ports import RejectReason, TokenRejected

__all__ = [
    "FetchedKeys", "FixedKey", "KeySet", "Keys", "KeysUnavailable", "http_fetch",
    "parse_keys", "retry_delay",
]  # fmt: skip

_TIMEOUT_S = 5.0
_BODY_BYTES = 1_048_576
_MOST_KEYS = 32
_LEAST_BITS = 2048
_LONGEST_NUMBER = 2731  # base64 of 16 384 bits, the most OpenSSL verifies with
_LONGEST_RETRY_S = 30.0


class KeysUnavailable(Exception):
    """No keys this time; `reason` is one word for log and metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Keys(Protocol):
    """Where a token's key comes from."""

    def find(self, kid: str | None) -> RSAPublicKey:
        """Return the one key for `kid`, without waiting. Raises `TokenRejected`."""
        ...

    async def renewed(self) -> bool:
        """Wait for newer keys, if any may be had; True when it is worth a new look."""
        ...

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        ...


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
        if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_BITS:
            raise ValueError(
                "auth.jwt_key: expected an RSA public key in PEM of at least 2048 "
                "bits (-----BEGIN PUBLIC KEY----- ...)"
            )
        self._key = key

    def find(self, _kid: str | None) -> RSAPublicKey:
        """Return the key."""
        return self._key

    async def renewed(self) -> bool:
        """There is never another one."""
        return False

    async def run(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one JWK set; `only` when there is just one."""

    by_kid: Mapping[str, RSAPublicKey]
    only: RSAPublicKey | None


class FetchedKeys:
    """Keys that `fetch` brings, kept fresh by `run`.

    `monotonic` in seconds. `fetch` returns a JWK set or raises, best a
    `KeysUnavailable`; only one is ever under way.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        cache_s: float,
        refetch_s: float,
        monotonic: Callable[[], float],
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._fetch = fetch
        self._cache_s = cache_s
        self._refetch_s = refetch_s
        self._monotonic = monotonic
        self._metrics = metrics
        self._log = log
        self._keys: KeySet | None = None
        self._stale_at = 0.0
        self._due = monotonic()
        self._forced_at: float | None = None
        self._failures = 0
        self._wanted = asyncio.Event()
        self._fetching = False
        # One per fetch: whoever waits for it may be cancelled without harm to it.
        self._round = asyncio.Event()
        self._closed = False

    def find(self, kid: str | None) -> RSAPublicKey:
        """Return the one key for `kid`, without waiting. Raises `TokenRejected`."""
        if self._keys is None:
            raise TokenRejected(RejectReason.KEYS_UNAVAILABLE)
        # Never a search through the others: a known kid means one key.
        key = self._keys.only if kid is None else self._keys.by_kid.get(kid)
        if key is None:
            raise TokenRejected(RejectReason.UNKNOWN_KEY)
        return key

    async def renewed(self) -> bool:
        """Wait for the fetch under way, or for a forced one where that is allowed.

        Without any keys yet it waits for the next try. Five seconds at most.
        """
        if self._closed or not (self._keys is None or self._coming() or self._force()):
            return False
        try:
            async with asyncio.timeout(_TIMEOUT_S):
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
        if self._forced_at is not None and now - self._forced_at < self._refetch_s:
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
        except KeysUnavailable as failure:
            self._failed(failure.reason)
        except Exception as exc:
            # Whatever it was, the next try must come. Its text may hold an address
            # with credentials, its type cannot.
            self._failed("error", type(exc).__name__)
        finally:
            self._fetching = False
            done, self._round = self._round, asyncio.Event()
            done.set()

    def _took(self, keys: KeySet) -> None:
        self._keys = keys
        self._failures = 0
        self._due = self._stale_at = self._monotonic() + self._cache_s
        self._metrics.key_fetches.labels("ok").inc()
        self._log.info("keys_fetched", kids=len(keys.by_kid))

    def _failed(self, reason: str, error: str = "") -> None:
        self._failures += 1
        retry_at = self._monotonic() + retry_delay(self._failures)
        # While keys are fresh, a forced fetch that failed asks for no others.
        self._due = max(retry_at, self._stale_at)
        self._metrics.key_fetches.labels(reason).inc()
        self._log.warning(
            "key_fetch_failed",
            reason=reason,
            error=error,
            failures=self._failures,
            serving_old_keys=self._keys is not None,
        )


def retry_delay(failures: int) -> float:
    """Seconds until the next try after so many failures in a row: 1, 2, 4 ... 30."""
    return min(_LONGEST_RETRY_S, 2.0 ** min(failures - 1, 10))


class _Jwk(msgspec.Struct):
    kty: str
    n: str
    e: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None


class _JwkSet(msgspec.Struct):
    keys: list[msgspec.Raw]


def parse_keys(body: bytes) -> KeySet:
    """Take the usable RSA keys out of a JWK set's first 32 entries.

    Raises `KeysUnavailable` when there is none.
    """
    try:
        entries = msgspec.json.decode(body.decode(), type=_JwkSet).keys[:_MOST_KEYS]
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise KeysUnavailable("junk") from None
    found = [pair for entry in entries if (pair := _usable(entry)) is not None]
    if not found:
        raise KeysUnavailable("no_keys")
    by_kid: dict[str, RSAPublicKey] = {}
    for kid, key in found:
        if kid is not None:
            by_kid.setdefault(kid, key)
    return KeySet(by_kid, found[0][1] if len(found) == 1 else None)


def _usable(entry: msgspec.Raw) -> tuple[str | None, RSAPublicKey] | None:
    # One odd entry (another algorithm, a newer format) must not cost the others.
    try:
        jwk = msgspec.json.decode(entry, type=_Jwk)
        if not _for_signatures(jwk):
            return None
        key = RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk.n, "e": jwk.e})
    except (msgspec.DecodeError, InvalidKeyError, ValueError, RecursionError):
        return None
    if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_BITS:
        return None
    return jwk.kid, key


def _for_signatures(jwk: _Jwk) -> bool:
    return (
        jwk.kty == "RSA"
        and jwk.use in {None, "sig"}
        and jwk.alg in {None, "RS256"}
        and len(jwk.n) <= _LONGEST_NUMBER
        and len(jwk.e) <= _LONGEST_NUMBER
    )


def http_fetch(
    url: str, secret: str, monotonic: Callable[[], float]
) -> Callable[[], Awaitable[bytes]]:
    """A fetch of `url` in a thread, with `secret` as bearer token unless empty.

    Five seconds and 1 MB at most; raises `KeysUnavailable`. The secret never goes to
    another host than the one it was meant for.
    """
    headers = {"Accept": "application/json", "User-Agent": "typelets-ws"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    opener = urllib.request.build_opener(_Redirects(same_origin=bool(secret)))

    def get() -> bytes:
        deadline = monotonic() + _TIMEOUT_S
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (config)
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as response:
                return _body(response, lambda: monotonic() > deadline)
        except urllib.error.HTTPError as answer:
            answer.close()
            raise KeysUnavailable(f"http_{answer.code // 100}xx") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise KeysUnavailable(_word(exc)) from None

    return lambda: asyncio.to_thread(get)


def _word(exc: Exception) -> str:
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    return "timeout" if isinstance(cause, TimeoutError) else "unreachable"


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def _body(response: _Readable, late: Callable[[], bool]) -> bytes:
    # The socket's timeout starts anew with every byte; `late` does not.
    body = bytearray()
    while chunk := response.read1(65_536):
        body += chunk
        if len(body) > _BODY_BYTES:
            raise KeysUnavailable("too_large")
        if late():
            raise KeysUnavailable("timeout")
    return bytes(body)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib takes the Authorization header along to wherever it is sent."""

    def __init__(self, *, same_origin: bool) -> None:
        self._same_origin = same_origin

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow, but not with the secret to strangers, nor from https to http."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        moved = (old.scheme, old.netloc) != (new.scheme, new.netloc)
        if (self._same_origin and moved) or new.scheme not in {"https", old.scheme}:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
