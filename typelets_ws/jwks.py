"""Clerk's JWK set: how it is fetched, and which of its keys may be used.

Laws: the server is Clerk's or the operator's, yet bounded: five seconds, 1 MB, 32
entries, numbers no longer than OpenSSL verifies with. The secret goes to the host it
was meant for and nowhere else. A set is what is usable of it; one odd entry does not
cost the others. (spec section 2)
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
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError

__all__ = ["LEAST_BITS", "KeySet", "KeysUnavailable", "http_fetch", "parse_keys"]

LEAST_BITS = 2048
"""The shortest modulus that is still safe (NIST SP 800-131A)."""
_TIMEOUT_S = 5.0
_BODY_BYTES = 1_048_576
_MOST_KEYS = 32
_LONGEST_NUMBER = 2731  # base64 of 16 384 bits, the most OpenSSL verifies with


class KeysUnavailable(Exception):
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

    by_kid: Mapping[str, RSAPublicKey]
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
            family = f"http_{answer.code // 100}xx"
            raise KeysUnavailable(family, f"HTTP {answer.code}") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise _unreachable(exc) from None

    return lambda: asyncio.to_thread(get)


def _unreachable(exc: Exception) -> KeysUnavailable:
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    reason = "timeout" if isinstance(cause, TimeoutError) else "unreachable"
    return KeysUnavailable(reason, type(cause).__name__)


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
