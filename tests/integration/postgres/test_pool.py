"""The pool: cancelled callers, idle connections, and the end of the store."""

import asyncio
import json
import random
import time
from typing import Any

import pytest
from psycopg_pool.base import BasePool
from psycopg_pool.pool_async import WaitingClient

from tests.daemon import WITH_FAST_PATHS, eventually
from tests.integration.postgres.stores import (
    backends,
    failure,
    opened,
    until,
)  # fmt: skip
from tests.postgres import Database
from tests.within import PATIENCE_S
from typelets_ws.ports import VersionedRow
from typelets_ws.postgres import pool as store_pool
from typelets_ws.postgres.store import QueryFailure
from typelets_ws.telemetry.metrics import Metrics

pytestmark = pytest.mark.usefixtures("fast_paths")


# Cancellation.


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_at_any_moment_the_pool_stays_whole(database: Database) -> None:
    database.add_user("u")
    database.add_user("v")
    note, other = database.add_note("u"), database.add_note("v")
    async with opened(database.url, pool_min=1, pool_max=2) as store:
        await store.ping()
        for moment in range(60):  # from the first turn of the loop to the answer
            async with asyncio.TaskGroup() as tasks:
                some = [
                    tasks.create_task(store.update_note("u", note, {"title": "x"}))
                    for _ in range(3)
                ]
                for _ in range(moment):
                    await asyncio.sleep(0)
                for task in some:
                    task.cancel()
            await asyncio.gather(*(store.note_owner(other) for _ in range(4)))
        with database.locked(note):
            for twice in (False, True):
                async with asyncio.TaskGroup() as tasks:
                    executing = tasks.create_task(
                        store.update_note("u", note, {"title": "stuck"})
                    )
                    waiting = tasks.create_task(
                        store.update_note("u", note, {"title": "stuck"})
                    )
                    await until(lambda: database.waiting_for_locks() == 1)
                    waiting.cancel()
                    executing.cancel()
                    if twice:
                        await asyncio.sleep(0)
                        executing.cancel()
                await until(lambda: database.waiting_for_locks() == 0)
                for _ in range(8):
                    written = await store.update_note("v", other, {"title": "free"})
                    assert isinstance(written, VersionedRow)
        async with asyncio.TaskGroup() as tasks:
            with database.locked(other):  # both connections of the pool work
                tasks.create_task(store.update_note("v", other, {"title": "y"}))
                await until(lambda: database.waiting_for_locks() == 1)
                await store.update_note("u", note, {"title": "last"})
    assert database.note(note)["title"] == "last"


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_in_the_moment_a_connection_is_given_it_is_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's wait may swallow it (wait_for before Python 3.12)."""
    given = WaitingClient.set
    asking: list[asyncio.Task[None]] = []

    async def set_and_cancel(self: Any, connection: Any) -> bool:
        taken = await given(self, connection)
        if asking:
            asking.pop().cancel()
        return taken

    async with opened(database.url, pool_min=1, pool_max=1) as store:
        monkeypatch.setattr(WaitingClient, "set", set_and_cancel)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(store.ping())
            asking.append(task)
        assert task.cancelled()
        await store.ping()


@pytest.mark.usefixtures("loop_factory")
async def test_cancelled_while_giving_back_no_connection_is_lost(
    database: Database,
) -> None:
    """Giving back waits for a moment when somebody has just begun to wait."""
    metrics = Metrics()

    def stat(name: str) -> float | None:
        return metrics.registry.get_sample_value(
            "typelets_ws_postgres_pool", {"stat": name}
        )

    async with opened(database.url, metrics, pool_min=2, pool_max=2) as store:
        await asyncio.gather(*(store.ping() for _ in range(8)))
        for age in range(1, 30):
            async with asyncio.TaskGroup() as tasks:
                some: list[asyncio.Task[None]] = []
                for _ in range(80):  # one more begins at each turn of the loop
                    some.append(tasks.create_task(store.ping()))
                    await asyncio.sleep(0)
                    if len(some) > age:
                        some[-age].cancel()
                for task in some[-age:]:
                    task.cancel()

        def whole() -> bool:
            store.observe_pool()
            return stat("pool_available") == stat("pool_size") == 2

        await until(whole)


# Idle connections.


@pytest.mark.usefixtures("loop_factory")
@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("lease_s", [0.0, 0.01, 10.0])
async def test_each_of_many_has_its_own_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch, lease_s: float, prepare: bool
) -> None:
    """However often links change hands, also under cancellations."""
    monkeypatch.setattr(store_pool, "LEASE_S", lease_s)
    owners = {}
    for number in range(20):
        user = database.add_user(f"user_{number}")
        owners[database.add_note(user)] = user
    rng = random.Random(lease_s)
    metrics = Metrics()

    def stat(name: str) -> float | None:
        labels = {"stat": name}
        return metrics.registry.get_sample_value("typelets_ws_postgres_pool", labels)

    settings = {"pool_max": 3, "prepare": prepare, "wait_ms": 5_000}
    async with opened(database.url, metrics, **settings) as store:

        async def ask(note: str) -> None:
            user = owners[note]
            assert await store.note_owner(note) == user
            written = await store.update_note(user, note, {"title": user})
            assert isinstance(written, VersionedRow)
            row = json.loads(written.row)
            assert (row["id"], row["title"], row["userId"]) == (note, user, user)

        for _ in range(15):
            async with asyncio.TaskGroup() as tasks:
                some = [tasks.create_task(ask(note)) for note in owners]
                for _ in range(rng.randrange(30)):
                    await asyncio.sleep(0)
                for task in rng.sample(some, 5):
                    task.cancel()
        assert len(backends(database)) <= 3

        def whole() -> bool:
            store.observe_pool()
            return stat("pool_available") == stat("pool_size")

        await until(whole)


@pytest.mark.usefixtures("loop_factory")
async def test_an_old_connection_is_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's `max_lifetime` holds for connections that are always idle."""

    def already_old(pool: object, connection: Any) -> None:
        connection._created_at = connection._expire_at = time.monotonic()

    monkeypatch.setattr(store_pool, "LEASE_S", 0.0)
    monkeypatch.setattr(BasePool, "_set_connection_expiry_date", already_old)
    async with opened(database.url, pool_min=1, pool_max=1) as store:
        seen: set[int] = set()

        async def renewed() -> bool:
            await store.ping()
            seen.update(backends(database))
            return len(seen) > 1

        await eventually(renewed)


@WITH_FAST_PATHS
async def test_what_is_not_needed_goes_back(database: Database) -> None:
    async with opened(database.url, pool_min=4) as store:
        at_hand = vars(vars(store)["_pool"])["_idle"]
        deadline = time.monotonic() + PATIENCE_S
        while len(at_hand) < 2:  # as soon as the pool has made a second one
            assert time.monotonic() < deadline
            await asyncio.gather(*(store.ping() for _ in range(40)))
        for link in at_hand:
            link.leased_until = 0.0
        for _ in range(len(at_hand)):
            await store.ping()
        assert not at_hand  # each went back after its last use


@pytest.mark.usefixtures("loop_factory")
async def test_what_runs_when_the_store_closes_may_end(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with asyncio.TaskGroup() as tasks:
        async with opened(database.url, statement_timeout_ms=5_000) as store:
            with database.locked(note):
                task = tasks.create_task(store.update_note("u", note, {"title": "x"}))
                await until(lambda: database.waiting_for_locks() == 1)
                await store.close()
                assert await failure(store.ping()) == QueryFailure.CLOSED
        assert isinstance(await task, VersionedRow)
    await until(lambda: not backends(database))
