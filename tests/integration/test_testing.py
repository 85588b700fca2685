"""The test client for apps and REST services, against a whole daemon and `dev`."""

import pytest

from tests.daemon import Boot, publish
from tests.dev import Dev, dev
from tests.redis import RedisServer
from tests.tokens import mint
from typelets_ws.dev.samples import USERS, note_id
from typelets_ws.testing import DeviceClient, connect, dev_token

__all__ = ["dev"]


async def test_expect_finds_a_message_by_its_fields(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, connect(server.url, token=mint("alice")) as phone:
        assert phone.user_id == "alice"
        for note in ("1", "2", "3"):
            event = {"event": "note_deleted", "noteId": note_id(1, int(note))}
            await publish(redis_server.url, "alice", event)
        wanted = note_id(1, 2)
        assert (await phone.expect("note_deleted_sync", noteId=wanted))["timestamp"]
        assert [message["noteId"] for message in await phone.barrier()] == [
            note_id(1, 3)
        ]


async def test_what_came_instead_is_said(boot: Boot) -> None:
    async with boot() as server, connect(server.url, token=mint("alice")) as phone:
        await phone.send({"type": "ping", "requestId": "mine"})
        await phone.socket.close()
        with pytest.raises(AssertionError, match=r"no note_sync .*Closed.*mine"):
            await phone.expect("note_sync")


async def test_a_message_that_does_not_come_is_waited_for_no_longer(boot: Boot) -> None:
    async with boot() as server, connect(server.url, token=mint("alice")) as phone:
        impatient = DeviceClient(phone.socket, timeout_s=0.2)
        with pytest.raises(AssertionError, match=r"no note_sync .*TimeoutError"):
            await impatient.expect("note_sync")


async def test_a_refused_token_is_an_assertion(boot: Boot) -> None:
    async with boot() as server:
        with pytest.raises(AssertionError, match="token-expired"):
            async with connect(server.url, token=mint("alice", expires_in=-60)):
                pass


async def test_a_user_of_dev(dev: Dev) -> None:
    url = dev.page.replace("http:", "ws:")
    async with connect(url, user=USERS[0]) as phone, connect(url) as stranger:
        changes = {"title": "by a test"}
        update = {"type": "note_update", "noteId": note_id(1, 1), "changes": changes}
        answer = await phone.ask(phone.signed(update))
        assert answer["updatedNote"]["title"] == "by a test"
        expired = dev_token(url, USERS[0], session="sess_1", expires_in=-60)
        assert (await stranger.auth(expired))["reason"] == "token-expired"
