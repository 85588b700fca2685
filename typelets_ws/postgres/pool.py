"""Connections to Postgres: one statement in, its rows out, every wait bounded.

- **Every wait ends.** A wait for a connection ends at the caller's `deadline`, a
  statement after ``statement_timeout_ms`` on the server. The connection of a silent
  server is closed `GRACE_S` later.
- **A free connection is found at once.** psycopg's pool connects, grows, renews and
  shrinks; but a getconn and a putconn take as long as a statement. So a connection
  stays idle here for `LEASE_S`, the latest used on top, and is returned earlier when
  another caller waits for the pool.
- **A restarted database is noticed without a round trip**: a pooled connection whose
  socket holds an end of file is thrown away instead of used.
- **Another try, where it does no harm**: after what Postgres surely rolled back
  (deadlock, a demoted primary), and after a connection that broke under a statement.
  The latter may have been written. All statements here can be sent again: they set the
  same values and check the owner again. A written row that no device gets would keep
  devices apart.

No text of the database leaves this module, only a `QueryFailure` and the SQLSTATE.
Tested by tests/integration/postgres/test_pool.py.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
from psycopg.errors import ForeignKeyViolation
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from ..config import model as config
from ..fastpaths import ALL, FastPaths
from .connection import Columns, LibpqConnection, PooledConnection, shutdown_socket
from .failures import QueryError, QueryFailure, failure_of
from .plain_connection import PlainConnection

__all__ = ["GRACE_S", "Columns", "ForeignKeyViolation", "Pool"]

GRACE_S: Final = 0.25
"""Beyond the server's own statement timeout, for its answer to arrive."""

RECONNECT_S: Final = 0.5
"""Between tries to connect; the pool's own back-off would grow to minutes."""

TRIES: Final = 3
"""Of several connections dying together, two may look alive for a moment."""

LEASE_S: Final = 10.0
"""How long a connection is kept from the pool, which may be to renew or close it."""

OUTAGE_WAIT_S: Final = 0.25
"""Longest wait for a connection while the pool has none: time to make one."""

_SETTINGS: Final = """SELECT set_config('statement_timeout', %s, false),
    set_config('default_transaction_isolation', 'read committed', false)"""

AnyConnection = LibpqConnection | PlainConnection

_AGAIN: Final = {
    QueryFailure.DISCONNECTED,
    QueryFailure.CONFLICT,
    QueryFailure.READ_ONLY,
}

_USELESS: Final = {QueryFailure.DISCONNECTED, QueryFailure.READ_ONLY}
"""After these the connection is thrown away: a new one may reach a new primary."""


class Pool:
    """At most ``pool_max`` connections; `on_outage` is called when there are none."""

    def __init__(
        self,
        settings: config.Database,
        on_outage: Callable[[], None],
        fast: FastPaths = ALL,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wait_s = settings.wait_ms / 1000
        self._statement_ms = settings.statement_timeout_ms
        self._on_outage = on_outage
        self._outage = False
        self._prepare = settings.prepare
        self._lease_s = LEASE_S if fast.idle else 0.0
        self._kind = LibpqConnection if fast.libpq else PlainConnection
        self._idle: deque[AnyConnection] = deque()
        self._in_use = 0
        self._waiting = 0
        self._reused = 0
        self._pool: AsyncConnectionPool[PooledConnection] = AsyncConnectionPool(
            settings.url,
            connection_class=PooledConnection,
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
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
        try:
            await self._pool.close()
        finally:
            while self._idle:
                self._idle.pop().close()

    def stats(self) -> Mapping[str, int]:
        """The pool's statistics by name; idle connections count as available."""
        stats = Counter(self._pool.get_stats())
        stats.update(pool_available=len(self._idle), requests_num=self._reused)
        return stats

    async def fetch(
        self, query: bytes, values: list[bytes | None], deadline: float
    ) -> list[Columns]:
        """Run one statement in its own transaction and return its rows.

        `deadline` is the loop's time beyond which no connection is waited for.
        Raises `QueryError`, or `ForeignKeyViolation`.
        """
        for _ in range(TRIES - 1):
            try:
                return await self._try(query, values, deadline)
            except QueryError as failed:
                again = failed.sent and failed.reason in _AGAIN
                if not again or self._loop.time() >= deadline:
                    raise
        return await self._try(query, values, deadline)

    async def _try(
        self, query: bytes, values: list[bytes | None], deadline: float
    ) -> list[Columns]:
        link = await self._acquire(deadline)
        try:
            return await link.fetch(query, values)
        except asyncio.CancelledError:
            await link.cancel()
            raise
        except ForeignKeyViolation:
            raise
        except psycopg.Error as error:
            reason = failure_of(error)
            if reason in _USELESS:
                link.close()
            raise QueryError(reason, error.sqlstate, sent=True) from None
        finally:
            self._in_use -= 1
            await self._release(link)

    async def _acquire(self, deadline: float) -> AnyConnection:
        """Return a connection that its server has not closed. Raises `QueryError`."""
        while True:
            if self._idle and not self._pool.closed:
                link = self._idle.pop()
                self._reused += 1
            else:
                link = await self._getconn(deadline)
            self._in_use += 1
            if link.is_alive():
                return link
            self._in_use -= 1
            await self._putconn(link)

    async def _getconn(self, deadline: float) -> AnyConnection:
        if self._outage:
            deadline = min(deadline, self._loop.time() + OUTAGE_WAIT_S)
        self._waiting += 1
        try:
            connection = await self._getconn_cancellable(deadline - self._loop.time())
        except TooManyRequests:
            raise QueryError(QueryFailure.POOL_FULL) from None
        except PoolTimeout:
            reason = (
                QueryFailure.POOL_FULL if self._in_use else QueryFailure.DISCONNECTED
            )
            raise QueryError(reason) from None
        except PoolClosed:
            raise QueryError(QueryFailure.CLOSED) from None
        finally:
            self._waiting -= 1
        link: AnyConnection = connection.link
        link.attach()
        link.leased_until = self._loop.time() + self._lease_s
        return link

    async def _getconn_cancellable(self, wait_s: float) -> PooledConnection:
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

    async def _release(self, link: AnyConnection) -> None:
        """Keep the connection idle, or return it when its lease has expired."""
        now = self._loop.time()
        if (
            self._waiting
            or self._pool.closed
            or now >= link.leased_until
            or not link.free
        ):
            await self._putconn(link)
            return
        self._idle.append(link)
        if self._idle[0].leased_until <= now:
            await self._putconn(self._idle.popleft())

    async def _putconn(self, link: AnyConnection) -> None:
        """Return it to the pool, even when cancelled: putconn may have to wait."""
        link.detach()
        connection = link.connection
        if not link.free:
            link.close()
            # The pool drops it: what refers to each other is left to the collector.
            del connection.link
        await asyncio.shield(self._pool.putconn(connection))

    async def _configure(self, connection: PooledConnection) -> None:
        """Make a new connection ours.

        By a statement and not by start-up options: PgBouncer refuses those, and
        they would replace the ones of the address.
        """
        timer = self._loop.call_later(self._wait_s, shutdown_socket, connection)
        try:
            await connection.execute(_SETTINGS, [f"{self._statement_ms}ms"])
        except BaseException:
            await connection.close()
            raise
        finally:
            timer.cancel()
        connection.link = self._kind(
            connection,
            limit_s=self._statement_ms / 1000 + GRACE_S,
            prepare=self._prepare,
        )
        self._outage = False

    def _reconnect_failed(self, pool: AsyncConnectionPool[PooledConnection]) -> None:
        if not pool.get_stats()["pool_size"]:
            self._outage = True
            self._on_outage()
