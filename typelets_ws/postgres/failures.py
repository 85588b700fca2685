"""Why a statement failed: SQLSTATE and libpq's errors as one `QueryFailure`.

No text of the database is kept, only the reason and the SQLSTATE.
"""

from enum import StrEnum
from typing import Final

import psycopg

from .connection import Overdue

__all__ = ["QueryError", "QueryFailure"]


class QueryFailure(StrEnum):
    """Why a statement failed: a label of the metrics."""

    TIMEOUT = "timeout"
    POOL_FULL = "pool_full"
    DISCONNECTED = "disconnected"
    CONFLICT = "conflict"
    READ_ONLY = "read_only"
    REFUSED = "refused"
    CLOSED = "closed"


_BY_SQLSTATE: Final = {
    "57014": QueryFailure.TIMEOUT,  # query_canceled: the statement timeout
    "55P03": QueryFailure.TIMEOUT,  # lock_not_available: a lock_timeout of the role's
    "40001": QueryFailure.CONFLICT,
    "40P01": QueryFailure.CONFLICT,
    "25006": QueryFailure.READ_ONLY,
}


class QueryError(Exception):
    """A statement failed; `sqlstate` is None when the server sent none.

    `sent` is True when a connection was acquired.
    """

    def __init__(
        self, reason: QueryFailure, sqlstate: str | None = None, *, sent: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sqlstate = sqlstate
        self.sent = sent


def failure_of(error: psycopg.Error) -> QueryFailure:
    state = error.sqlstate
    if state is not None:
        if state.startswith(("08", "57P")):
            return QueryFailure.DISCONNECTED
        return _BY_SQLSTATE.get(state, QueryFailure.REFUSED)
    # An error of libpq itself: those of the server have an SQLSTATE.
    late = isinstance(error, Overdue)
    return QueryFailure.TIMEOUT if late else QueryFailure.DISCONNECTED
