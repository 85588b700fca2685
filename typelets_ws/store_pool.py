"""Connections to Postgres: one statement in, its first row out, every wait bounded.

- **Every wait ends.** A connection is waited for until the caller's `give_up`, a
  statement ends after ``statement_timeout_ms`` on the server, and the connection of a
  server that says nothing at all is cut `GRACE_S` later. It is cut by shutting its
  socket down: cancelling the task would first wait for the server's consent.
- **A restarted database is noticed without a round trip**: a pooled connection whose
  socket holds an end of file is thrown away instead of used.
- **Another try, where it does no harm**: after what Postgres surely rolled back
  (deadlock, a demoted primary), and after a connection that broke under a statement.
  The latter may have been written. All statements of ours can be sent again: they set
  the same values and ask for the owner again, as if the message had come a moment
  later, whereas a written row that no device hears of keeps devices apart.

No text of the database leaves this module, only a `Reason` and the SQLSTATE.
"""

import asyncio
import math
import select
import socket
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import ForeignKeyViolation
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from . import config

__all__ = ["GRACE_S", "Failed", "ForeignKeyViolation", "Pool", "Reason", "Row"]

GRACE_S: Final = 0.25
"""Beyond the server's own statement timeout, for its answer to arrive."""
RECONNECT_S: Final = 0.5
"""Between tries to connect; the pool's own back-off would grow to minutes."""
TRIES: Final = 3
"""Of several connections dying together, two may look alive for a moment."""
OUTAGE_WAIT_S: Final = 0.25
"""Longest wait for a connection while there is none at all: time to make one."""

_SETTINGS: Final = """SELECT set_config('statement_timeout', %s, false),
    set_config('default_transaction_isolation', 'read committed', false)"""

Row = tuple[Any, ...]


class Connection(psycopg.AsyncConnection[Row]):
    """One connection and the one cursor it needs: a new one each time costs 10 µs."""

    desk: psycopg.AsyncCursor[Row]


class Reason(StrEnum):
    """Why a statement failed: a label of the metrics."""

    TIMEOUT = "timeout"
    POOL_FULL = "pool_full"
    DISCONNECTED = "disconnected"
    CONFLICT = "conflict"
    READ_ONLY = "read_only"
    REFUSED = "refused"
    CLOSED = "closed"


_BY_SQLSTATE: Final = {
    "57014": Reason.TIMEOUT,  # query_canceled: the statement timeout
    "55P03": Reason.TIMEOUT,  # lock_not_available: a lock_timeout of the role's
    "40001": Reason.CONFLICT,
    "40P01": Reason.CONFLICT,
    "25006": Reason.READ_ONLY,
}
_AGAIN: Final = {Reason.DISCONNECTED, Reason.CONFLICT, Reason.READ_ONLY}
_USELESS: Final = {Reason.DISCONNECTED, Reason.READ_ONLY}
"""After these the connection is thrown away: a new one may reach a new primary."""


class Failed(Exception):
    """A statement failed; `sqlstate` is None when nobody gave one.

    `sent` says that a connection was to be had.
    """

    def __init__(
        self, reason: Reason, sqlstate: str | None = None, *, sent: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sqlstate = sqlstate
        self.sent = sent


class Pool:
    """At most ``pool_max`` connections; `on_outage` is called when there are none."""

    def __init__(
        self, settings: config.Database, on_outage: Callable[[], None]
    ) -> None:
        self._wait_s = settings.wait_ms / 1000
        self._statement_ms = settings.statement_timeout_ms
        self._on_outage = on_outage
        self._outage = False
        self._lent = 0
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.url,
            connection_class=Connection,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 5 if settings.prepare else None,
                "fallback_application_name": "typelets-ws",
                "client_encoding": "utf8",
                "connect_timeout": max(2, math.ceil(self._wait_s)),
                "keepalives_idle": 30,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
            min_size=settings.pool_min,
            max_size=settings.pool_max,
            max_waiting=settings.max_waiting,
            configure=self._configure,
            reconnect_timeout=RECONNECT_S,
            reconnect_failed=self._reconnect_failed,
            open=False,
        )

    async def start(self) -> None:
        """Begin to connect and return at once, whether Postgres is there or not.

        While it is not, every statement makes the pool try again.
        """
        await self._pool.open()

    async def close(self) -> None:
        """Refuse what waits and what comes; what runs may end."""
        await self._pool.close()

    def stats(self) -> Mapping[str, int]:
        """The pool's statistics by name."""
        return self._pool.get_stats()

    async def first_row(
        self, query: bytes, params: Mapping[str, object], give_up: float
    ) -> Row | None:
        """Run one statement in its own transaction; its first row, if it has one.

        `give_up` is the loop's time beyond which no connection is waited for.
        Raises `Failed`, or `ForeignKeyViolation`.
        """
        loop = asyncio.get_running_loop()
        for _ in range(TRIES - 1):
            try:
                return await self._try(query, params, give_up)
            except Failed as failed:
                again = failed.sent and failed.reason in _AGAIN
                if not again or loop.time() >= give_up:
                    raise
        return await self._try(query, params, give_up)

    async def _try(
        self, query: bytes, params: Mapping[str, object], give_up: float
    ) -> Row | None:
        connection = await self._take(give_up)
        cut = _Cut(connection)
        timer = asyncio.get_running_loop().call_later(
            self._statement_ms / 1000 + GRACE_S, cut
        )
        try:
            await connection.desk.execute(query, params)
            return await connection.desk.fetchone()
        except ForeignKeyViolation:
            raise
        except psycopg.Error as error:
            reason = Reason.TIMEOUT if cut.done else _reason(error)
            if reason in _USELESS:
                await connection.close()
            raise Failed(reason, error.sqlstate, sent=True) from None
        finally:
            timer.cancel()
            await self._give_back(connection)

    async def _take(self, give_up: float) -> Connection:
        """A connection that lives, as far as its socket knows. Raises `Failed`."""
        loop = asyncio.get_running_loop()
        if self._outage:
            give_up = min(give_up, loop.time() + OUTAGE_WAIT_S)
        try:
            while True:
                connection = await self._getconn(give_up - loop.time())
                self._lent += 1
                if not _broken(connection):
                    return connection
                await connection.close()
                await self._give_back(connection)
        except TooManyRequests:
            raise Failed(Reason.POOL_FULL) from None
        except PoolTimeout:
            reason = Reason.POOL_FULL if self._lent else Reason.DISCONNECTED
            raise Failed(reason) from None
        except PoolClosed:
            raise Failed(Reason.CLOSED) from None

    async def _getconn(self, wait_s: float) -> Connection:
        """As the pool's own, which swallows a cancellation that comes with the answer.

        So does `asyncio.wait_for` before Python 3.12, on which it waits.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        connection = await self._pool.getconn(wait_s)
        if task and task.cancelling() > before:
            await asyncio.shield(self._pool.putconn(connection))
            raise asyncio.CancelledError
        return connection

    async def _give_back(self, connection: Connection) -> None:
        """Give back, even when cancelled: putconn may have to wait its turn."""
        self._lent -= 1
        await asyncio.shield(self._pool.putconn(connection))

    async def _configure(self, connection: Connection) -> None:
        """Make a new connection ours.

        By a statement and not by start-up options: PgBouncer refuses those, and
        they would replace the ones of the address.
        """
        connection.adapters.register_loader("json", _Verbatim)
        connection.desk = connection.cursor()
        timer = asyncio.get_running_loop().call_later(self._wait_s, _Cut(connection))
        try:
            await connection.execute(_SETTINGS, [f"{self._statement_ms}ms"])
        except BaseException:
            await connection.close()
            raise
        finally:
            timer.cancel()
        self._outage = False

    def _reconnect_failed(self, pool: AsyncConnectionPool[Connection]) -> None:
        if not pool.get_stats()["pool_size"]:
            self._outage = True
            self._on_outage()


class _Cut:
    """Shuts a connection's socket down, so that who waits for it sees its end."""

    __slots__ = ("_connection", "done")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.done = False

    def __call__(self) -> None:
        self.done = True
        if self._connection.closed:
            return
        link = socket.socket(fileno=self._connection.pgconn.socket)
        try:
            link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was faster
        finally:
            link.detach()


class _Verbatim(Loader):
    """JSON as the bytes Postgres sent."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def _broken(connection: Connection) -> bool:
    """Whether the socket of an idle connection holds its end; a notice is no end."""
    link = connection.pgconn
    try:
        poll = select.poll()
        poll.register(link.socket, select.POLLIN)
        for _ in range(3):
            if not poll.poll(0):
                return False
            link.consume_input()
    except psycopg.OperationalError:
        return True
    return True


def _reason(error: psycopg.Error) -> Reason:
    state = error.sqlstate
    if state is not None:
        lost = state.startswith(("08", "57P"))
        return Reason.DISCONNECTED if lost else _BY_SQLSTATE.get(state, Reason.REFUSED)
    lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return Reason.DISCONNECTED if lost else Reason.REFUSED
