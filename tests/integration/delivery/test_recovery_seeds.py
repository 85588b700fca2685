"""After any fault, every device ends with what Postgres holds (recovery.md section 4).

More seeds by hand: `tests.integration.delivery.recovery_seeds`.
"""

from pathlib import Path

import pytest

from tests.daemon import Boot
from tests.integration.delivery.recovery_seeds import (
    Daemons,
    InProcess,
    Processes,
    play,
)
from tests.postgres import Database
from tests.redis import RedisServer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("seed", "fast_paths"),
    [(seed, ("all", "none")[seed % 2]) for seed in range(16)],
    indirect=["fast_paths"],
)
async def test_every_device_ends_with_what_postgres_holds(
    boot: Boot, database: Database, redis_server: RedisServer, seed: int
) -> None:
    daemons: Daemons = InProcess(boot)
    assert await play(seed, database, redis_server, daemons) == []


@pytest.mark.parametrize("seed", range(100, 104))
async def test_every_device_does_when_daemons_are_killed(
    database: Database, redis_server: RedisServer, tmp_path: Path, seed: int
) -> None:
    daemons = Processes(tmp_path, redis_server.url, database.url)
    assert await play(seed, database, redis_server, daemons) == []
