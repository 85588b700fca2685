"""The main job: connect, authenticate, receive what the REST service publishes."""

from tests.daemon import Boot, publish
from tests.redis import RedisServer


async def test_an_event_reaches_every_device_of_its_user_and_no_other(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        server.device("alice") as phone,
        server.device("alice") as laptop,
        server.device("bob") as other,
    ):
        data = b'{"id": "x",  "odd" : 1.0e0, "text": "\xc3\xa9\\u00e9"}'
        event = b'{"event":"note_created","noteData":' + data + b"}"
        assert await publish(redis_server.url, "alice", event) == 1
        for device in (phone, laptop):
            text = await device.receive_raw()
            assert f'"noteData":{data.decode()}' in text
            assert '"fromUserId":"server"' in text
        assert await other.barrier() == []
