"""The store on a Postgres that is contended, slow, silent or away."""

import asyncio

import pytest

from tests.integration.postgres.stores import (
    ABSENT,
    IMPATIENT,
    StallingProxy,
    answering,
    failure,
    opened,
    until,
)  # fmt: skip
from tests.postgres import Database
from tests.within import within
from typelets_ws.ports import VersionedRow
from typelets_ws.postgres.store import QueryFailure
from typelets_ws.telemetry.metrics import Metrics

pytestmark = pytest.mark.usefixtures("fast_paths")


@pytest.mark.usefixtures("loop_factory")
async def test_a_locked_row_costs_its_user_and_no_one_else(database: Database) -> None:
    database.add_user("u")
    database.add_user("v")
    locked, other = database.add_note("u"), database.add_note("v")
    metrics = Metrics()
    times = {"statement_timeout_ms": 3_000, "wait_ms": 1_000}
    async with opened(database.url, metrics, **times) as store:
        await answering(store, 5.0)
        with database.locked(locked), within(6.0):
            async with asyncio.TaskGroup() as tasks:
                stuck = [
                    tasks.create_task(
                        failure(store.update_note("u", locked, {"title": "x"}))
                    )
                    for _ in range(20)
                ]
                await until(lambda: database.waiting_for_locks() == 2)
                for _ in range(20):
                    with within(1.0):
                        written = await store.update_note("v", other, {"title": "y"})
                        await store.ping()
                    assert isinstance(written, VersionedRow)
                assert database.waiting_for_locks() == 2
            reasons = {task.result() for task in stuck}
            assert reasons == {QueryFailure.TIMEOUT, QueryFailure.POOL_FULL}
        assert isinstance(
            await store.update_note("u", locked, {"title": "z"}), VersionedRow
        )
    assert database.note(locked)["title"] == "z"
    value = metrics.registry.get_sample_value
    failures = "typelets_ws_query_failures_total"
    assert value(failures, {"reason": "timeout"}) == 2
    assert value(failures, {"reason": "pool_full"}) == 18
    name = {"query": "update_note"}
    assert value("typelets_ws_query_seconds_count", name) == 23
    assert value("typelets_ws_postgres_up") == 1


async def test_a_turn_ends_and_the_next_in_line_has_it(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with (
        opened(database.url, statement_timeout_ms=5_000, wait_ms=5_000) as store,
        asyncio.TaskGroup() as tasks,
    ):
        with database.locked(note):
            updates = [
                tasks.create_task(store.update_note("u", note, {"title": str(n)}))
                for n in range(10)
            ]
            await until(lambda: database.waiting_for_locks() == 2)
        for task in updates:
            assert isinstance(await task, VersionedRow)


async def test_too_many_waiting_are_refused_at_once(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")

    async with opened(
        database.url, max_waiting=1, wait_ms=5_000, statement_timeout_ms=5_000
    ) as store:
        with database.locked(note):
            async with asyncio.TaskGroup() as tasks:
                waiting = []
                for stuck in (1, 2, 2):
                    work = store.update_note("u", note, {"title": "x"})
                    waiting.append(tasks.create_task(work))
                    await until(lambda: database.waiting_for_locks() == stuck)  # noqa: B023
                with within(0.3):
                    reason = await failure(store.update_note("u", note, {"title": "y"}))
                assert reason == QueryFailure.POOL_FULL
                for task in waiting:
                    task.cancel()


@pytest.mark.usefixtures("loop_factory")
async def test_restart_between_updates_is_noticed_by_no_one(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    async with opened(database.url, pool_min=4, wait_ms=2_000) as store:
        for round_ in range(3):
            await asyncio.gather(*(store.ping() for _ in range(4)))
            await asyncio.to_thread(database.stop if round_ else database.crash)
            await asyncio.to_thread(database.start)
            with within(1.0):
                written = await store.update_note("u", note, {"title": str(round_)})
            assert isinstance(written, VersionedRow)


async def test_connection_lost_under_a_statement_is_sent_again(
    database: Database,
) -> None:
    database.add_user("u")
    note = database.add_note("u")

    async with opened(database.url, wait_ms=5_000) as store:
        async with asyncio.TaskGroup() as tasks:
            with database.locked(note):
                task = tasks.create_task(store.update_note("u", note, {"title": "x"}))
                await until(lambda: database.waiting_for_locks() == 1)
                database.kill_connections("typelets-ws")
        assert isinstance(await task, VersionedRow)
    assert database.note(note)["title"] == "x"


@pytest.mark.usefixtures("loop_factory")
async def test_stopped_database_is_reported_quickly_and_comes_back(
    database: Database,
) -> None:
    database.add_user("u")
    note = database.add_note("u")
    metrics = Metrics()

    def up() -> float | None:
        return metrics.registry.get_sample_value("typelets_ws_postgres_up")

    async with opened(database.url, metrics, wait_ms=2_000) as store:
        await store.ping()
        assert up() == 1
        await asyncio.to_thread(database.stop)
        with within(2.5):
            reason = await failure(store.update_note("u", note, {"title": "x"}))
        assert reason == QueryFailure.DISCONNECTED
        assert up() == 0
        with within(1.0):  # by now the pool knows that it has no connection
            for _ in range(3):
                assert await failure(store.note_owner(note)) == reason
        await asyncio.to_thread(database.start)
        await answering(store)
        assert up() == 1
        written = await store.update_note("u", note, {"title": "x"})
        assert isinstance(written, VersionedRow)


async def test_starts_without_a_database(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    url = database.url
    database.stop()
    with within(0.3):
        store = opened(url, **IMPATIENT)
        started = await store.__aenter__()
    try:
        assert await failure(started.note_owner(note)) == QueryFailure.DISCONNECTED
        await asyncio.to_thread(database.start)
        await answering(started)
        assert await started.note_owner(note) == "u"
    finally:
        await store.__aexit__(None, None, None)


async def test_no_connection_available(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    with database.exhausted():
        async with opened(database.url, **IMPATIENT) as store:
            with within(1.0):
                reason = await failure(store.note_owner(note))
            assert reason == QueryFailure.DISCONNECTED
    async with opened(database.url, pool_min=1) as store:
        await store.ping()
        with database.exhausted():  # the one connection there is serves all
            owners = await asyncio.gather(*(store.note_owner(note) for _ in range(20)))
        assert owners == ["u"] * 20


async def test_closed_store_refuses(database: Database) -> None:
    async with opened(database.url) as store:
        await store.ping()
    assert await failure(store.note_owner(ABSENT)) == QueryFailure.CLOSED


@pytest.mark.usefixtures("loop_factory")
async def test_silent_server_is_cut_off(database: Database) -> None:
    database.add_user("u")
    note = database.add_note("u")
    metrics = Metrics()

    def up() -> float | None:
        return metrics.registry.get_sample_value("typelets_ws_postgres_up")

    proxy = StallingProxy(database.url)
    async with (
        proxy.built() as url,
        opened(url, metrics, pool_min=2, **IMPATIENT) as store,
    ):
        await answering(store)
        proxy.open.clear()
        assert await failure(store.ping()) == QueryFailure.TIMEOUT
        assert up() == 0
        with within(1.2):  # 400 ms for the statement, 250 ms of grace
            reason = await failure(store.update_note("u", note, {"title": "x"}))
        # The statement is not answered, or the connection that replaces the last.
        assert reason in {QueryFailure.TIMEOUT, QueryFailure.DISCONNECTED}
        proxy.open.set()
        await answering(store)
        assert up() == 1
        assert isinstance(
            await store.update_note("u", note, {"title": "y"}), VersionedRow
        )
        assert proxy.links > 2
