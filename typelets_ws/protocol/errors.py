"""The errors that clients are sent: codes, close codes and texts.

Invariants. After a `ClientError` the connection stays open; after a `Disconnect` it is
closed. The code is for programs, the message for people. The cause stays in the log:
other exceptions reach the client as "Internal error" with a correlation id.
(spec section 5) Tested by tests/unit/protocol/test_errors.py.
"""

from enum import IntEnum, StrEnum
from typing import Final

__all__ = ["ClientError", "CloseCode", "Code", "Disconnect"]


class Code(StrEnum):
    """`code` of an `error` message."""

    AUTH_REQUIRED = "AUTH_REQUIRED"
    RATE_LIMITED = "RATE_LIMITED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    INVALID_FIELD = "INVALID_FIELD"
    NOT_FOUND = "NOT_FOUND"
    ACCESS_DENIED = "ACCESS_DENIED"
    SIGNATURE_REJECTED = "SIGNATURE_REJECTED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"
    TOO_MANY_DEVICES = "TOO_MANY_DEVICES"
    CONFLICT = "CONFLICT"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"


class CloseCode(IntEnum):
    """Close codes of the daemon (RFC 6455 section 7.4, spec section 5).

    1000 is not one of them: the web client reconnects after any other code.
    """

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTARTING = 1012
    TOO_SLOW = 1013
    UNAUTHENTICATED = 4401
    AUTH_TIMEOUT = 4408
    TOO_MANY = 4429


class ClientError(Exception):
    """Answer with an `error` message and go on.

    `message` and `code` go to the client; `request_id`, `folder_id`, `retry_after_ms`,
    `correlation_id` and `updated_note` (the row's JSON, with `Code.CONFLICT`) where
    they apply. `note_id` is added by the handlers.
    """

    reason: str | None = None
    """The verdict, with `Code.SIGNATURE_REJECTED`."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        folder_id: str | None = None,
        retry_after_ms: int | None = None,
        correlation_id: str | None = None,
        request_id: str | None = None,
        updated_note: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.note_id: str | None = None
        self.folder_id = folder_id
        self.retry_after_ms = retry_after_ms
        self.correlation_id = correlation_id
        self.request_id = request_id
        self.updated_note = updated_note


class Disconnect(Exception):  # noqa: N818 - centrifuge's name for it
    """Send the answer, if there is one, then close with `close_code`.

    `reason` is one word for the metrics and the close frame; `answer` is a
    ready message.
    """

    def __init__(
        self, close_code: CloseCode, reason: str, answer: bytes | None = None
    ) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.reason = reason
        self.answer = answer


NOTE_NOT_FOUND: Final = "Note not found or access denied"
FOLDER_NOT_FOUND: Final = "Folder not found or access denied"
FOREIGN_RESOURCE: Final = (
    "Access denied: Cannot broadcast resource created by another user"
)
SIGNATURE_REJECTED: Final = "Message authentication failed"
CONFLICT: Final = "The note was changed meanwhile"
CURSOR_EXPIRED: Final = "Unknown or expired cursor: sync without one"
NO_VALID_FIELDS: Final = "No valid fields to update"
INVALID_MESSAGE: Final = "Invalid message format"
UNKNOWN_TYPE: Final = "Unknown message type"
AUTH_REQUIRED: Final = "Authentication required"
AUTH_TIMEOUT: Final = "Authentication timeout. Connection will be closed."
RATE_LIMITED: Final = "Rate limit exceeded. Please slow down."
MESSAGE_TOO_LARGE: Final = "Message too large. Maximum size is 1MB."
LIMITS_UNAVAILABLE: Final = "Service temporarily unavailable"
TOO_MANY_DEVICES: Final = "Maximum connections exceeded for this user"
