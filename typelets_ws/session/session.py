"""The state machine of one client: which messages are accepted, and their cost. Pure.

A session is `CONNECTED` until its first valid token, `AUTHENTICATED` from then on, and
`CLOSED` at its end. Each message passes `count` (size and rate; refused messages count
too) and then `accept` (envelope, signature, decoding, and the types that this state
allows). A `ClientError` keeps the connection open, a `Disconnect` closes it. `count`
returns them, `accept` raises them.
Nothing here does I/O or reads a clock: times are arguments, `now_ms` in ms since the
epoch and `now` in seconds on the monotonic clock.

The user never changes: a valid token of another user ends the session (section 2).
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil
from typing import Final

from ..config.live import LiveConfig
from ..config.model import Limits
from ..ports import Identity, TokenError, TokenRejectReason
from ..protocol import decoding, replies
from ..protocol.client_messages import Auth, ClientMessage, Ping
from ..protocol.errors import (
    AUTH_REQUIRED,
    MESSAGE_TOO_LARGE,
    RATE_LIMITED,
    ClientError,
    CloseCode,
    Code,
    Disconnect,
)
from . import signing
from .rate_limit import ByteWindow, RateVerdict, SlidingWindow
from .user_rates import RateOfAddress, UserRate, UserRates

__all__ = ["Received", "Session", "State"]

FAILED_TRIES: Final = 3
FEW_MESSAGES: Final = 3
"""Of a connection without a user that do not count for its address: honest ones."""
SMALL_BYTES: Final = 4_096
"""Smaller messages do not count in bytes: the flood limit lets 4 MB of them through."""
FORGED_BYTES: Final = 5_000
"""A bad signature over so many bytes counts as one more message: 0.1 ms at worst."""


class State(Enum):
    """The state of a session."""

    CONNECTED = auto()
    AUTHENTICATED = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Received:
    """A message that may be handled; `envelope` when it came signed."""

    message: ClientMessage
    envelope: signing.Envelope | None = None


class Session:
    """The state of one client."""

    __slots__ = (
        "_address_rate",
        "_bytes",
        "_failed_tries",
        "_limits",
        "_live",
        "_nonces",
        "_rates",
        "_registry",
        "_secrets",
        "_user_rate",
        "_window",
        "connection_id",
        "session_id",
        "state",
        "user_id",
    )

    def __init__(self, connection_id: str, live: LiveConfig) -> None:
        self.connection_id = connection_id
        self.state = State.CONNECTED
        self.user_id = ""
        self.session_id: str | None = None
        self._live = live
        self._limits = live.current.limits
        self._window = _rate_window(self._limits)
        self._bytes: ByteWindow | None = None
        self._failed_tries = 0
        self._secrets: signing.Secrets | None = None
        self._registry: signing.NonceRegistry | None = None
        self._nonces: signing.NonceMemory | None = None
        self._address_rate: RateOfAddress | None = None
        self._rates: UserRates | None = None
        self._user_rate: UserRate | None = None

    def _after_reload(self, limits: Limits) -> None:
        """Count another rate afresh: the old count may be a flood by the new limit."""
        old, self._limits = self._limits, limits
        if _rates_of(old) != _rates_of(limits):
            self._window = _rate_window(limits)
            self._bytes = None
            self._user_rate = None

    @property
    def authenticated(self) -> bool:
        """True from the first valid token to the end."""
        return self.state is State.AUTHENTICATED

    def count(self, size: int, now: float) -> ClientError | Disconnect | None:
        """Count one message of `size` bytes; return why it is refused, if it is.

        `now` is monotonic, in seconds: no change of the system clock lets more in.
        Returned, not raised: an exception refers to frames, and those to the message.
        """
        limits = self._live.current.limits
        if limits is not self._limits:
            self._after_reload(limits)
        verdict = self._window.count(now)
        refusing: SlidingWindow | ByteWindow | UserRate = self._window
        if size > SMALL_BYTES:
            of_bytes = self._byte_window.count(size, now)
            if of_bytes > verdict:
                verdict, refusing = of_bytes, self._byte_window
        rate = self._user_rate or self._find_rate(now)
        if rate is not None:
            of_user = rate.count(now)
            if size > SMALL_BYTES:
                rate.charge(size * limits.rate_messages // limits.rate_bytes)
            if of_user > verdict:
                verdict, refusing = of_user, rate
        if verdict is not RateVerdict.SERVED:
            return self._refusal(verdict, refusing, now)
        if size > limits.message_bytes:
            return ClientError(Code.MESSAGE_TOO_LARGE, MESSAGE_TOO_LARGE)
        return None

    def _refusal(
        self,
        verdict: RateVerdict,
        refusing: SlidingWindow | ByteWindow | UserRate,
        now: float,
    ) -> ClientError | Disconnect:
        if verdict is RateVerdict.FLOOD:
            if self._rates is not None and not isinstance(refusing, UserRate):
                self._rates.remember_flood(self.user_id, self._window, now)
            return Disconnect(CloseCode.TOO_MANY, "flood")
        retry = ceil(refusing.retry_after(now) * 1000)
        return ClientError(Code.RATE_LIMITED, RATE_LIMITED, retry_after_ms=retry)

    def _find_rate(self, now: float) -> UserRate | None:
        """The user's count or the address's, once one is needed: most only listen."""
        if self._rates is not None:
            self._user_rate = self._rates.of(self.user_id, now)
        elif self._address_rate is not None and self._window.served > FEW_MESSAGES:
            self._user_rate = self._address_rate(now)
        return self._user_rate

    @property
    def _byte_window(self) -> ByteWindow:
        if self._bytes is None:
            limits = self._limits
            self._bytes = ByteWindow(limits.rate_bytes, limits.rate_window_ms / 1000)
        return self._bytes

    def charge(self, units: int) -> None:
        """Count an expensive message as so many more (spec section 5)."""
        if units:
            self._window.charge(units)
            if self._user_rate is not None:
                self._user_rate.charge(units)

    def accept(self, data: bytes, now_ms: int) -> Received:
        """Open, verify and decode one message of valid UTF-8. Raises `ClientError`."""
        envelope = signing.open_envelope(data, self.charge)
        if envelope is None:
            message = decoding.decode(data, self.charge)
            self._check_allowed(message, signed=False)
            return Received(message)
        if not self.authenticated:
            return Received(self._auth_in_envelope(envelope))
        self._verify(envelope, len(data), now_ms)
        message = decoding.decode(bytes(envelope.payload), self.charge)
        self._check_allowed(message, signed=True)
        return Received(message, envelope)

    def _check_allowed(self, message: ClientMessage, *, signed: bool) -> None:
        if not self.authenticated:
            if not isinstance(message, (Auth, Ping)):
                raise ClientError(
                    Code.AUTH_REQUIRED, AUTH_REQUIRED, request_id=message.requestId
                )
        elif (
            not signed
            and self._live.current.messages.require_signed_messages
            and not isinstance(message, Ping)
        ):
            raise signing.UnsignedError(message.requestId)

    def _auth_in_envelope(self, envelope: signing.Envelope) -> Auth:
        """After a drop the web client signs its `auth` with a secret long gone.

        The token alone decides (field-notes, client trap 4).
        """
        try:
            message = decoding.decode(bytes(envelope.payload), self.charge)
        except ClientError as refusal:
            request_id = refusal.request_id
        else:
            if isinstance(message, Auth):
                return message
            request_id = message.requestId
        raise ClientError(Code.AUTH_REQUIRED, AUTH_REQUIRED, request_id=request_id)

    def _verify(self, envelope: signing.Envelope, size: int, now_ms: int) -> None:
        if self._secrets is None or self._registry is None:
            raise AssertionError("authenticated without a secret")
        if self._nonces is None:
            # Not before it is needed: most devices never sign anything.
            self._nonces = self._registry.of(self.user_id, now_ms)
        verdict = signing.judge(envelope, self._secrets, self._nonces, now_ms)
        if verdict is not signing.SignatureVerdict.OK:
            if verdict is signing.SignatureVerdict.BAD_SIGNATURE:
                self.charge(size // FORGED_BYTES)
            request_id = decoding.request_id(bytes(envelope.payload))
            raise signing.SignatureError(verdict, request_id)

    def auth_succeeded(
        self,
        identity: Identity,
        message: Auth,
        registry: signing.NonceRegistry,
        now_ms: int,
    ) -> str:
        """Become, or stay, authenticated. Returns the session secret.

        Raises `Disconnect` for a token of another user.
        """
        if self.authenticated and identity.user_id != self.user_id:
            self.state = State.CLOSED
            raise Disconnect(
                CloseCode.UNAUTHENTICATED,
                "other_user",
                replies.auth_failed(message, expired=False),
            )
        if self._secrets is None:
            self._secrets = signing.Secrets()
        self.state = State.AUTHENTICATED
        self.user_id = identity.user_id
        self.session_id = identity.session_id
        self._registry = registry
        self._failed_tries = 0
        return self._secrets.issue(message.token or "", identity.user_id, now_ms)

    def limit_address(self, rate: RateOfAddress) -> None:
        """Count what comes before a user is known for the address as well."""
        self._address_rate = rate

    def limit_user(self, rates: UserRates, now: float) -> None:
        """Count what comes from now on for the user as well.

        A connection that was closed for a flood leaves its window to this one.
        """
        if self._rates is None:
            self._rates = rates
            self._address_rate = self._user_rate = None
            self._window = rates.flood_of(self.user_id, now) or self._window

    def auth_failed(self, rejection: TokenError, message: Auth) -> bytes:
        """Return the answer to a failed `auth`. Raises `Disconnect` when it is final.

        An expired token may be replaced on the same socket, and a failed re-auth
        leaves the connection as it was; both at most three times in a row.
        """
        self._failed_tries += 1
        answer = replies.auth_failed(message, expired=rejection.expired)
        patient = self.authenticated or rejection.expired
        revoked = rejection.reason is TokenRejectReason.REVOKED
        if not patient or revoked or self._failed_tries >= FAILED_TRIES:
            self.state = State.CLOSED
            raise Disconnect(CloseCode.UNAUTHENTICATED, "auth_failed", answer)
        return answer

    def close(self) -> None:
        """Accept no more messages."""
        self.state = State.CLOSED


def _rates_of(limits: Limits) -> tuple[int, int, int]:
    return limits.rate_messages, limits.rate_bytes, limits.rate_window_ms


def _rate_window(limits: Limits) -> SlidingWindow:
    return SlidingWindow(limits.rate_messages, limits.rate_window_ms / 1000)
