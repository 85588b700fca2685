"""The publisher against a real Redis and a whole daemon."""

import pytest
import redis
import redis.asyncio
from click.testing import CliRunner

from tests.daemon import Boot
from tests.redis import RedisServer
from tests.tokens import mint
from typelets_ws.cli import main
from typelets_ws.publisher import AsyncPublisher, Publisher

ID = "00000000-0000-4000-8000-000000000001"


async def test_devices_hear_it_except_the_one_that_caused_it(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as house,
        house.device("alice") as phone,
        house.device("alice") as laptop,
        AsyncPublisher(redis_server.url) as publisher,
    ):
        heard = await publisher.notify_note_created(
            "alice",
            b'{"id" : 1.0}',
            from_user_id="alice",
            except_connection_id=phone.connection_id,
        )
        assert heard == 1
        assert '"noteData":{"id" : 1.0}' in await laptop.receive_raw()
        assert await phone.barrier() == []
        with Publisher(redis_server.url) as blocking:
            assert blocking.notify_note_deleted("alice", ID) == 1
            assert blocking.notify_note_deleted("bob", ID) == 0
        assert (await phone.receive())["type"] == "note_deleted_sync"


async def test_a_revoked_session_closes_and_stays_out(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as house,
        house.device("alice", sid="sess_bad") as phone,
        house.device("alice", sid="sess_good") as laptop,
        AsyncPublisher(redis_server.url) as publisher,
    ):
        assert await publisher.revoke_session("alice", "sess_bad") == 1
        assert await phone.closed() == 4401
        assert await laptop.barrier() == []
        await publisher.disconnect_user("alice")
        assert await laptop.closed() == 4401


async def test_a_session_revoked_while_nobody_listens_stays_out(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with AsyncPublisher(redis_server.url) as publisher:
        assert await publisher.revoke_session("alice", "sess_bad", keep_s=60) == 0
    assert 0 < redis_server.command("TTL", "typelets:barred:sess_bad") <= 60
    async with boot() as house, house.device() as phone, house.device() as laptop:
        answer = await phone.auth(mint("alice", sid="sess_bad"))
        assert answer["type"] == "auth_failed"
        assert await phone.closed() == 4401
        answer = await laptop.auth(mint("alice", sid="sess_good"))
        assert answer["type"] == "auth_success"


def test_the_operator_too_bars_a_session_when_nobody_listens(
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
    link = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True)
    async with AsyncPublisher(link, prefix="notes:") as publisher:
        assert await publisher.notify_folder_deleted("alice", ID) == 0
    assert await link.ping()
    await link.aclose()
    with redis.Redis.from_url(redis_server.url) as client:
        with Publisher(client) as plain:
            assert plain.revoke_session("alice", "sess_1") == 0
        assert client.ping()


def test_a_mistake_raises_before_anything_is_awaited() -> None:
    publisher = AsyncPublisher("redis://127.0.0.1:1/0")
    with pytest.raises(ValueError, match="note_id"):
        _ = publisher.notify_note_deleted("alice", 7)  # type: ignore[arg-type]


async def test_an_unreachable_redis_is_an_error() -> None:
    async with AsyncPublisher("redis://127.0.0.1:1/0") as publisher:
        with pytest.raises(redis.ConnectionError):
            await publisher.notify_note_deleted("alice", ID)


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
