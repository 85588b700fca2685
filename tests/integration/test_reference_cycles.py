"""Lost connections leave no work for the garbage collector.

A daemon tells it to run rarely. Each connection to Postgres or Redis that stays in a
reference cycle is memory of a daemon that lives through faults for months.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.collector import uncollected
from tests.daemon import Device, daemon, eventually
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.redis import LinkProxy, RedisServer, link_proxy
from typelets_ws.postgres.connection import LibpqConnection, PooledConnection

Fault = Callable[[Database, LinkProxy], Awaitable[None]]


END_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


async def end_backends(database: Database, proxy: LinkProxy) -> None:
    database.execute(END_BACKENDS)


async def hide_postgres(database: Database, proxy: LinkProxy) -> None:
    place = str(conninfo_to_dict(database.url)["host"])
    address, hidden = f"{place}/.s.PGSQL.5432", f"{place}/hidden"
    with psycopg.connect(database.url) as link:
        os.rename(address, hidden)
        try:
            link.execute(END_BACKENDS)
            await asyncio.sleep(0.5)  # some attempts to connect fail
        finally:
            os.rename(hidden, address)


async def cut(database: Database, proxy: LinkProxy) -> None:
    proxy.cut()


async def refuse(database: Database, proxy: LinkProxy) -> None:
    await proxy.refuse()
    await asyncio.sleep(0.3)  # some attempts to connect fail
    await proxy.heal()


@pytest.mark.parametrize("fault", [end_backends, hide_postgres, cut, refuse])
async def test_lost_connections_are_freed_at_once(
    database: Database,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
) -> None:
    caplog.set_level(logging.ERROR, "psycopg.pool")  # its records hold connections
    database.add_user(ALICE)
    note = database.add_note(ALICE)

    async def typing(device: Device, healed: asyncio.Event) -> None:
        while not healed.is_set():
            await update(device)

    async def update(device: Device) -> bool:
        changes = {"starred": True}
        answer = await device.ask(
            {"type": "note_update", "noteId": note, "changes": changes}
        )
        return bool(answer["type"] == "note_update_success")

    async with (
        link_proxy(redis_server.port) as proxy,
        daemon(
            proxy.url,
            database.url,
            limits={"rate_messages": 1_000_000},
            # No update gives up waiting: the pool's own error for that is a cycle.
            database={"wait_ms": 5_000},
            recovery={"enabled": True, "audit_s": 0.5, "quiet_s": 0.1},
        ) as server,
        server.device(ALICE) as other,
        AsyncExitStack() as stack,
    ):
        devices = [
            await stack.enter_async_context(server.device(ALICE)) for _ in range(5)
        ]

        async def ready() -> bool:
            return (await server.get("/ready"))[0] == 200 and await update(other)

        async def once() -> None:
            healed = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for device in devices:
                    group.create_task(typing(device, healed))
                await fault(database, proxy)
                await eventually(ready)
                healed.set()

        await once()
        with uncollected():
            for _ in range(3):
                await once()


async def test_a_connection_that_the_pool_has_closed_is_freed_at_once(
    database: Database,
) -> None:
    """As one that was open for `max_lifetime`; its link refers to it."""

    async def expire() -> None:
        connection = await PooledConnection.connect(database.url, autocommit=True)
        connection.link = LibpqConnection(connection, limit_s=1.0, prepare=True)
        await connection.close()

    await expire()
    with uncollected():
        await expire()
