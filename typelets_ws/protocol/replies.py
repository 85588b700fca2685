"""Replies that refuse a message. Pure.

Invariant: no text of the database, of Redis or of Python reaches a client; texts come
from `errors`. (spec section 5) Tested by tests/unit/protocol/test_messages.py.
"""

from typing import Final

from msgspec import UNSET, Raw

from .client_messages import Auth
from .errors import AUTH_TIMEOUT, ClientError, CloseCode, Code, Disconnect
from .messages import AuthFailed, Error, echo, encode, given

__all__ = ["AUTH_TIMED_OUT", "auth_failed", "error"]


def error(refusal: ClientError) -> Error:
    """Return the `error` message of a client error.

    Ids are echoed up to `ECHO_LENGTH` characters: those of the client may be longer.
    """
    return Error(
        message=refusal.message,
        code=refusal.code,
        requestId=given(refusal.request_id),
        noteId=given(refusal.note_id),
        folderId=given(refusal.folder_id),
        retryAfterMs=UNSET
        if refusal.retry_after_ms is None
        else refusal.retry_after_ms,
        correlationId=given(refusal.correlation_id),
        updatedNote=(
            UNSET if refusal.updated_note is None else Raw(refusal.updated_note)
        ),
        reason=given(refusal.reason),
    )


def auth_failed(message: Auth, *, expired: bool) -> bytes:
    """The answer to an `auth` that failed, with the texts of spec section 2."""
    request_id = echo(message)
    return encode(
        AuthFailed(
            message="Token expired", reason="token-expired", requestId=request_id
        )
        if expired
        else AuthFailed(
            message="Authentication failed", reason="auth-failed", requestId=request_id
        )
    )


AUTH_TIMED_OUT: Final = Disconnect(
    CloseCode.AUTH_TIMEOUT,
    "auth_timeout",
    encode(error(ClientError(Code.AUTH_REQUIRED, AUTH_TIMEOUT))),
)
"""Closes a connection whose `auth` did not arrive in time (spec section 2)."""
