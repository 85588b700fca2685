"""One connection to Postgres, over libpq itself: a statement in, its rows out.

psycopg's cursors cost more than the statement: here the socket is registered with the
loop once, statements are prepared by name, and one future waits for the answer.

- **One statement at a time.** A connection is `free` or runs a statement, also after
  its caller was cancelled; only a free one takes the next statement. One with a cancel
  request that may still arrive is never free again.
- **Every statement ends** within `limit_s`, or the connection is closed. One timer
  watches over it, moved when it fires and not at each statement.
- **One reader of the socket.** psycopg reads it while it connects and configures, the
  loop between `attach` and `detach`. It is detached before it is closed: otherwise the
  loop would watch the next file with its number.

Tested by tests/integration/postgres/test_connection.py.
"""

import asyncio
import select
import socket
from asyncio import Future, TimerHandle
from contextlib import suppress
from typing import Any, Final, Self

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

__all__ = [
    "Columns", "LibpqConnection", "Overdue", "PooledConnection", "rows_of",
    "shutdown_socket",
]  # fmt: skip

CANCEL_S: Final = 1.0
"""For the server to take note of a cancellation; the statement's own end is bounded."""
MOST_PREPARED: Final = 100
"""Each costs the server memory, and clients choose which fields they change."""

_DONE: Final = frozenset({int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK)})
_IDLE: Final = int(TransactionStatus.IDLE)
_RESET: Final = select.POLLERR | select.POLLHUP

Columns = tuple[bytes | None, ...]
"""The columns as Postgres writes them, in text."""


class Overdue(psycopg.OperationalError):
    """The server said nothing for so long that the connection was given up."""


class PooledConnection(psycopg.AsyncConnection[Any]):
    """A connection of the pool, and what is ours of it."""

    link: Any
    """`LibpqConnection`, or its twin `plain_connection.PlainConnection`."""

    @classmethod
    async def connect(cls, *args: Any, **options: Any) -> Self:
        """As psycopg's, whose error refers to a frame that refers to the error."""
        try:
            return await super().connect(*args, **options)
        except psycopg.Error as error:
            raise error.with_traceback(None) from None

    async def close(self) -> None:
        """Close it, and end the reference cycle with `link`."""
        self.__dict__.pop("link", None)
        await super().close()


class LibpqConnection:
    """Statements over one connection of a pool, between `attach` and `detach`."""

    def __init__(
        self, connection: PooledConnection, *, limit_s: float, prepare: bool
    ) -> None:
        self.connection = connection
        self.leased_until = 0.0
        self._pgconn = connection.pgconn
        self._socket = self._pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._deadline = 0.0
        self._timer: TimerHandle | None = None
        self._names: dict[bytes, bytes] | None = {} if prepare else None
        self._named = 0
        self._attached = self._writing = self._cancel_pending = False
        self._done: Future[None] | None = None
        self._result: PGresult | None = None
        self._error: type[psycopg.Error] | None = None

    @property
    def free(self) -> bool:
        """Whether it can take a statement, as far as is known."""
        if self._done is not None or self._cancel_pending:
            return False
        return self._pgconn.transaction_status == _IDLE

    def attach(self) -> None:
        """Read the socket from now on."""
        self._attached = True
        self._loop.add_reader(self._socket, self._readable)

    def detach(self) -> None:
        """Leave the socket alone."""
        if self._attached:
            self._attached = False
            self._loop.remove_reader(self._socket)
            self._stop_writing()

    def close(self) -> None:
        """Close the connection, also during a statement."""
        self.detach()
        self._pgconn.finish()

    def is_alive(self) -> bool:
        """Check without a round trip whether the server closed; notices do not
        count."""
        for _ in range(3):
            if self._error is not None:
                return False
            if not self._poll.poll(0):
                return True
            self._readable()
        return False

    async def fetch(self, query: bytes, values: list[bytes | None]) -> list[Columns]:
        """Run one statement and return its rows. Raises `psycopg.Error`.

        When cancelled, the statement may go on: see `cancel`.
        """
        return rows_of(await self._run(query, values))

    async def _run(self, query: bytes, values: list[bytes | None]) -> PGresult:
        self._deadline = self._loop.time() + self._limit_s
        if self._names is None:
            self._pgconn.send_query_params(query, values)
            return await self._answer()
        try:
            return await self._run_prepared(query, values, self._names)
        except psycopg.errors.FeatureNotSupported:
            # A migration changed a column's type. Postgres then refuses each prepared
            # statement ("cached plan must not change result type") before it runs.
            if not self._names:
                raise
        await self._deallocate(self._names)
        return await self._run_prepared(query, values, self._names)

    async def _run_prepared(
        self, query: bytes, values: list[bytes | None], names: dict[bytes, bytes]
    ) -> PGresult:
        name = names.get(query) or await self._prepare(query, names)
        self._pgconn.send_query_prepared(name, values)
        return await self._answer()

    async def cancel(self) -> None:
        """Have the server drop what it works at, and wait until it has."""
        if self._done is None:
            return
        done = self._done = self._loop.create_future()
        # A late cancel request could cancel the next statement.
        self._cancel_pending = True
        with suppress(psycopg.Error):
            await self.connection.cancel_safe(timeout=CANCEL_S)
            self._cancel_pending = False
        await done

    async def _prepare(self, query: bytes, names: dict[bytes, bytes]) -> bytes:
        """Prepare under a name never used: a lost answer leaves no doubt about it."""
        if len(names) >= MOST_PREPARED:
            await self._deallocate(names)
        self._named += 1
        name = b"s%d" % self._named
        self._pgconn.send_prepare(name, query)
        await self._answer()
        names[query] = name
        return name

    async def _deallocate(self, names: dict[bytes, bytes]) -> None:
        names.clear()
        self._pgconn.send_query(b"DEALLOCATE ALL")  # which PgBouncer knows as well
        await self._answer()

    async def _answer(self) -> PGresult:
        """Wait for the end of what has been sent."""
        self._result = None
        done = self._done = self._loop.create_future()
        if self._timer is None:
            # Not earlier: a deadline that passes between two parts ends neither.
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        if self._pgconn.flush():
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)
        await done
        return self._outcome()

    def _outcome(self) -> PGresult:
        if self._error is not None:
            raise self._error
        result = self._result
        if result is None:
            raise psycopg.InterfaceError  # libpq owes one for each request
        if result.status not in _DONE:
            raise error_from_result(result)
        return result

    def _readable(self) -> None:
        try:
            self._consume()
            # A server that ended without reading the statement has left its last words
            # and a reset, and uvloop calls once for a socket with an error.
            while self._done is not None and self._is_reset():
                self._consume()
        except psycopg.Error as error:
            self._break(error)

    def _is_reset(self) -> bool:
        return any(events & _RESET for _, events in self._poll.poll(0))

    def _consume(self) -> None:
        pgconn = self._pgconn
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                self._end()
                return
            self._result = result

    def _writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._stop_writing()
        except psycopg.Error as error:
            self._break(error)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _check_deadline(self) -> None:
        """Close a link whose statement is overdue."""
        self._timer = None
        if self._done is None:
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_deadline)
        else:
            self._break(Overdue())

    def _break(self, error: psycopg.Error) -> None:
        # Its class alone: a raised exception refers to frames that refer to us.
        self._error = type(error)
        self.close()
        self._end()

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(None)


def rows_of(result: PGresult) -> list[Columns]:
    """The rows of a result, as Postgres writes them."""
    fields, value = range(result.nfields), result.get_value
    return [tuple([value(row, n) for n in fields]) for row in range(result.ntuples)]


def shutdown_socket(connection: PooledConnection) -> None:
    """Shut the socket down, so that psycopg, which waits for it, sees its end.

    Cancelling the task would first wait for the server's consent.
    """
    if connection.closed:
        return
    link = socket.socket(fileno=connection.pgconn.socket)
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other end was faster
    finally:
        link.detach()
