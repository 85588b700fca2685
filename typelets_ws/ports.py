"""Contracts between sessions and adapters, with the values and errors they use.

Adapters in `clerk`, `postgres`, `bus` and `redis` fulfil them; `session` and `delivery`
know only these. tests/contract runs the same tests over adapters and fakes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

__all__ = [
    "AcquireResult", "Clerk", "Clock", "Conflict", "FieldChanges", "Health", "Identity",
    "LimitsUnavailableError", "Missing", "SharedLimits", "Store", "StoreError",
    "Subscriptions", "TokenError", "TokenRejectReason", "VersionedRow",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clock:
    """Both clocks, in seconds: `wall` since 1970, `monotonic` never goes back."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]

    def now_ms(self) -> int:
        """Wall clock, ms since 1970."""
        return int(self.wall() * 1000)


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and session of a token; `issued_at` in seconds since 1970."""

    user_id: str
    session_id: str | None
    issued_at: float


class TokenRejectReason(StrEnum):
    """Why a token is rejected: for log and metrics, never sent to the client."""

    EXPIRED = "expired"
    NOT_ACTIVE_YET = "not_active_yet"
    ISSUED_IN_FUTURE = "issued_in_future"
    BAD_SIGNATURE = "bad_signature"
    BAD_ALGORITHM = "bad_algorithm"
    MALFORMED = "malformed"
    MISSING_CLAIM = "missing_claim"
    BAD_CLAIM = "bad_claim"
    BAD_SUBJECT = "bad_subject"
    WRONG_ISSUER = "wrong_issuer"
    WRONG_PARTY = "wrong_party"
    WRONG_CATEGORY = "wrong_category"
    NO_SESSION = "no_session"
    PENDING = "session_pending"
    UNKNOWN_KEY = "unknown_key"
    KEYS_UNAVAILABLE = "keys_unavailable"
    REVOKED = "revoked"


class TokenError(Exception):
    """The token is rejected; the text holds nothing of it.

    `user_id` is set when the signature was good, so that the log may name the user.
    """

    def __init__(self, reason: TokenRejectReason, user_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.user_id = user_id

    @property
    def expired(self) -> bool:
        """True when a fresh token of the same session would be accepted."""
        return self.reason is TokenRejectReason.EXPIRED


class Clerk(Protocol):
    """Verifies session tokens."""

    async def verify(self, token: str) -> Identity:
        """Return the token's user and session. Raises `TokenError`."""


FieldChanges = Mapping[str, str | bool | None]
"""Columns of a note to be written, by their names on the wire."""


class Missing(Enum):
    """The row an update did not find among the sender's own."""

    NOTE = "note"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class VersionedRow:
    """A written note: its whole row as JSON text, and the row's updatedAt."""

    row: bytes
    updated_at: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: the note is not the version the update is based on."""

    row: bytes
    updated_at: str


class StoreError(Exception):
    """The database is down, slow or full; `reason` is one word for the metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def by_its_rows(self) -> bool:
        """Whether a statement that reads others may succeed at the same time."""
        return self.reason in {"timeout", "refused"}


class Store(Protocol):
    """The REST service's database; every method may raise `StoreError`."""

    async def update_note(
        self, user_id: str, note_id: str, changes: FieldChanges
    ) -> VersionedRow | Missing:
        """Write the fields (wire names) of the user's own note, in one statement."""

    async def update_note_based(
        self, user_id: str, note_id: str, changes: FieldChanges, base: str
    ) -> VersionedRow | Missing | Conflict:
        """As `update_note`, only while the note's updatedAt equals `base`."""

    async def note_owner(self, note_id: str) -> str | None:
        """The user the note belongs to; None when there is no such row."""

    async def folder_owner(self, folder_id: str) -> str | None:
        """The user the folder belongs to; None when there is no such row."""


class Subscriptions(Protocol):
    """The users whose events this process receives."""

    async def subscribe(self, user_id: str) -> bool:
        """Receive the user's events; False while Redis is unreachable."""

    def unsubscribe(self, user_id: str) -> None:
        """Stop receiving them, after a delay."""


class AcquireResult(Enum):
    """The answer to a device that requests one of its user's slots."""

    GRANTED = "granted"
    FULL = "full"
    REVOKED = "revoked"


OnPublished = Callable[[bool], None]
"""Called once: True when Redis has taken an event, False when it has not."""


class Health(Protocol):
    """Readiness of the daemon, for the HTTP endpoints."""

    draining: bool

    def unready_reasons(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""

    def uptime(self) -> float:
        """Seconds since the start."""


class LimitsUnavailableError(Exception):
    """Redis answers with errors: it is unknown whether a limit holds."""


class SharedLimits(Protocol):
    """Limits over all processes; grants every request while Redis is unreachable.

    The coroutines may raise `LimitsUnavailableError`.
    """

    async def acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        """Take one of the user's slots for a device, unless its session is revoked."""

    async def is_revoked(self, session_id: str) -> bool:
        """Whether any process revoked the session."""

    def revoke_session(self, session_id: str, ttl_ms: int) -> None:
        """Refuse the session on every process for this long."""

    def release(self, user_id: str, connection_id: str) -> None:
        """Give the slot back."""

    async def claim_nonce(self, user_id: str, nonce: bytes, ttl_ms: int) -> bool:
        """False when the nonce was used before, on any process."""
