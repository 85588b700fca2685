"""Clerk's JWK set: how it is fetched, and which of its keys may be used.

Invariants. The server is Clerk's or the operator's, yet bounded: five seconds, 1 MB,
1,000 entries, 4 keys with one kid, numbers no longer than OpenSSL verifies with. The
secret goes to the host it was meant for and nowhere else. A set is what is usable of
it; one odd entry does not cost the others. (spec section 2)
Tested by tests/unit/clerk/test_jwks.py.
"""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
)
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from ..config.model import AuthSettings
from .happy_eyeballs import connect

__all__ = [
    "LEAST_BITS", "KeyFetchError", "KeySet", "http_fetch", "jwks_source", "parse_keys",
]  # fmt: skip

LEAST_BITS = 2048
"""The shortest modulus that is still safe (NIST SP 800-131A)."""
_TIMEOUT_S = 5.0
_BODY_BYTES = 1_048_576
_MAX_ENTRIES = 1_000
"""Rotation and several products give a dozen; 1,000 are read in 0.1 s, in a thread."""
_MAX_KEYS_PER_KID = 4
"""Each is tried, so a token with a bad signature costs at most this many."""
_LONGEST_NUMBER = 2731  # base64 of 16 384 bits, the most OpenSSL verifies with


class KeyFetchError(Exception):
    """No keys this time; `reason` is one word for log and metrics.

    `error` says more to the log: a status or the type of an exception, whose text may
    hold an address with credentials.
    """

    def __init__(self, reason: str, error: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one JWK set; `only` when there is just one."""

    by_kid: Mapping[str, tuple[RSAPublicKey, ...]]
    only: RSAPublicKey | None


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
    """Take the usable RSA keys out of a JWK set's first 1,000 entries.

    A byte order mark is passed over (RFC 8259 section 8.1). Keys with one kid are
    kept side by side: a kid is a hint, and Clerk rotates under the same one. Raises
    `KeyFetchError` when there is no usable key.
    """
    try:
        text = body.decode("utf-8-sig")
        entries = msgspec.json.decode(text, type=_JwkSet).keys[:_MAX_ENTRIES]
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise KeyFetchError("junk") from None
    found = [pair for entry in entries if (pair := _usable(entry)) is not None]
    if not found:
        raise KeyFetchError("no_keys")
    by_kid: dict[str, tuple[RSAPublicKey, ...]] = {}
    for kid, key in found:
        if kid is not None:
            same = by_kid.get(kid, ())
            by_kid[kid] = (*same, key)[:_MAX_KEYS_PER_KID]
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
    if not isinstance(key, RSAPublicKey) or key.key_size < LEAST_BITS:
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


def jwks_source(config: AuthSettings) -> tuple[str, str]:
    """Where the keys are, and the secret that asks for them.

    The secret goes to Clerk's Backend API only.
    """
    if config.jwks_url:
        return config.jwks_url, ""
    return config.api_url.rstrip("/") + "/jwks", config.secret_key


def http_fetch(
    url: str, secret: str, monotonic: Callable[[], float]
) -> Callable[[], Awaitable[bytes]]:
    """A fetch of `url` in a thread, with `secret` as bearer token unless empty.

    Five seconds and 1 MB at most; raises `KeyFetchError`. The secret never goes to
    another host than the one it was meant for.
    """
    headers = {"Accept": "application/json", "User-Agent": "typelets-ws"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    opener = urllib.request.build_opener(
        _Redirects(same_origin=bool(secret)), _Http(), _Https()
    )

    def get() -> bytes:
        deadline = monotonic() + _TIMEOUT_S
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (config)
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as response:
                return _body(response, lambda: monotonic() > deadline)
        except urllib.error.HTTPError as answer:
            answer.close()
            family = f"http_{answer.code // 100}xx"
            raise KeyFetchError(family, f"HTTP {answer.code}") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise _unreachable(exc) from None

    return lambda: asyncio.to_thread(get)


def _unreachable(exc: Exception) -> KeyFetchError:
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    reason = "timeout" if isinstance(cause, TimeoutError) else "unreachable"
    return KeyFetchError(reason, type(cause).__name__)


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def _body(response: _Readable, late: Callable[[], bool]) -> bytes:
    # The socket's timeout restarts with every byte; `late` does not.
    body = bytearray()
    while chunk := response.read1(65_536):
        body += chunk
        if len(body) > _BODY_BYTES:
            raise KeyFetchError("too_large")
        if late():
            raise KeyFetchError("timeout")
    return bytes(body)


class _HttpConnection(HTTPConnection):
    """Tries the addresses of a host name side by side."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _race_addresses(self)


class _HttpsConnection(HTTPSConnection):
    """The same over TLS."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _race_addresses(self)


def _race_addresses(connection: HTTPConnection) -> None:
    # The one private name used of http.client: overriding `connect` would lose the
    # tunnel through an HTTP proxy. Tested by test_dead_address_beside_a_good_one.
    vars(connection)["_create_connection"] = lambda address, timeout, *_: connect(
        address, timeout
    )


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """See `urllib.request.HTTPHandler`."""
        return self.do_open(_HttpConnection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        """See `urllib.request.HTTPSHandler`."""
        return self.do_open(_HttpsConnection, req)


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
        """Follow redirects, but not with the secret to another host, nor from https to
        http."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        moved = (old.scheme, old.netloc) != (new.scheme, new.netloc)
        if (self._same_origin and moved) or new.scheme not in {"https", old.scheme}:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
