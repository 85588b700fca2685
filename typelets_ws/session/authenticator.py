"""How a device gets in, and how it leaves.

Law: a device is attached only with a valid token, one of its user's places and
the user's subscription; and it is attached in the same turn of the loop in
which it is told `auth_success`, so whatever is published after that reaches it.

`_refcounts` counts, per user, the devices that are here or on their way in. The
subscription lives while the count does, so a device that leaves cannot take
away what another, half-way in, relies on.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import UNSET

from ..delivery.hub import Device, Hub
from ..delivery.recovery import Recovery
from ..delivery.revocations import RevokedSessions
from ..ports import (
    AcquireResult,
    Clerk,
    Identity,
    SharedLimits,
    Subscriptions,
    TokenRejected,
    TokenRejectReason,
)
from ..protocol import messages, replies
from ..protocol.errors import TOO_MANY_DEVICES, ClientError, CloseCode, Code, Disconnect
from ..telemetry.log import FilteringBoundLogger
from ..telemetry.metrics import Metrics
from . import signing
from .session import Session
from .user_rates import UserRates

__all__ = ["Authenticator"]

INNOCENT = frozenset({
    TokenRejectReason.EXPIRED,
    TokenRejectReason.NOT_ACTIVE_YET,
    TokenRejectReason.ISSUED_IN_FUTURE,
    TokenRejectReason.KEYS_UNAVAILABLE,
    TokenRejectReason.REVOKED,
})  # fmt: skip
"""Rejections of tokens that Clerk may well have issued to this client, by a clock or a
key server of ours, or for a session that its app has yet to give up. They do not shut
out its address: others behind the same address are served."""


@dataclass(slots=True)
class Authenticator:
    """The way in and out. Collaborators and settings are given; see `ports`."""

    clerk: Clerk
    hub: Hub
    recovery: Recovery
    subscriptions: Subscriptions
    shared: SharedLimits
    nonces: signing.NonceRegistry
    rates: UserRates
    revoked: RevokedSessions
    metrics: Metrics
    log: FilteringBoundLogger
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]
    devices_per_user: int
    _refcounts: Counter[str] = field(default_factory=Counter, init=False)

    async def authenticate(
        self, device: Device, session: Session, message: messages.Auth
    ) -> bytes:
        """Judge an `auth` message and attach the device. Returns the answer.

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
                await self._refuse_barred_elsewhere(identity)
        except TokenRejected as rejection:
            return self._rejected(device, session, rejection, message)
        if session.authenticated:
            if not device.open:
                raise Disconnect(CloseCode.GOING_AWAY, "gone")
            return self._auth_success(session, identity, message)
        return await self._attach(device, session, identity, message)

    def detach(self, device: Device, session: Session) -> None:
        """The device is gone: give its place back."""
        self.hub.detach(session.user_id, device)
        self.recovery.detach(session.user_id, device)
        self.shared.release(session.user_id, session.connection_id)
        self._unref(session.user_id)

    async def _attach(
        self,
        device: Device,
        session: Session,
        identity: Identity,
        message: messages.Auth,
    ) -> bytes:
        user_id = identity.user_id
        attached = False
        self._refcounts[user_id] += 1
        try:
            # Not at the same time: a session revoked meanwhile is either heard of or
            # found barred.
            await self.subscriptions.subscribe(user_id)
            acquired = await self.shared.acquire(
                user_id, session.connection_id, identity.session_id
            )
            # No await from here on: what was true a moment ago still is.
            try:
                self._check_acquired(acquired, device, identity, message)
                if not device.open:
                    raise Disconnect(CloseCode.GOING_AWAY, "gone")
                answer = self._auth_success(session, identity, message)
                self.hub.attach(user_id, device)
                self.recovery.attach(user_id, device)
                attached = True
            finally:
                if not attached and acquired is AcquireResult.GRANTED:
                    self.shared.release(user_id, session.connection_id)
            return answer
        except TokenRejected as rejection:
            return self._rejected(device, session, rejection, message)
        finally:
            if not attached:
                self._unref(user_id)

    def _check_acquired(
        self,
        acquired: AcquireResult,
        device: Device,
        identity: Identity,
        message: messages.Auth,
    ) -> None:
        if acquired is AcquireResult.REVOKED:
            raise TokenRejected(TokenRejectReason.REVOKED, identity.user_id)
        # Revoked while it was on its way in, or while Redis was away.
        self._check_revoked(identity)
        here = self.hub.count(identity.user_id)
        if acquired is AcquireResult.FULL or here >= self.devices_per_user:
            self.metrics.authentications.labels("too_many_devices").inc()
            self.log.warning(
                "too_many_devices",
                limit=self.devices_per_user,
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

    def _check_revoked(self, identity: Identity) -> None:
        if self.revoked.is_revoked(identity.session_id, self.monotonic()):
            raise TokenRejected(TokenRejectReason.REVOKED, identity.user_id)

    async def _refuse_barred_elsewhere(self, identity: Identity) -> None:
        """At a first `auth`, `SharedLimits.acquire` asks the same of Redis."""
        if identity.session_id is None:
            return
        if await self.shared.is_revoked(identity.session_id):
            raise TokenRejected(TokenRejectReason.REVOKED, identity.user_id)
        # Its own event may have come while Redis was asked.
        self._check_revoked(identity)

    def _auth_success(
        self, session: Session, identity: Identity, message: messages.Auth
    ) -> bytes:
        now_ms = self.now_ms()
        secret = session.auth_succeeded(identity, message, self.nonces, now_ms)
        session.limit_user(self.rates, self.monotonic())
        self.metrics.authentications.labels("ok").inc()
        return messages.encode(
            messages.AuthSuccess(
                userId=identity.user_id,
                sessionSecret=secret,
                connectionId=session.connection_id,
                cursor=self.recovery.cursor or UNSET,
                requestId=messages.echo(message),
            )
        )

    def _rejected(
        self,
        device: Device,
        session: Session,
        rejection: TokenRejected,
        message: messages.Auth,
    ) -> bytes:
        """The precise reason is for the log; the client is told one of two words."""
        self.metrics.authentications.labels(rejection.reason).inc()
        # An expired token is what an honest client has after a nap.
        suspicious = not rejection.expired
        if rejection.reason not in INNOCENT:
            device.token_refused()
        if suspicious:
            self.metrics.security_events.labels("auth_rejected").inc()
        fields = dict(device.log_fields)
        if rejection.user_id is not None:
            fields.setdefault("user", rejection.user_id)
        self.log.warning(
            "auth_rejected",
            security=suspicious,
            reason=str(rejection.reason),
            **fields,
        )
        return session.auth_failed(rejection, message)

    def _unref(self, user_id: str) -> None:
        self._refcounts[user_id] -= 1
        if not self._refcounts[user_id]:
            del self._refcounts[user_id]
            self.subscriptions.unsubscribe(user_id)
