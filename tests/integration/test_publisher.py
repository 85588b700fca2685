"""The publisher against a real Redis and a whole daemon."""

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from click.testing import CliRunner

from tests.daemon import Boot, eventually
from tests.notes import NOTE_ID, whole_note
from tests.redis import TIMEOUTS, RedisServer, link_proxy
from tests.tokens import mint
from tests.within import PATIENCE_S, within
from typelets_ws.cli import main
from typelets_ws.publisher import CONNECTIONS, AsyncPublisher, Publisher

ID = NOTE_ID


async def test_devices_hear_it_except_the_one_that_caused_it(
    boot: Boot, redis_server: RedisServer
) -> None:
    data = json.dumps(whole_note("alice"), separators=(" ,", ": ")).encode()
    async with (
        boot() as server,
        server.device("alice") as phone,
        server.device("alice") as laptop,
        AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher,
    ):
        heard = await publisher.notify_note_created(
            "alice",
            data,
            from_user_id="alice",
            except_connection_id=phone.connection_id,
        )
        assert heard == 1
        assert f'"noteData":{data.decode()}' in await laptop.receive_raw()
        assert await phone.barrier() == []
        with Publisher(redis_server.url, timeout_s=PATIENCE_S) as blocking:
            assert blocking.notify_note_deleted("alice", ID) == 1
            assert blocking.notify_note_deleted("bob", ID) == 0
        assert (await phone.receive())["type"] == "note_deleted_sync"


async def test_a_revoked_session_closes_and_stays_out(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        server.device("alice", sid="sess_bad") as phone,
        server.device("alice", sid="sess_good") as laptop,
        AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher,
    ):
        assert await publisher.revoke_session("alice", "sess_bad") == 1
        assert await phone.closed() == 4401
        assert await laptop.barrier() == []
        await publisher.disconnect_user("alice")
        assert await laptop.closed() == 4401


async def test_a_session_revoked_while_no_one_listens_stays_out(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher:
        assert await publisher.revoke_session("alice", "sess_bad", keep_s=60) == 0
    assert 0 < redis_server.command("TTL", "typelets:barred:sess_bad") <= 60
    async with boot() as server, server.device() as phone, server.device() as laptop:
        answer = await phone.auth(mint("alice", sid="sess_bad"))
        assert answer["type"] == "auth_failed"
        assert await phone.closed() == 4401
        answer = await laptop.auth(mint("alice", sid="sess_good"))
        assert answer["type"] == "auth_success"


def test_the_operator_too_bars_a_session_when_no_one_listens(
    redis_server: RedisServer,
) -> None:
    result = CliRunner().invoke(
        main,
        ["disconnect", "--user", "alice", "--session", "sess_bad"],
        env={"REDIS_URL": redis_server.url},
    )
    assert result.exit_code == 0, result.output
    assert 3500 < redis_server.command("TTL", "typelets:barred:sess_bad") <= 3600


async def test_a_given_client_stays_open(redis_server: RedisServer) -> None:
    link = redis.asyncio.Redis.from_url(
        redis_server.url, decode_responses=True, **TIMEOUTS
    )
    async with AsyncPublisher(link, prefix="notes:", timeout_s=PATIENCE_S) as publisher:
        assert await publisher.notify_folder_deleted("alice", ID) == 0
    assert await link.ping()
    await link.aclose()
    with redis.Redis.from_url(redis_server.url, **TIMEOUTS) as client:
        with Publisher(client, timeout_s=PATIENCE_S) as plain:
            assert plain.revoke_session("alice", "sess_1") == 0
        assert client.ping()


def test_a_mistake_raises_before_anything_is_awaited() -> None:
    publisher = AsyncPublisher("redis://127.0.0.1:1/0")
    with pytest.raises(ValueError, match="note_id"):
        _ = publisher.notify_note_deleted("alice", 7)  # type: ignore[arg-type]


async def test_an_unreachable_redis_is_an_error_to_those_who_ask_for_it() -> None:
    url = "redis://127.0.0.1:1/0"
    async with AsyncPublisher(
        url, raise_errors=True, timeout_s=PATIENCE_S
    ) as publisher:
        with pytest.raises(redis.ConnectionError):
            await publisher.notify_note_deleted("alice", ID)
    async with AsyncPublisher(url) as publisher:
        assert await publisher.notify_note_deleted("alice", ID) == 0
        assert publisher.failures == 1


LONGEST_WAIT_S = 0.75
"""Of a call: 0.25 s, and its own work."""


async def test_a_connection_that_is_reset_before_a_write_is_a_failure(
    redis_server: RedisServer,
) -> None:
    """redis-py passes on the RuntimeError with which uvloop refuses such a write."""

    async def reset(connection: redis.asyncio.Connection) -> None:
        assert connection._writer is not None
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        await connection.on_connect()

    link = redis.asyncio.Redis(port=redis_server.port, redis_connect_func=reset)
    async with link, AsyncPublisher(link, timeout_s=PATIENCE_S) as quiet:
        assert await quiet.notify_note_deleted("user_alice", NOTE_ID) == 0
        assert quiet.failures == 1
    async with (
        link,
        AsyncPublisher(link, raise_errors=True, timeout_s=PATIENCE_S) as loud,
    ):
        with pytest.raises(redis.ConnectionError):
            await loud.notify_note_deleted("user_alice", NOTE_ID)


async def test_a_redis_that_says_nothing_costs_a_request_a_quarter_of_a_second(
    redis_server: RedisServer,
) -> None:
    async with AsyncPublisher(redis_server.url) as publisher:
        with redis_server.frozen():
            for _ in range(3):
                with within(LONGEST_WAIT_S):
                    assert await publisher.notify_note_deleted("alice", ID) == 0
            with within(LONGEST_WAIT_S):  # it is not asked again and again
                for _ in range(100):
                    await publisher.notify_note_deleted("alice", ID)
            assert publisher.failures == 103
    with (
        Publisher(redis_server.url) as blocking,
        redis_server.frozen(),
        within(LONGEST_WAIT_S),
    ):
        assert blocking.notify_note_deleted("alice", ID) == 0
        assert blocking.notify_note_deleted("alice", ID) == 0


def test_threads_that_wait_for_a_connection_learn_from_those_that_have_one(
    redis_server: RedisServer,
) -> None:
    def connections() -> int:
        stats = redis_server.command("INFO", "stats")
        return int(stats["total_connections_received"])

    calls, before = 3 * CONNECTIONS, connections()
    with Publisher(redis_server.url) as blocking:
        with redis_server.frozen(), ThreadPoolExecutor(calls) as pool:
            list(pool.map(lambda _: blocking.disconnect_user("alice"), range(calls)))
        assert blocking.failures == calls
        while blocking.pending:
            time.sleep(0.01)
    # Those that waited tried nothing; the repetitions have one connection at a time.
    assert connections() - before < 2 * CONNECTIONS


async def test_two_hundred_calls_at_once_are_all_sent(
    redis_server: RedisServer,
) -> None:
    async with AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher:
        calls = [publisher.notify_note_deleted("alice", ID) for _ in range(200)]
        assert await asyncio.gather(*calls) == [0] * 200
        assert publisher.failures == 0
    # A client of the caller's own, whose pool refuses above 100.
    link = redis.asyncio.Redis.from_url(redis_server.url, **TIMEOUTS)
    async with AsyncPublisher(link, timeout_s=PATIENCE_S) as publisher:
        calls = [publisher.notify_note_deleted("alice", ID) for _ in range(200)]
        await asyncio.gather(*calls)
        assert publisher.failures == 0
    await link.aclose()
    assert redis_server.calls("publish") == 400
    with Publisher(redis_server.url, timeout_s=PATIENCE_S) as blocking:
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda _: blocking.disconnect_user("alice"), range(200)))
        assert blocking.failures == 0
    assert redis_server.calls("publish") == 600


async def test_users_whose_events_were_lost_fetch_again_when_redis_is_back(
    redis_server: RedisServer,
) -> None:
    spy = redis.asyncio.Redis.from_url(redis_server.url, **TIMEOUTS).pubsub()
    await spy.psubscribe("typelets:user:*")
    async with (
        link_proxy(redis_server.port) as link,
        AsyncPublisher(link.url, timeout_s=PATIENCE_S) as publisher,
    ):
        with Publisher(link.url, timeout_s=PATIENCE_S) as blocking:
            await link.refuse()
            assert await publisher.notify_note_deleted("alice", ID) == 0
            assert await publisher.notify_note_deleted("alice", ID) == 0
            assert await publisher.revoke_session("bob", "sess_bad") == 0
            lost = await asyncio.to_thread(blocking.notify_note_deleted, "carol", ID)
            assert lost == 0
            assert (publisher.pending, blocking.pending) == (2, 1)
            await link.heal()
            heard: dict[str, str] = {}
            async with asyncio.timeout(PATIENCE_S):
                while len(heard) < 3:
                    message = await spy.get_message(timeout=PATIENCE_S)
                    if message and message["type"] == "pmessage":
                        user = message["channel"].decode().rpartition(":")[2]
                        heard[user] = json.loads(message["data"])["event"]
            assert heard == {
                "alice": "resync_required",
                "bob": "session_revoked",
                "carol": "resync_required",
            }
            assert redis_server.command("TTL", "typelets:barred:sess_bad") > 3500
            await eventually(lambda: publisher.pending + blocking.pending == 0)
            assert await publisher.notify_note_deleted("alice", ID) == 1
            assert (publisher.failures, blocking.failures) == (3, 1)
    await spy.aclose()  # type: ignore[no-untyped-call]


async def test_a_cancelled_request_still_owes_its_event(
    redis_server: RedisServer,
) -> None:
    async with AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher:
        with redis_server.frozen():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await publisher.notify_note_deleted("alice", ID)
            assert publisher.pending == 1
        await eventually(lambda: publisher.pending == 0)
        assert await publisher.notify_note_deleted("alice", ID) == 0
        assert publisher.failures == 1


def test_it_needs_redis_and_msgspec_alone() -> None:
    """As after `pip install` of those two: nothing else of the daemon's is there."""
    program = """
import sys
ours = {"websockets", "psycopg", "psycopg_pool", "structlog", "click", "uvloop",
        "prometheus_client", "jwt", "cryptography", "hiredis"}
for name in ours:
    sys.modules[name] = None
import typelets_ws.publisher
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_command_that_reached_no_process_says_so_and_fails(
    redis_server: RedisServer,
) -> None:
    for args in (
        ["publish", "--user", "alice", "note_deleted", f'{{"noteId": "{ID}"}}'],
        ["disconnect", "--user", "alice"],
    ):
        result = CliRunner().invoke(main, args, env={"REDIS_URL": redis_server.url})
        assert result.exit_code == 1, result.output
        assert "no process heard it" in result.stderr
