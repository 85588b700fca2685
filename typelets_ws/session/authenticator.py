"""Authenticates devices: token, slot, subscription, then attachment to the hub.

Invariant: a device is attached only with a valid token, one of its user's slots and the
user's subscription. It is attached in the loop iteration in which `auth_success` is
queued, so every event published after that reaches it. Tested by
tests/unit/session/test_authenticator.py.
"""

from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from ..delivery.hub import Device
from ..delivery.revocations import RevokedSessions
from ..ports import (
    AcquireResult,
    Clerk,
    Clock,
    Identity,
    LimitsUnavailableError,
    TokenError,
    TokenRejectReason,
)
from ..protocol import client_messages, messages, replies
from ..protocol.errors import TOO_MANY_DEVICES, ClientError, CloseCode, Code, Disconnect
from ..telemetry.telemetry import Telemetry
from . import signing
from .presence import Presence
from .session import Session
from .unavailable import limits_unavailable
from .user_rates import UserRates

__all__ = ["Authenticator"]

LIMITS_UNAVAILABLE: Final = "limits_unavailable"
INNOCENT = frozenset({
    TokenRejectReason.EXPIRED,
    TokenRejectReason.NOT_ACTIVE_YET,
    TokenRejectReason.ISSUED_IN_FUTURE,
    TokenRejectReason.KEYS_UNAVAILABLE,
    TokenRejectReason.REVOKED,
})  # fmt: skip
"""Rejections of tokens that Clerk may have issued to this client: the fault may be this
host's clock or key source, or the app still uses a revoked session. They do not count
against the address, which other clients share."""


@dataclass(slots=True)
class Authenticator:
    """Attaches devices with valid tokens and detaches them; see `ports`."""

    clerk: Clerk
    presence: Presence
    revoked: RevokedSessions
    nonces: signing.NonceRegistry
    rates: UserRates
    clock: Clock
    telemetry: Telemetry

    async def authenticate(
        self, device: Device, session: Session, message: client_messages.Auth
    ) -> bytes:
        """Verify an `auth` message and attach the device. Returns the answer.

        Raises `Disconnect` when the connection must end.
        """
        if message.token is None:
            raise ClientError(
                Code.INVALID_FIELD, "Missing token", request_id=message.requestId
            )
        try:
            identity = await self.clerk.verify(message.token)
            self._check_revoked(identity)
            if session.authenticated:
                await self._check_revoked_elsewhere(identity)
        except LimitsUnavailableError:
            raise limits_unavailable(message.requestId) from None
        except TokenError as rejection:
            return self._rejected(device, session, rejection, message)
        if session.authenticated:
            if not device.open:
                raise Disconnect(CloseCode.GOING_AWAY, "gone")
            return self._auth_success(session, identity, message)
        return await self._attach(device, session, identity, message)

    def detach(self, device: Device, session: Session) -> None:
        """Detach from the hub and release the slot."""
        self.presence.detach(session.user_id, device)

    async def _attach(
        self,
        device: Device,
        session: Session,
        identity: Identity,
        message: client_messages.Auth,
    ) -> bytes:
        user_id, connection_id = identity.user_id, session.connection_id
        try:
            acquired = await self.presence.acquire(
                user_id, connection_id, identity.session_id
            )
        except LimitsUnavailableError:
            raise self._unavailable(device, message) from None
        # No await from here on: no other task can change what is checked.
        attached = False
        try:
            self._check_acquired(acquired, device, identity, message)
            if not device.open:
                raise Disconnect(CloseCode.GOING_AWAY, "gone")
            answer = self._auth_success(session, identity, message)
            self.presence.attach(user_id, device)
            attached = True
            return answer
        except TokenError as rejection:
            return self._rejected(device, session, rejection, message)
        finally:
            if not attached:
                self.presence.abandon(user_id, connection_id, acquired)

    def _check_acquired(
        self,
        acquired: AcquireResult,
        device: Device,
        identity: Identity,
        message: client_messages.Auth,
    ) -> None:
        if acquired is AcquireResult.REVOKED:
            raise TokenError(TokenRejectReason.REVOKED, identity.user_id)
        # Revoked during `acquire`, or while Redis was unreachable.
        self._check_revoked(identity)
        if self.presence.is_full(identity.user_id, acquired):
            self.telemetry.metrics.authentications.labels("too_many_devices").inc()
            self.telemetry.log.warning(
                "too_many_devices",
                limit=self.presence.devices_per_user,
                **{**device.log_fields, "user": identity.user_id},
            )
            refusal = ClientError(
                Code.TOO_MANY_DEVICES, TOO_MANY_DEVICES, request_id=message.requestId
            )
            raise Disconnect(
                CloseCode.TOO_MANY,
                "too_many_devices",
                messages.encode(replies.error(refusal)),
            )

    def _unavailable(self, device: Device, message: client_messages.Auth) -> Disconnect:
        """The device comes back and asks again; the log line has its error's id."""
        error = limits_unavailable(message.requestId)
        self.telemetry.metrics.authentications.labels(LIMITS_UNAVAILABLE).inc()
        self.telemetry.log.warning(
            LIMITS_UNAVAILABLE, correlation_id=error.correlation_id, **device.log_fields
        )
        answer = messages.encode(replies.error(error))
        return Disconnect(CloseCode.TOO_SLOW, LIMITS_UNAVAILABLE, answer)

    def _check_revoked(self, identity: Identity) -> None:
        if self.revoked.is_revoked(identity.session_id, self.clock.monotonic()):
            raise TokenError(TokenRejectReason.REVOKED, identity.user_id)

    async def _check_revoked_elsewhere(self, identity: Identity) -> None:
        """Check Redis on a later `auth`; on the first, `SharedLimits.acquire` does."""
        if identity.session_id is None:
            return
        if await self.presence.is_revoked(identity.session_id):
            raise TokenError(TokenRejectReason.REVOKED, identity.user_id)
        # The event of the revocation may have arrived meanwhile.
        self._check_revoked(identity)

    def _auth_success(
        self, session: Session, identity: Identity, message: client_messages.Auth
    ) -> bytes:
        now_ms = self.clock.now_ms()
        secret = session.auth_succeeded(identity, message, self.nonces, now_ms)
        session.limit_user(self.rates, self.clock.monotonic())
        self.telemetry.metrics.authentications.labels("ok").inc()
        return messages.encode(
            messages.AuthSuccess(
                userId=identity.user_id,
                sessionSecret=secret,
                connectionId=session.connection_id,
                cursor=self.presence.cursor or UNSET,
                requestId=messages.echo(message),
            )
        )

    def _rejected(
        self,
        device: Device,
        session: Session,
        rejection: TokenError,
        message: client_messages.Auth,
    ) -> bytes:
        """Log the precise reason; the client gets one of two words."""
        self.telemetry.metrics.authentications.labels(rejection.reason).inc()
        # An honest client has an expired token after a pause.
        suspicious = not rejection.expired
        if rejection.reason not in INNOCENT:
            device.token_refused()
        if suspicious:
            self.telemetry.metrics.security_events.labels("auth_rejected").inc()
        fields = dict(device.log_fields)
        if rejection.user_id is not None:
            fields.setdefault("user", rejection.user_id)
        self.telemetry.log.warning(
            "auth_rejected", security=suspicious, reason=str(rejection.reason), **fields
        )
        return session.auth_failed(rejection, message)
