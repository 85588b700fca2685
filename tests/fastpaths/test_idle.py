"""Statements give the same rows whether or not a pool keeps connections."""

import asyncio

import pytest

from tests.postgres import Database
from typelets_ws.config.model import Database as Settings
from typelets_ws.fastpaths import FastPaths
from typelets_ws.postgres.pool import Pool


@pytest.mark.parametrize("idle", [True, False])
async def test_rows_and_reuse(database: Database, idle: bool) -> None:
    settings = Settings(url=database.url, pool_min=1, pool_max=2)
    pool = Pool(settings, lambda: None, FastPaths(idle=idle))
    await pool.start()
    try:
        loop = asyncio.get_running_loop()
        for number in range(5):
            (row,) = await pool.fetch(
                b"SELECT $1::int + 1", [b"%d" % number], loop.time() + 5
            )
            assert row == (b"%d" % (number + 1),)
        # With the path on, four of the five found the first one's connection.
        assert pool.stats()["requests_num"] >= 5
        assert (pool.stats()["pool_available"] >= 1) is True
        kept = len(pool._idle)
        assert kept == (1 if idle else 0)
    finally:
        await pool.close()
