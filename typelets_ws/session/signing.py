"""Signed messages: their signature, age and nonce (spec section 4). Pure.

An envelope is `{"payload","signature","timestamp","nonce"}`. The signature is the
base64 HMAC-SHA256 of `{"payload":P,"timestamp":T,"nonce":N}` as JavaScript's
`JSON.stringify` writes it; the key is the 64-character hex text of the session secret.
It is checked over the received bytes first, which is what known clients sign, and only
then over a re-serialisation.

Invariant: age, signature and nonce are checked in this order, cheapest first, so that a
forged message uses up no nonce. Tested by tests/unit/session/test_signing.py.
"""

import json
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final

import msgspec
from msgspec import Raw, Struct

from ..protocol.errors import SIGNATURE_REJECTED, ClientError, Code
from ..protocol.json_members import Charge, cost, free, has_surrogates, members
from .json_stringify import NotJsonError, json_stringify
from .nonces import (
    MAX_AGE_MS,
    NonceMemory,
    NonceRegistry,
    NonceVerdict,
    nonce_digest,
    nonce_ttl_ms,
)

__all__ = [
    "Envelope", "NonceMemory", "NonceRegistry", "NonceVerdict", "Secrets",
    "SignatureError", "SignatureVerdict", "check_age", "judge", "nonce_digest",
    "nonce_ttl_ms", "open_envelope", "session_secret", "verify",
]  # fmt: skip

WINDOW_MS: Final = 300_000
MAX_AHEAD_MS: Final = 60_000
GRACE_MS: Final = 600_000
_SIGNATURE_LENGTH: Final = 44  # 32 bytes in base64
_NOTHING: Final = Raw(b"")


class SignatureVerdict(StrEnum):
    """The verdict on a signed message: a label for metrics, a reason for the log."""

    OK = "ok"
    TOO_OLD = "too_old"
    AHEAD = "ahead"
    BAD_SIGNATURE = "bad_signature"
    REPLAYED = "replayed"
    NONCES_FULL = "nonces_full"


class SignatureError(ClientError):
    """A signed message that is not accepted; the client gets the `verdict`."""

    def __init__(self, verdict: SignatureVerdict, request_id: str | None) -> None:
        super().__init__(
            Code.SIGNATURE_REJECTED, SIGNATURE_REJECTED, request_id=request_id
        )
        self.verdict = verdict
        self.reason = str(verdict)


class UnsignedError(ClientError):
    """A plain message where signed ones are required."""

    reason = "unsigned"

    def __init__(self, request_id: str | None) -> None:
        super().__init__(
            Code.SIGNATURE_REJECTED, SIGNATURE_REJECTED, request_id=request_id
        )


class Envelope(Struct, frozen=True):
    """A signed message; `payload` and the two `raw_` fields are received bytes."""

    payload: Raw
    raw_timestamp: Raw
    raw_nonce: Raw
    signature: str
    timestamp: float
    nonce: str

    def __repr__(self) -> str:
        return "<Envelope>"  # a payload does not belong in a log


class _Wire(Struct):
    payload: Raw = _NOTHING
    signature: Raw = _NOTHING
    timestamp: Raw = _NOTHING
    nonce: Raw = _NOTHING


_wire: Final = msgspec.json.Decoder(_Wire)


def open_envelope(data: bytes, charge: Charge = free) -> Envelope | None:
    r"""Read an envelope from valid UTF-8; None: treat it as a plain message.

    None for text that lacks one of the four or has it of another type, and for text
    that is not JSON. A key spelled with escapes ("\u0073ignature") is not looked for:
    such a message is then an unsigned one and gets no more than an unsigned one gets.
    """
    if b'"signature"' not in data:
        return None
    try:
        wire = _wire.decode(data)
    except (msgspec.DecodeError, RecursionError):
        # msgspec refuses lone surrogates, which JavaScript writes and signs.
        if not has_surrogates(data):
            return None
        charge(cost(data))
        if (slow := _open_slowly(data)) is None:
            return None
        wire = slow
    timestamp = bytes(wire.timestamp)
    signature = _text(wire.signature)
    nonce = _text(wire.nonce)
    if not bytes(wire.payload) or signature is None or nonce is None:
        return None
    if timestamp[:1] not in _NUMBER_STARTS:
        return None
    return Envelope(
        wire.payload, wire.timestamp, wire.nonce, signature, float(timestamp), nonce
    )


_NUMBER_STARTS: Final = frozenset(b"%c" % c for c in b"-0123456789")


def _open_slowly(data: bytes) -> _Wire | None:
    try:
        found = members(data.decode())
    except (NotJsonError, UnicodeDecodeError):
        return None
    names = _Wire.__struct_fields__
    return _Wire(**{k: Raw(found[k].encode()) for k in names if k in found})


def _text(raw: Raw) -> str | None:
    """Read a JSON string; None when it is something else, or nothing."""
    literal = bytes(raw).decode()
    if not literal.startswith('"'):
        return None
    if "\\" not in literal:
        return literal[1:-1]
    text: str = json.loads(literal)
    return text


def verify(envelope: Envelope, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets signed the envelope.

    Takes each secret once, in order, over the received bytes, and all of them again
    over the re-serialisation if that reads differently. Constant-time compare.
    """
    if len(envelope.signature) != _SIGNATURE_LENGTH:
        return False
    # Other characters become "?", which is not base64.
    claimed = envelope.signature.encode("ascii", "replace")
    signed = b"".join((
        b'{"payload":', envelope.payload,
        b',"timestamp":', envelope.raw_timestamp,
        b',"nonce":', envelope.raw_nonce, b"}",
    ))  # fmt: skip
    tried = []
    for secret in secrets:
        if _signs(secret, signed, claimed):
            return True
        tried.append(secret)
    try:
        rewritten = json_stringify(signed.decode()).encode()
    except (NotJsonError, UnicodeDecodeError):
        return False
    return rewritten != signed and any(_signs(s, rewritten, claimed) for s in tried)


def _signs(secret: str, signed: bytes, claimed: bytes) -> bool:
    expected = b2a_base64(digest(secret.encode(), signed, "sha256"), newline=False)
    return compare_digest(expected, claimed)


def session_secret(token: str, user_id: str, now_ms: float) -> str:
    """The 64 hex characters that sign messages of a five-minute window (section 2)."""
    window = int(now_ms // WINDOW_MS) * WINDOW_MS
    return sha256(f"{token}:{user_id}:{window}".encode()).hexdigest()


class _Issued:
    """A token and the secret that was given out for it."""

    __slots__ = ("secret", "token", "user_id")

    def __init__(self, token: str, user_id: str, now_ms: int) -> None:
        self.token = token
        self.user_id = user_id
        self.secret = session_secret(token, user_id, now_ms)


class Secrets:
    """The secrets of one connection, all of one user.

    Accepted are the issued one; the previous one for 10 minutes, since what is on its
    way during a re-auth, and the re-auth itself, is signed with it; and, for clients
    that derive it themselves, the one of the timestamp's own five minutes, from either
    token.
    """

    __slots__ = ("_current", "_previous", "_replaced_at")

    def __init__(self) -> None:
        self._current: _Issued | None = None
        self._previous: _Issued | None = None
        self._replaced_at = 0

    def issue(self, token: str, user_id: str, now_ms: int) -> str:
        """Give out the secret for a token that was just accepted.

        The same secret again (clients send `auth` twice) replaces nothing.
        """
        new = _Issued(token, user_id, now_ms)
        if self._current is None or self._current.secret != new.secret:
            self._previous, self._current = self._current, new
            self._replaced_at = now_ms
        return new.secret

    def candidates(self, timestamp_ms: float, now_ms: int) -> Iterator[str]:
        """The accepted secrets, each once, the likeliest first.

        The timestamp must be finite; `judge` has then checked its age.
        """
        if self._previous and now_ms - self._replaced_at > GRACE_MS:
            self._previous = None
        issued = [one for one in (self._current, self._previous) if one]
        given = set()
        for one in issued:
            given.add(one.secret)
            yield one.secret
        for one in issued:
            derived = session_secret(one.token, one.user_id, timestamp_ms)
            if derived not in given:
                given.add(derived)
                yield derived


def check_age(timestamp_ms: float, now_ms: int) -> SignatureVerdict:
    """OK, TOO_OLD (over 300 s, or not a number) or AHEAD (over 60 s)."""
    age = now_ms - timestamp_ms
    if age < -MAX_AHEAD_MS:
        return SignatureVerdict.AHEAD
    # Written so that NaN, which compares false with everything, is refused.
    return SignatureVerdict.OK if age <= MAX_AGE_MS else SignatureVerdict.TOO_OLD


def judge(
    envelope: Envelope, secrets: Secrets, nonces: NonceMemory, now_ms: int
) -> SignatureVerdict:
    """Accept or refuse a signed message; OK uses up its nonce."""
    verdict = check_age(envelope.timestamp, now_ms)
    if verdict is not SignatureVerdict.OK:
        return verdict
    if not verify(envelope, secrets.candidates(envelope.timestamp, now_ms)):
        return SignatureVerdict.BAD_SIGNATURE
    claimed = nonces.claim(envelope.nonce, envelope.timestamp, now_ms)
    return _NONCE_VERDICTS[claimed]


_NONCE_VERDICTS: Final = {
    NonceVerdict.FRESH: SignatureVerdict.OK,
    NonceVerdict.USED: SignatureVerdict.REPLAYED,
    NonceVerdict.FULL: SignatureVerdict.NONCES_FULL,
}
