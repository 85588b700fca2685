"""The refusal while Redis answers with errors.

Invariant: nothing is granted that only Redis can know, and the client may try again.
Tested by tests/integration/redis/test_errors.py.
"""

from typing import Final

from ..protocol.errors import LIMITS_UNAVAILABLE, ClientError, Code
from .ids import new_id

__all__ = ["limits_unavailable"]

RETRY_MS: Final = 1_000


def limits_unavailable(request_id: str | None) -> ClientError:
    """The refusal while it is unknown whether a limit over all processes holds."""
    return ClientError(
        Code.UNAVAILABLE,
        LIMITS_UNAVAILABLE,
        retry_after_ms=RETRY_MS,
        correlation_id=new_id(),
        request_id=request_id,
    )
