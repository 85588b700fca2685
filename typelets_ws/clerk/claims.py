"""Checks the claims of a signed token and makes an identity (spec section 2). Pure.

Invariants. Times are checked last, so that ``expired`` always means that a fresh token
helps. A rejection names the user if the subject is valid, since the signature was.
Tested by tests/unit/clerk/test_tokens.py.
"""

from contextlib import suppress
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..config.model import AuthSettings
from ..ports import Identity, TokenError, TokenRejectReason

__all__ = ["Claims", "signed_identity"]

_LONGEST_ID = 256
_MACHINE_ID = "mch_"
"""How a machine's id begins; such a token may bear no category of its own."""
_Seconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Since the epoch, up to the year 9999; the last that a date can hold."""


class Claims(msgspec.Struct):
    """The claims looked at; as floats msgspec takes finite numbers only, no bool."""

    exp: _Seconds | UnsetType = UNSET
    iat: _Seconds | UnsetType = UNSET
    nbf: _Seconds | UnsetType = UNSET
    sub: object = UNSET
    iss: object = UNSET
    azp: object = UNSET
    sid: object = UNSET
    sts: object = UNSET


def signed_identity(claims: Claims, config: AuthSettings, now: float) -> Identity:
    """Return the identity in signed claims. Raises `TokenError` with the user."""
    try:
        return _identity(claims, config, now)
    except TokenError as rejected:
        with suppress(TokenError):
            rejected.user_id = _user_id(claims.sub)
        raise


def _identity(claims: Claims, config: AuthSettings, now: float) -> Identity:
    exp, iat, nbf = claims.exp, claims.iat, claims.nbf
    if exp is UNSET or iat is UNSET or nbf is UNSET or claims.sub is UNSET:
        raise TokenError(TokenRejectReason.MISSING_CLAIM)
    user_id = _user_id(claims.sub)
    session_id = _session_id(claims.sid, required=not config.accept_without_session)
    if claims.sts == "pending" and not config.accept_pending:
        raise TokenError(TokenRejectReason.PENDING)
    _check_origin(claims, config)
    if exp <= now - config.leeway_s:
        raise TokenError(TokenRejectReason.EXPIRED)
    if nbf > now + config.leeway_s:
        raise TokenError(TokenRejectReason.NOT_ACTIVE_YET)
    if iat > now + config.leeway_s:
        raise TokenError(TokenRejectReason.ISSUED_IN_FUTURE)
    return Identity(user_id, session_id, iat)


def _user_id(sub: object) -> str:
    user_id = _plain_name(sub, TokenRejectReason.BAD_SUBJECT)
    if user_id.startswith(_MACHINE_ID):
        raise TokenError(TokenRejectReason.WRONG_CATEGORY)
    return user_id


def _session_id(sid: object, *, required: bool) -> str | None:
    if sid is not UNSET:
        return _plain_name(sid, TokenRejectReason.BAD_CLAIM)
    if required:
        # Nothing could revoke it.
        raise TokenError(TokenRejectReason.NO_SESSION)
    return None


def _plain_name(value: object, otherwise: TokenRejectReason) -> str:
    # It becomes part of channel names, keys and log lines.
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        raise TokenError(otherwise)
    if not value.isprintable() or " " in value:
        raise TokenError(otherwise)
    return value


def _check_origin(claims: Claims, config: AuthSettings) -> None:
    if config.issuer and claims.iss != config.issuer:
        raise TokenError(TokenRejectReason.WRONG_ISSUER)
    if config.authorized_parties and claims.azp not in config.authorized_parties:
        raise TokenError(TokenRejectReason.WRONG_PARTY)
