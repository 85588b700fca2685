"""Whether a Clerk session token holds, and for whom it speaks (spec section 2).

Order of judgement: shape, header, signature, then claims; nothing a forger wrote is
looked at before the signature, so a forged expired token is not told that it is
expired. Among the claims what no fresh token would cure comes first, time last.

The algorithm is RS256 whatever the header says. PyJWT verifies the signature and
reads keys. Its `decode` is not used: it takes apart the header a second time and
looks at each base64 character in Python, which costs more than the RSA arithmetic.
The tests hold that no signature passes here that PyJWT's own `decode` would refuse.

A token whose key is at hand is judged without giving up the event loop. Which key,
and when new ones are fetched: `keys`.
"""

import asyncio
from binascii import a2b_base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Annotated, NamedTuple, Self, TypeVar

import msgspec
from jwt.algorithms import RSAAlgorithm
from msgspec import UNSET, Meta, UnsetType
from structlog.typing import FilteringBoundLogger

from .config import Auth
from .jwks import http_fetch
from .keys import FetchedKeys, FixedKey, Keys
from .metrics import Metrics
from .ports import Identity, RejectReason, TokenRejected

__all__ = ["Clerk"]

_LONGEST_TOKEN = 16_384
_LONGEST_ID = 256
_MACHINE = "cl_B7d4PD333AAA"
"""Clerk's mark on machine-to-machine tokens, signed by the same key (its SDK)."""
_MACHINE_ID = "mch_"
"""How a machine's id begins; such a token may bear no category of its own."""
_Seconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Since the epoch, up to the year 9999; beyond it a date is no date."""
_T = TypeVar("_T")
_RS256 = RSAAlgorithm(RSAAlgorithm.SHA256)
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
"""From the URL's base64 to the other one (RFC 4648 section 5), which "!" is not of."""
_TAILS = (
    (None, b""), (b"", b""), (b"AQgw", b"=="), (b"AEIMQUYcgkosw048", b"=")
)  # fmt: skip
"""By length modulo 4: the last characters that leave no bit over, and the padding."""


class _Header(msgspec.Struct):
    """What of a JOSE header matters here; Clerk adds others, `oiat` for one."""

    alg: str | UnsetType = UNSET
    kid: str | UnsetType = UNSET
    typ: str | UnsetType = UNSET
    cat: object = UNSET
    crit: object = UNSET
    b64: object = UNSET


class _Claims(msgspec.Struct):
    """The claims looked at; as floats msgspec takes finite numbers only, no bool."""

    exp: _Seconds | UnsetType = UNSET
    iat: _Seconds | UnsetType = UNSET
    nbf: _Seconds | UnsetType = UNSET
    sub: object = UNSET
    iss: object = UNSET
    azp: object = UNSET
    sid: object = UNSET


class _Parts(NamedTuple):
    kid: str | None
    signed: bytes
    payload: bytes
    signature: bytes


class Clerk:
    """Judges tokens. Use as an async context manager: it keeps the keys fresh.

    `now` is the wall clock, `monotonic` a clock that is never set back, both in
    seconds. `fetch` brings a JWK set in place of HTTP. Raises `ValueError` when
    `config.jwt_key` is set to something that is no RSA public key.
    """

    def __init__(
        self,
        config: Auth,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        metrics: Metrics,
        log: FilteringBoundLogger,
        fetch: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        self._config = config
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._log = log
        self._fetch = fetch
        self._group: asyncio.TaskGroup | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._keys = self._keys_for(config)

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._refreshing = self._group.create_task(self._keys.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        group, self._group = self._group, None
        assert group is not None
        assert self._refreshing is not None
        self._refreshing.cancel()
        # What the body raised goes on as it is, not wrapped in a group.
        await group.__aexit__(None, None, None)

    def reconfigure(self, config: Auth) -> None:
        """Go by other settings from the next token on; no connection is touched.

        Keys are fetched anew only when their source changed. Raises `ValueError` for
        a bad `jwt_key`; then all stays as it was.
        """
        if _source(config) != _source(self._config):
            self._keys = self._keys_for(config)
            if self._group is not None and self._refreshing is not None:
                self._refreshing.cancel()
                self._refreshing = self._group.create_task(self._keys.run())
        self._config = config

    async def verify(self, token: str) -> Identity:
        """Return whom the token speaks for. Raises `TokenRejected`, nothing else."""
        parts = _parts(token)
        keys = self._keys
        try:
            _check_signature(parts, keys)
        except TokenRejected:
            if not await keys.renewed():
                raise
            _check_signature(parts, keys)
        claims = _decode(parts.payload, _Claims, RejectReason.BAD_CLAIM)
        now = self._now()
        identity = _signed_identity(claims, self._config, now)
        self._metrics.token_age.observe(now - identity.issued_at)
        return identity

    def _keys_for(self, config: Auth) -> Keys:
        if config.jwt_key:
            return FixedKey(config.jwt_key)
        # The secret is for Clerk's Backend API and nobody else.
        url, secret = config.jwks_url, ""
        if not url:
            url, secret = config.api_url.rstrip("/") + "/jwks", config.secret_key
        return FetchedKeys(
            self._fetch or http_fetch(url, secret, self._monotonic),
            cache_s=config.key_cache_s,
            refetch_s=config.key_refetch_s,
            monotonic=self._monotonic,
            metrics=self._metrics,
            log=self._log,
        )


def _source(config: Auth) -> tuple[object, ...]:
    return (
        config.jwt_key,
        config.jwks_url,
        config.api_url,
        config.secret_key,
        config.key_cache_s,
        config.key_refetch_s,
    )


def _parts(token: str) -> _Parts:
    if len(token) > _LONGEST_TOKEN:
        raise TokenRejected(RejectReason.MALFORMED)
    # What is not ASCII becomes "?", which base64 does not have either.
    text = token.encode("ascii", "replace")
    segments = text.translate(_STANDARD).split(b".", 3)
    if len(segments) != 3:
        raise TokenRejected(RejectReason.MALFORMED)
    head, payload, signature = map(_unbase64, segments)
    kid = _kid(_decode(head, _Header, RejectReason.MALFORMED))
    return _Parts(kid, text.rpartition(b".")[0], payload, signature)


def _unbase64(segment: bytes) -> bytes:
    """There is one spelling of each token, and any other is none."""
    lasts, padding = _TAILS[len(segment) % 4]
    if lasts is not None and segment[-1] not in lasts:
        raise TokenRejected(RejectReason.MALFORMED)
    try:
        return a2b_base64(segment + padding, strict_mode=True)
    except ValueError:
        raise TokenRejected(RejectReason.MALFORMED) from None


def _decode(raw: bytes, kind: type[_T], otherwise: RejectReason) -> _T:
    try:
        # From text, as msgspec does not check the UTF-8 of what it skips.
        return msgspec.json.decode(raw.decode(), type=kind)
    except msgspec.ValidationError:
        raise TokenRejected(otherwise) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise TokenRejected(RejectReason.MALFORMED) from None


def _kid(header: _Header) -> str | None:
    if header.alg != "RS256":
        raise TokenRejected(RejectReason.BAD_ALGORITHM)
    # Extensions that must be understood, and none is (RFC 7515, RFC 7797).
    if header.crit is not UNSET or header.b64 is not UNSET:
        raise TokenRejected(RejectReason.MALFORMED)
    # at+jwt is an OAuth token that a user gave to somebody else's application.
    if header.typ is not UNSET and header.typ.upper() != "JWT":
        raise TokenRejected(RejectReason.WRONG_CATEGORY)
    if header.cat == _MACHINE:
        raise TokenRejected(RejectReason.WRONG_CATEGORY)
    return None if header.kid is UNSET else header.kid


def _check_signature(parts: _Parts, keys: Keys) -> None:
    key = keys.find(parts.kid)
    if not _RS256.verify(parts.signed, key, parts.signature):
        raise TokenRejected(RejectReason.BAD_SIGNATURE)


def _signed_identity(claims: _Claims, config: Auth, now: float) -> Identity:
    """Judge the claims of a good signature; a rejection names the user, if it can."""
    try:
        return _identity(claims, config, now)
    except TokenRejected as rejected:
        with suppress(TokenRejected):
            rejected.user_id = _user_id(claims.sub)
        raise


def _identity(claims: _Claims, config: Auth, now: float) -> Identity:
    exp, iat, nbf = claims.exp, claims.iat, claims.nbf
    if exp is UNSET or iat is UNSET or nbf is UNSET or claims.sub is UNSET:
        raise TokenRejected(RejectReason.MISSING_CLAIM)
    user_id = _user_id(claims.sub)
    session_id = _session_id(claims.sid)
    _check_origin(claims, config)
    if exp <= now - config.leeway_s:
        raise TokenRejected(RejectReason.EXPIRED)
    if nbf > now + config.leeway_s:
        raise TokenRejected(RejectReason.NOT_ACTIVE_YET)
    if iat > now + config.leeway_s:
        raise TokenRejected(RejectReason.ISSUED_IN_FUTURE)
    return Identity(user_id, session_id, iat, exp)


def _user_id(sub: object) -> str:
    user_id = _plain_name(sub, RejectReason.BAD_SUBJECT)
    if user_id.startswith(_MACHINE_ID):
        raise TokenRejected(RejectReason.WRONG_CATEGORY)
    return user_id


def _session_id(sid: object) -> str | None:
    return None if sid is UNSET else _plain_name(sid, RejectReason.BAD_CLAIM)


def _plain_name(value: object, otherwise: RejectReason) -> str:
    # It becomes part of channel names, keys and log lines.
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        raise TokenRejected(otherwise)
    if not value.isprintable() or " " in value:
        raise TokenRejected(otherwise)
    return value


def _check_origin(claims: _Claims, config: Auth) -> None:
    if config.issuer and claims.iss != config.issuer:
        raise TokenRejected(RejectReason.WRONG_ISSUER)
    if config.authorized_parties and claims.azp not in config.authorized_parties:
        raise TokenRejected(RejectReason.WRONG_PARTY)
