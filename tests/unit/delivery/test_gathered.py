"""Reads for `sync`: which requests share a statement, and what a failure costs."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest

from typelets_ws import delivery
from typelets_ws.delivery.gathered import BATCH, GatheredChanges
from typelets_ws.delivery.healing import MOST_FAILED, SLOW_S
from typelets_ws.ports import StoreError
from typelets_ws.recovery_ports import Extent, Since, Snapshot, UserChanges

T = TypeVar("T")
SNAPSHOT = Snapshot("database", 7, 9)
PAGE = Extent(500, 1_000, digest=True)


class Statements:
    """Records the users of each statement; each waits until it is let go."""

    def __init__(self) -> None:
        self.users: list[list[str]] = []
        self.fails: set[str] = set()
        self.reason = "timeout"
        self.open = asyncio.Event()
        self.now = 0.0
        self.takes: dict[str, float] = {}

    async def changed(
        self, wanted: Sequence[Since], _extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        self.users.append([since.user_id for since in wanted])
        await self.open.wait()
        await asyncio.sleep(0)
        self.now += sum(self.takes.get(since.user_id, 0.0) for since in wanted)
        if self.fails.intersection(since.user_id for since in wanted):
            raise StoreError(self.reason)
        return SNAPSHOT, [UserChanges([], more=False) for _ in wanted]


@asynccontextmanager
async def running(statements: Statements) -> AsyncIterator[GatheredChanges]:
    gathered = GatheredChanges(statements, lambda: statements.now)  # type: ignore[arg-type]
    task = start(gathered.run())
    try:
        yield gathered
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


async def ask(
    gathered: GatheredChanges, names: Sequence[str], extent: Extent = PAGE
) -> list[asyncio.Task[tuple[Snapshot, UserChanges]]]:
    tasks = [start(gathered.changed(Since(name, 5), extent)) for name in names]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_request_that_comes_alone_is_read_at_once() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        (task,) = await ask(gathered, ["ada"])
        assert statements.users == [["ada"]]
        statements.open.set()
        assert (await task)[0] is SNAPSHOT


async def test_requests_that_wait_share_a_statement() -> None:
    statements = Statements()
    names = [f"user_{n}" for n in range(BATCH + 5)]
    async with running(statements) as gathered:
        first = await ask(gathered, ["ada"]) + await ask(gathered, ["bob"])
        rest = await ask(gathered, names)
        assert statements.users == [["ada"], ["bob"]]
        statements.open.set()
        await asyncio.gather(*first, *rest)
    assert statements.users[2:] == [names[:BATCH], names[BATCH:]]


async def test_whole_copies_and_other_extents_are_read_apart() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        first = await ask(gathered, ["ada"]) + await ask(gathered, ["bob"])
        ids = await ask(gathered, ["ids"], PAGE._replace(ids=True))
        whole = [
            start(gathered.changed(Since(name, None), PAGE))
            for name in ("whole", "all of it")
        ]
        await asyncio.sleep(0)
        statements.open.set()
        await asyncio.gather(*first, *ids, *whole)
    assert statements.users[2:] == [["ids"], ["whole"], ["all of it"]]


async def test_users_take_turns_and_each_has_one_request_read_at_a_time() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        tasks = await ask(gathered, ["mallory"] * 20)
        assert statements.users == [["mallory"]]
        tasks += await ask(gathered, ["ada"])
        assert statements.users == [["mallory"], ["ada"]]
        tasks += await ask(gathered, ["bob", "ada", "carl"])
        statements.open.set()
        await asyncio.gather(*tasks)
    assert statements.users[2:4] == [["mallory", "bob", "carl"], ["ada"]]
    assert statements.users[4:] == [["mallory"]] * 18


async def test_slow_users_are_read_one_at_a_time_and_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statements = Statements()
    statements.takes = {"mallory": 2 * SLOW_S, "oscar": 2 * SLOW_S, "trudy": 3 * SLOW_S}
    statements.fails = {"trudy"}
    async with running(statements) as gathered:
        statements.open.set()
        for name in statements.takes:
            (task,) = await ask(gathered, [name])
            with suppress(StoreError):
                await task
        statements.open.clear()
        statements.users.clear()
        tasks = await ask(gathered, [*statements.takes, "ada"])
        assert statements.users == [["mallory"], ["ada"]]
        tasks += await ask(gathered, ["bob", "carl"])
        statements.takes.clear()
        statements.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        alone = [users for users in statements.users if "bob" not in users]
        assert sorted(alone) == [["ada"], ["mallory"], ["oscar"], ["trudy"]]
        statements.fails.clear()
        statements.open.clear()
        statements.users.clear()
        tasks = await ask(gathered, ["ada", "bob"])
        tasks += await ask(gathered, ["mallory", "oscar", "trudy"])
        statements.open.set()
        await asyncio.gather(*tasks)
        assert statements.users[-1] == ["mallory", "oscar", "trudy"], "quick again"
        monkeypatch.setattr(delivery.gathered, "MOST_SLOW", 2)
        for name in ("a", "b", "c"):
            statements.takes = {name: 2 * SLOW_S}
            (task,) = await ask(gathered, [name])
            await task
        assert list(gathered._slow) == ["b", "c"]


async def test_a_user_whose_rows_cannot_be_read_costs_no_other_user_the_page() -> None:
    statements = Statements()
    statements.fails = {"large"}
    async with running(statements) as gathered:
        first = await ask(gathered, ["ada"]) + await ask(gathered, ["bob"])
        tasks = await ask(gathered, ["carl", "large", "dora"])
        statements.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*first)
    assert [type(answer) for answer in answers] == [tuple, StoreError, tuple]


@pytest.mark.parametrize(
    ("reason", "statements_of_the_batch"),
    [("disconnected", 1), ("pool_full", 1), ("timeout", 1 + MOST_FAILED)],
)
async def test_a_postgres_that_is_away_or_slow_fails_all_at_once(
    reason: str, statements_of_the_batch: int
) -> None:
    statements = Statements()
    names = [f"user_{n}" for n in range(BATCH)]
    statements.fails, statements.reason = {"ada", "bob", *names}, reason
    statements.takes = dict.fromkeys(statements.fails, 2 * SLOW_S)
    async with running(statements) as gathered:
        tasks = await ask(gathered, ["ada"]) + await ask(gathered, ["bob"])
        tasks += await ask(gathered, names)
        statements.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert {repr(answer) for answer in answers} == {repr(StoreError(reason))}
        assert len(statements.users) == 2 + statements_of_the_batch
        assert bool(gathered._slow) == (reason == "timeout"), "says nothing of the rows"


async def test_a_statement_that_two_share_does_not_tell_which_of_them_is_slow() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        tasks = await ask(gathered, ["carl"]) + await ask(gathered, ["dora"])
        tasks += await ask(gathered, ["ada", "bob"])
        statements.takes = dict.fromkeys(("ada", "bob"), SLOW_S)
        statements.open.set()
        await asyncio.gather(*tasks)
        assert statements.users[-1] == ["ada", "bob"]
        assert not gathered._slow


async def test_a_request_that_is_cancelled_harms_no_other() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        gone, stays = await ask(gathered, ["gone", "stays"])
        gone.cancel()
        statements.open.set()
        assert (await stays)[0] is SNAPSHOT
        with pytest.raises(asyncio.CancelledError):
            await gone


async def test_what_is_being_read_fails_when_the_daemon_ends() -> None:
    statements = Statements()
    async with running(statements) as gathered:
        (task,) = await ask(gathered, ["ada"])
    with pytest.raises(StoreError):
        await task
