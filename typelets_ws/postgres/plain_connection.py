"""One connection to Postgres through psycopg's cursor: the slower twin.

Used in place of `LibpqConnection` when the fast path `libpq` is off. Invariants: one
statement at a time; every statement ends within `limit_s`, or the connection is closed.
tests/fastpaths/test_libpq.py runs the same statements over both.
"""

import asyncio
import select
from typing import Any

import psycopg
from psycopg import AsyncRawCursor
from psycopg.pq import TransactionStatus

from .connection import Columns, Overdue, PooledConnection, rows_of, shutdown_socket

__all__ = ["PlainConnection"]


class PlainConnection:
    """Statements over one connection of a pool; see `LibpqConnection`."""

    def __init__(
        self, connection: PooledConnection, *, limit_s: float, prepare: bool
    ) -> None:
        self.connection = connection
        self.leased_until = 0.0
        self._limit_s = limit_s
        self._prepare = prepare
        self._busy = self._expired = False
        self._poll = select.poll()
        self._poll.register(connection.pgconn.socket, select.POLLIN)

    @property
    def free(self) -> bool:
        """Whether it can take a statement."""
        status = self.connection.pgconn.transaction_status
        return not self._busy and status == TransactionStatus.IDLE

    def attach(self) -> None:
        """Do nothing: psycopg reads the socket during a statement only."""

    def detach(self) -> None:
        """Do nothing; see `attach`."""

    def close(self) -> None:
        """Close the connection, also during a statement."""
        self.connection.pgconn.finish()

    def is_alive(self) -> bool:
        """Check the socket for the server's end; notices do not count."""
        try:
            while self._poll.poll(0):
                self.connection.pgconn.consume_input()
        except psycopg.Error:
            self.close()
            return False
        return True

    async def cancel(self) -> None:
        """Do nothing: a cancelled cursor has asked the server to stop already."""

    def _expire(self) -> None:
        self._expired = True
        shutdown_socket(self.connection)

    async def fetch(self, query: bytes, values: list[bytes | None]) -> list[Columns]:
        """Run one statement and return its rows. Raises `psycopg.Error`."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limit_s, self._expire)
        texts = [None if value is None else value.decode() for value in values]
        cursor: AsyncRawCursor[Any] = AsyncRawCursor(self.connection)
        self._busy = True
        try:
            await cursor.execute(query, texts, prepare=False)
        except psycopg.OperationalError:
            if self._expired:
                raise Overdue from None
            raise
        finally:
            timer.cancel()
            self._busy = False
        assert cursor.pgresult is not None, "a statement has a result"
        return rows_of(cursor.pgresult)
