"""When keys are fetched again, and who waits: fetches are plain functions."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.fakes import make_logger
from tests.tokens import jwk, jwks, public_pem
from typelets_ws.clerk.jwks import KeyFetchError
from typelets_ws.clerk.keys import FetchedKeys, FixedKey, retry_delay
from typelets_ws.config.model import AuthSettings
from typelets_ws.ports import TokenError, TokenRejectReason
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def store(
    fetch: Callable[[], Awaitable[bytes]], clock: Clock, log: io.StringIO | None = None
) -> FetchedKeys:
    logger = make_logger(log or io.StringIO(), lambda: 0.0)
    settings = AuthSettings(key_cache_s=300.0, key_refetch_s=30.0)
    return FetchedKeys(fetch, settings, clock, Telemetry(Metrics(), logger))


@asynccontextmanager
async def running(
    fetch: Callable[[], Awaitable[bytes]], log: io.StringIO | None = None
) -> AsyncIterator[tuple[FetchedKeys, Clock]]:
    clock = Clock()
    keys = store(fetch, clock, log)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keys.run())
        try:
            yield keys, clock
        finally:
            task.cancel()


def test_retries_come_slower_up_to_half_a_minute() -> None:
    assert [retry_delay(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert retry_delay(10**9) == 30


async def test_fixed_key_never_changes() -> None:
    key = FixedKey(public_pem())
    assert key.find(None) is key.find("any")
    assert await key.renewed() is False
    await key.run()


async def test_cold_store_has_no_key_and_waits_for_the_first_fetch() -> None:
    async def fetch() -> bytes:
        return jwks(jwk(kid="a"))

    async with running(fetch) as (keys, _):
        with pytest.raises(TokenError, match="keys_unavailable"):
            keys.find("a")
        assert await keys.renewed()
        assert keys.find("a") == keys.find(None)
        with pytest.raises(TokenError, match="unknown_key"):
            keys.find("b")


async def test_forced_fetches_are_thirty_seconds_apart() -> None:
    fetched = 0

    async def fetch() -> bytes:
        nonlocal fetched
        fetched += 1
        return jwks()

    async with running(fetch) as (keys, clock):
        await keys.renewed()
        for seconds, forced in [(0, 1), (29.9, 1), (0.2, 2), (29.9, 2), (300, 3)]:
            clock.now += seconds
            await asyncio.gather(*(keys.renewed() for _ in range(20)))
            assert not await keys.renewed()
            assert fetched == 1 + forced


async def test_any_error_of_a_fetch_is_survived_and_its_text_kept_out_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("typelets_ws.clerk.keys.retry_delay", lambda failures: 0.01)
    log = io.StringIO()
    answers: list[bytes | Exception] = [RuntimeError("s3cret"), jwks()]

    async def fetch() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with running(fetch, log) as (keys, _):
        assert await keys.renewed()
        with pytest.raises(TokenError) as caught:
            keys.find(None)
        assert caught.value.reason is TokenRejectReason.KEYS_UNAVAILABLE
        # The next try comes by itself.
        assert await keys.renewed()
        keys.find(None)
    failed, fetched = map(json.loads, log.getvalue().splitlines())
    assert (failed["event"], failed["reason"]) == ("key_fetch_failed", "error")
    assert failed["error"] == "RuntimeError"
    assert fetched["event"] == "keys_fetched"
    assert "s3cret" not in log.getvalue()


async def test_failed_forced_fetch_leaves_fresh_keys_to_their_time() -> None:
    fetched = 0

    async def fetch() -> bytes:
        nonlocal fetched
        fetched += 1
        if fetched > 1:
            raise KeyFetchError("unreachable")
        return jwks()

    async with running(fetch) as (keys, _):
        await keys.renewed()
        assert await keys.renewed()
        assert fetched == 2
        keys.find(None)
        assert keys._due == keys._stale_at


async def test_waiting_ends_when_the_fetch_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("typelets_ws.clerk.keys._WAIT_S", 0.05)

    async def fetch() -> bytes:
        await asyncio.Event().wait()
        return b""

    async with running(fetch) as (keys, _):
        assert not await keys.renewed()


async def test_closed_store_lets_its_waiters_go() -> None:
    fetching = asyncio.Event()

    async def fetch() -> bytes:
        fetching.set()
        await asyncio.Event().wait()
        return b""

    keys = store(fetch, Clock())
    async with asyncio.TaskGroup() as group:
        run = group.create_task(keys.run())
        waiter = group.create_task(keys.renewed())
        await fetching.wait()
        run.cancel()
        assert await waiter
    assert not await keys.renewed()
    with pytest.raises(TokenError, match="keys_unavailable"):
        keys.find(None)
