"""What the tests of whole daemons share."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from tests.daemon import House, daemon
from tests.postgres import Database
from tests.redis import RedisServer


@pytest.fixture
def boot(
    redis_server: RedisServer, database: Database
) -> Callable[..., AbstractAsyncContextManager[House]]:
    """`daemon` with its Redis and Postgres; call it as often as daemons are wanted."""
    return partial(daemon, redis_server.url, database.url)
