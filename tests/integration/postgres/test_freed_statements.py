"""A failed statement's values are freed at once, without the garbage collector."""

import asyncio
import gc
import logging
import traceback
import weakref
from contextlib import suppress

import psycopg
import pytest

from tests.collector import collector_off
from tests.daemon import eventually
from tests.fakes import Log
from tests.postgres import Database
from typelets_ws.config.model import Database as Settings
from typelets_ws.ports import StoreError
from typelets_ws.postgres.store import Store
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

NOTE = "00000000-0000-4000-8000-000000000001"


def passed_our_code(error: BaseException) -> bool:
    """Whether its traceback refers to frames of the package, and so to statements."""
    frames = traceback.extract_tb(error.__traceback__)
    return any("typelets_ws" in frame.filename for frame in frames)


class Text(str):
    """A text that can be asked whether it is still there."""


async def answers(store: Store) -> bool:
    with suppress(StoreError):
        await store.ping()
        return True
    return False


async def test_the_values_of_statements_that_fail_are_freed(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps log records, and the pool's name the exception they are about.
    caplog.set_level(logging.CRITICAL, "psycopg.pool")
    settings = Settings(url=database.url, wait_ms=200, statement_timeout_ms=200)
    store = Store(settings, Telemetry(Metrics(), Log().bound()))
    left: list[weakref.ref[Text]] = []

    async def update(number: int) -> None:
        text = Text("x" * 100_000)
        left.append(weakref.ref(text))
        with pytest.raises(StoreError):
            await store.update_note("alice", NOTE, {"content": text})
        del text

    await store.start()
    try:
        await eventually(lambda: answers(store))
        with collector_off():
            database.crash()
            await asyncio.gather(*(update(number) for number in range(20)))
            assert [ref for ref in left if ref() is not None] == []
            errors = (one for one in gc.get_objects() if isinstance(one, psycopg.Error))
            assert [one for one in errors if passed_our_code(one)] == []
    finally:
        database.start()
        await store.close()
