"""Verifies Clerk session tokens and returns their user and session (spec section 2).

Order of checks: shape, header, signature, then claims. No claim is read before the
signature is verified, so a forged expired token is rejected as forged. Claims that a
new token cannot fix are checked before expiry.

The algorithm is RS256, independent of the header. PyJWT verifies the signature and
reads keys. Its `decode` is used only when the fast path `tokens` is off: it parses the
header twice and each base64 character in Python, which takes longer than the RSA
arithmetic. tests/fastpaths/test_tokens.py compares both.

A token whose key is cached is verified without leaving the event loop. `keys` decides
which key applies and when new ones are fetched.
"""

import asyncio
from binascii import a2b_base64
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self, TypeVar

import jwt
import msgspec
from jwt import api_jws
from jwt.algorithms import RSAAlgorithm
from msgspec import UNSET, UnsetType

from ..config.model import AuthSettings
from ..fastpaths import ALL, FastPaths
from ..ports import Clock, Identity, TokenError, TokenRejectReason
from ..telemetry.telemetry import Telemetry
from .claims import Claims, signed_identity
from .jwks import http_fetch, jwks_source
from .keys import FetchedKeys, FixedKey, Keys

__all__ = ["Clerk"]

_LONGEST_TOKEN = 16_384
_SESSION_CATEGORIES = (UNSET, "cl_B7d4PD111AAA", "cl_I7d4PD111III")
"""Header `cat` of tokens that may be session tokens: none, Clerk's mark on session
tokens, and its mark that says nothing about the class. One key signs all classes."""
_TEMPLATE_CATEGORY = "cl_B7d4PD222AAA"
"""Clerk's mark on JWT-template tokens, made to be given to third parties."""
_T = TypeVar("_T")
_RS256 = RSAAlgorithm(RSAAlgorithm.SHA256)
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
"""From the URL's base64 to the other one (RFC 4648 section 5), which "!" is not of."""
_TAILS = (
    (None, b""), (b"", b""), (b"AQgw", b"=="), (b"AEIMQUYcgkosw048", b"=")
)  # fmt: skip
"""By length modulo 4: the last characters that leave no bit over, and the padding."""


class _Header(msgspec.Struct):
    """The fields of a JOSE header that are checked; Clerk adds others, such as
    `oiat`."""

    alg: str | UnsetType = UNSET
    kid: str | UnsetType = UNSET
    typ: str | UnsetType = UNSET
    cat: object = UNSET
    crit: object = UNSET
    b64: object = UNSET


class _Parts(NamedTuple):
    kid: str | None
    signed: bytes
    payload: bytes
    signature: bytes


class Clerk:
    """Verifies tokens. As an async context manager it keeps the keys fresh.

    `fetch` returns a JWK set in place of HTTP. Raises `ValueError` when
    `config.jwt_key` is set to something that is no RSA public key.
    """

    def __init__(
        self,
        config: AuthSettings,
        clock: Clock,
        telemetry: Telemetry,
        *,
        fetch: Callable[[], Awaitable[bytes]] | None = None,
        fast: FastPaths = ALL,
    ) -> None:
        self._config = config
        self._clock = clock
        self._telemetry = telemetry
        self._fetch = fetch
        self._parts = _parts if fast.tokens else library_parts
        self._group: asyncio.TaskGroup | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._keys = self._keys_for(config)

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._refreshing = self._group.create_task(self._keys.run())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        group, self._group = self._group, None
        assert group is not None
        assert self._refreshing is not None
        self._refreshing.cancel()
        # The body's exception is raised as it is, not wrapped in a group.
        await group.__aexit__(None, None, None)

    def reconfigure(self, config: AuthSettings) -> None:
        """Apply new settings from the next token on; open connections stay open.

        Keys are fetched again only when their source changed. Raises `ValueError` for
        a bad `jwt_key`; then all stays as it was.
        """
        if _source(config) != _source(self._config):
            self._keys = self._keys_for(config)
            if self._group is not None and self._refreshing is not None:
                self._refreshing.cancel()
                self._refreshing = self._group.create_task(self._keys.run())
        self._config = config

    async def verify(self, token: str) -> Identity:
        """Return the token's user and session. Raises only `TokenError`."""
        parts = self._parts(token, self._config)
        keys = self._keys
        try:
            _check_signature(parts, keys)
        except TokenError:
            if not await keys.renewed():
                raise
            _check_signature(parts, keys)
        claims = _decode(parts.payload, Claims, TokenRejectReason.BAD_CLAIM)
        now = self._clock.wall()
        identity = signed_identity(claims, self._config, now)
        self._telemetry.metrics.token_age.observe(now - identity.issued_at)
        return identity

    def _keys_for(self, config: AuthSettings) -> Keys:
        if config.jwt_key:
            return FixedKey(config.jwt_key)
        return FetchedKeys(
            self._fetch or http_fetch(*jwks_source(config), self._clock.monotonic),
            config,
            self._clock.monotonic,
            self._telemetry,
        )


def _source(config: AuthSettings) -> tuple[object, ...]:
    times = config.key_cache_s, config.key_refetch_s
    return config.jwt_key, *jwks_source(config), *times


def _parts(token: str, config: AuthSettings) -> _Parts:
    if len(token) > _LONGEST_TOKEN:
        raise TokenError(TokenRejectReason.MALFORMED)
    # Other characters become "?", which is not base64 either.
    text = token.encode("ascii", "replace")
    segments = text.translate(_STANDARD).split(b".", 3)
    if len(segments) != 3:
        raise TokenError(TokenRejectReason.MALFORMED)
    head, payload, signature = map(_unbase64, segments)
    kid = _kid(_decode(head, _Header, TokenRejectReason.MALFORMED), config)
    return _Parts(kid, text.rpartition(b".")[0], payload, signature)


def library_parts(token: str, config: AuthSettings) -> _Parts:
    """As `_parts`, by PyJWT; for when the fast path `tokens` is off."""
    if len(token) > _LONGEST_TOKEN:
        raise TokenError(TokenRejectReason.MALFORMED)
    try:
        decoded = api_jws.PyJWS().decode_complete(
            token, options={"verify_signature": False}
        )
    except jwt.InvalidTokenError:
        raise TokenError(TokenRejectReason.MALFORMED) from None
    header = _decode(
        msgspec.json.encode(decoded["header"]), _Header, TokenRejectReason.MALFORMED
    )
    signed = token.rpartition(".")[0].encode()
    kid = _kid(header, config)
    return _Parts(kid, signed, decoded["payload"], decoded["signature"])


def _unbase64(segment: bytes) -> bytes:
    """Decode canonical base64url; any other spelling is malformed."""
    lasts, padding = _TAILS[len(segment) % 4]
    if lasts is not None and segment[-1] not in lasts:
        raise TokenError(TokenRejectReason.MALFORMED)
    try:
        return a2b_base64(segment + padding, strict_mode=True)
    except ValueError:
        raise TokenError(TokenRejectReason.MALFORMED) from None


def _decode(raw: bytes, kind: type[_T], otherwise: TokenRejectReason) -> _T:
    try:
        # From text, as msgspec does not check the UTF-8 of what it skips.
        return msgspec.json.decode(raw.decode(), type=kind)
    except msgspec.ValidationError:
        raise TokenError(otherwise) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise TokenError(TokenRejectReason.MALFORMED) from None


def _kid(header: _Header, config: AuthSettings) -> str | None:
    if header.alg != "RS256":
        raise TokenError(TokenRejectReason.BAD_ALGORITHM)
    # Extensions that a verifier must know (RFC 7515, RFC 7797); this one knows none.
    if header.crit is not UNSET or header.b64 is not UNSET:
        raise TokenError(TokenRejectReason.MALFORMED)
    # at+jwt is an OAuth token that a user gave to another application.
    if header.typ is not UNSET and header.typ.upper() != "JWT":
        raise TokenError(TokenRejectReason.WRONG_CATEGORY)
    if header.cat not in (
        (*_SESSION_CATEGORIES, _TEMPLATE_CATEGORY)
        if config.accept_without_session
        else _SESSION_CATEGORIES
    ):
        raise TokenError(TokenRejectReason.WRONG_CATEGORY)
    return None if header.kid is UNSET else header.kid


def _check_signature(parts: _Parts, keys: Keys) -> None:
    for key in keys.find(parts.kid):
        if _RS256.verify(parts.signed, key, parts.signature):
            return
    raise TokenError(TokenRejectReason.BAD_SIGNATURE)
