"""Spec section 6: events from the REST service, and what the devices get."""

import asyncio
import json
import random
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio as redis_client

from tests.daemon import WITH_FAST_PATHS, Boot, Device, eventually, publish
from tests.postgres import Database
from tests.redis import TIMEOUTS, RedisServer

NOTE = "00000000-0000-4000-8000-000000000001"
ROW = {"id": NOTE, "title": "é\u2028", "tags": ["a"]}

KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {
            "event": "note_updated",
            "noteId": NOTE,
            "changes": {"title": "x"},
            "updatedNote": ROW,
        },
        {
            "type": "note_sync",
            "noteId": NOTE,
            "changes": {"title": "x"},
            "updatedNote": ROW,
        },
    ),
    (
        {"event": "note_created", "noteData": ROW},
        {"type": "note_created_sync", "noteData": ROW},
    ),
    (
        {"event": "note_deleted", "noteId": NOTE},
        {"type": "note_deleted_sync", "noteId": NOTE},
    ),
    (
        {"event": "folder_created", "folderData": {"id": NOTE}},
        {"type": "folder_created_sync", "folderData": {"id": NOTE}},
    ),
    (
        {
            "event": "folder_updated",
            "folderId": NOTE,
            "changes": {"name": "x"},
            "updatedFolder": {"id": NOTE},
        },
        {
            "type": "folder_updated_sync",
            "folderId": NOTE,
            "changes": {"name": "x"},
            "updatedFolder": {"id": NOTE},
        },
    ),
    (
        {"event": "folder_deleted", "folderId": NOTE},
        {"type": "folder_deleted_sync", "folderId": NOTE},
    ),
]


@pytest.mark.parametrize(
    ("event", "message"), KINDS, ids=[event["event"] for event, _ in KINDS]
)
async def test_each_kind_becomes_its_message(
    boot: Boot,
    redis_server: RedisServer,
    event: dict[str, Any],
    message: dict[str, Any],
) -> None:
    async with (
        boot() as server,
        server.device("alice") as device,
        server.device("bob") as other,
    ):
        await publish(redis_server.url, "alice", {**event, "publishedAt": 5})
        assert await device.receive() == {
            **message,
            "timestamp": 5,
            "fromUserId": "server",
        }
        await publish(redis_server.url, "alice", {**event, "fromUserId": "carol"})
        received = await device.receive()
        assert received["fromUserId"] == "carol"
        assert await other.barrier() == []


async def test_the_device_that_caused_it_is_left_out(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        server.device("alice") as origin,
        server.device("alice") as other,
    ):
        event = {
            "event": "note_deleted",
            "noteId": NOTE,
            "exceptConnectionId": origin.connection_id,
        }
        await publish(redis_server.url, "alice", event)
        assert (await other.receive())["type"] == "note_deleted_sync"
        assert await origin.barrier() == []
        # An id that is not connected here excludes no device.
        event["exceptConnectionId"] = "elsewhere"
        await publish(redis_server.url, "alice", event)
        assert (await other.receive())["type"] == "note_deleted_sync"
        assert (await origin.receive())["type"] == "note_deleted_sync"


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "not_json"),
    (b"junk", "not_json"),
    (b"[]", "unknown_event"),
    (b"null", "unknown_event"),
    (b'{"event":"nothing"}', "unknown_event"),
    (b'{"event":5}', "unknown_event"),
    (b'{"noteId":"x"}', "unknown_event"),
    (b'{"event":"note_deleted"}', "invalid_field"),
    (b'{"event":"note_deleted","noteId":5}', "invalid_field"),
    (b'{"event":"note_created","noteData":[]}', "invalid_field"),
    (b'{"event":"note_created","noteData":null}', "invalid_field"),
    (b'{"event":"note_created","noteData":{"a":"\xff"}}', "not_utf8"),
    (b'{"event":"note_created","noteData":{"a":1,}}', "not_json"),
    (b'{"event":"note_created","noteData":' + b"[" * 100_000, "too_deep"),
    (b'{"event":"note_updated","noteId":"x","changes":{}}', "invalid_field"),
    (b'{"event":"session_revoked"}', "invalid_field"),
]


async def test_malformed_events_are_counted_and_harm_nothing(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device("alice") as device:
        expected: dict[str, int] = defaultdict(int)
        for payload, reason in MALFORMED:
            expected[reason] += 1
            await publish(redis_server.url, "alice", payload)
        await publish(
            redis_server.url, "alice", {"event": "note_deleted", "noteId": "end"}
        )
        # They may have been changes, so the device gets a resync, here or there.
        resyncs = []
        while "noteId" not in (message := await device.receive()):
            resyncs.append(message)
        assert message["noteId"] == "end"
        resyncs += await device.barrier() if resyncs else [await device.receive()]
        assert all(each["reason"].startswith("event_") for each in resyncs)
        counted = {
            reason: server.figure("events_total", event="unknown", result=reason)
            for reason in expected
        }
        assert counted == expected
        assert server.logged("internal_error") == []


async def test_data_is_relayed_byte_for_byte(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device("alice") as device:
        data = (
            '{ "n" : 1.0e+2, "big":123456789012345678901234567890,'
            ' "s":"\\/\\u00e9", "é\u2028" : [ ] , "id":"x","id":"y" }'
        )
        event = f'{{"noteData":{data}, "event" :"note_created"}}'.encode()
        await publish(redis_server.url, "alice", event)
        assert f'"noteData":{data}' in await device.receive_raw()


async def test_a_process_hears_only_users_who_have_a_device_on_it(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server:
        event = KINDS[2][0]
        assert await publish(redis_server.url, "alice", event) == 0
        async with server.device("alice") as device:
            assert await publish(redis_server.url, "alice", event) == 1
            assert (await device.receive())["type"] == "note_deleted_sync"
        await eventually(lambda: redis_server.subscribers("typelets:user:alice") == 0)


async def test_a_reload_does_not_flap_the_subscription(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot(redis={"unsubscribe_delay_s": 30.0}) as server:
        for _ in range(5):
            async with server.device("alice"):
                pass
        await eventually(lambda: len(server.daemon.hub) == 0)
        assert redis_server.subscribers("typelets:user:alice") == 1
        # The probe and control channels are the only other subscriptions.
        assert redis_server.calls("unsubscribe") == 0


@WITH_FAST_PATHS
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_events_reach_a_thousand_devices_exactly_once_in_order(
    boot: Boot, redis_server: RedisServer
) -> None:
    """1,000 devices of 200 users, 10,000 events; spec section 6 at its main job."""

    async def collect(device: Device, count: int) -> list[int]:
        found = [int((await device.receive())["noteId"]) for _ in range(count)]
        assert await device.barrier() == []
        return found

    users = [f"user_{number}" for number in range(200)]
    async with boot() as server, AsyncExitStack() as stack:
        devices = [
            (user, await stack.enter_async_context(server.device(user)))
            for user in users
            for _ in range(5)
        ]
        rng = random.Random(1)
        events: dict[str, list[int]] = defaultdict(list)
        async with redis_client.Redis.from_url(redis_server.url, **TIMEOUTS) as link:
            for start in range(0, 10_000, 500):
                pipeline = link.pipeline(transaction=False)
                for number in range(start, start + 500):
                    user = rng.choice(users)
                    events[user].append(number)
                    pipeline.publish(
                        f"typelets:user:{user}",
                        f'{{"event":"note_deleted","noteId":"{number}"}}',
                    )
                await pipeline.execute()
        received = await asyncio.gather(
            *(collect(device, len(events[user])) for user, device in devices)
        )
        for (user, _), found in zip(devices, received, strict=True):
            assert found == events[user]


async def test_an_event_too_large_for_any_device_is_reported(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device("alice") as device:
        data = {"text": "x" * (4 * 1_048_576)}
        await publish(
            redis_server.url, "alice", {"event": "note_created", "noteData": data}
        )
        told = await device.receive()
        assert told["type"] == "resync_required"
        assert told["reason"] == "event_too_large"
        assert await device.barrier() == []


@pytest.mark.parametrize(
    "order",
    [{"event": "user_disconnected"}, {"event": "session_revoked", "sessionId": "s1"}],
)
async def test_what_came_before_an_order_reaches_those_sent_away(
    boot: Boot, order: dict[str, Any]
) -> None:
    """Also when both are read from Redis in one go."""
    async with boot() as server, server.device("alice", sid="s1") as device:
        for event in ({"event": "note_deleted", "noteId": NOTE}, order):
            server.daemon.relay.on_event("alice", json.dumps(event).encode())
        assert (await device.receive())["noteId"] == NOTE
        assert await device.closed() == 4401


LONE = rb"\ud83d"
LONG = b"x" * 100_000


async def test_half_a_surrogate_pair_is_passed_on_as_it_was_written(
    boot: Boot, redis_server: RedisServer
) -> None:
    payload = b'{"event":"note_created","noteData":{"id":"%s","title":"a%s"}}' % (
        NOTE.encode(),
        LONE,
    )
    async with boot() as server, server.device("alice") as device:
        await publish(redis_server.url, "alice", payload)
        message = await device.receive()
    assert message["noteData"] == {"id": NOTE, "title": "a\ud83d"}


async def test_null_in_an_optional_field_means_absent(
    boot: Boot, redis_server: RedisServer
) -> None:
    event = {
        "event": "folder_updated", "folderId": NOTE, "changes": None,
        "updatedFolder": {"id": NOTE}, "fromUserId": None, "publishedAt": None,
        "exceptConnectionId": None, "unknown": None,
    }  # fmt: skip
    async with boot() as server, server.device("alice") as device:
        await publish(redis_server.url, "alice", event)
        message = await device.receive()
    assert message["fromUserId"] == "server"
    assert message["updatedFolder"] == {"id": NOTE}
    assert "changes" not in message


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "not_json"),
        (b"\xff", "not_utf8"),
        (b'{"event":"note_created","noteData":null}', "invalid_field"),
        (
            b'{"event":"session_revoked","sessionId":"%s"}' % (b"x" * 9999),
            "invalid_field",
        ),
        (b'{"event":"nonsense"}', "unknown_event"),
    ],
)
async def test_an_event_that_cannot_be_read_is_followed_by_a_resync(
    boot: Boot, redis_server: RedisServer, payload: bytes, reason: str
) -> None:
    async with boot() as server, server.device("alice") as device:
        for _ in range(5):
            await publish(redis_server.url, "alice", payload)
        message = await device.receive()
        assert (message["type"], message["reason"]) == (
            "resync_required",
            f"event_{reason}",
        )
        assert await device.barrier() == []


@pytest.mark.parametrize("published_at", ["1e308", "-1", "1e999", "253402300800000"])
async def test_an_absurd_time_counts_as_absent(
    boot: Boot, redis_server: RedisServer, published_at: str
) -> None:
    payload = b'{"event":"note_deleted","noteId":"%s","publishedAt":%s}'
    async with boot() as server, server.device("alice") as device:
        await publish(
            redis_server.url, "alice", payload % (NOTE.encode(), published_at.encode())
        )
        message = await device.receive()
    assert message["type"] in {"note_deleted_sync", "resync_required"}
    assert 0 < message["timestamp"] < 253_402_300_800_000


@pytest.mark.parametrize(
    "forged",
    [
        {"version": "zzzz"},
        {"version": "2999-01-01T00:00:00.000Z"},
        {"updatedNote": {"title": "old", "updatedAt": "2999-01-01T00:00:00.000Z"}},
        {"updatedNote": {"title": "old", "updatedAt": "zzzzzzzzzzzzzzzzzzzzzzzZ"}},
        {
            "version": "2999-01-01T00:00:00.000Z",
            "updatedNote": {"title": "old", "updatedAt": "2999-01-01T00:00:00.000Z"},
        },
    ],
)
async def test_a_publisher_cannot_make_devices_show_an_older_row(
    boot: Boot, database: Database, redis_server: RedisServer, forged: dict[str, Any]
) -> None:
    note = database.add_note(database.add_user("alice"))
    event = {
        "event": "note_updated", "noteId": note, "changes": {"title": "old"},
        "updatedNote": {"title": "old"},
    }  # fmt: skip
    async with (
        boot() as server,
        server.device("alice") as writer,
        server.device("alice") as other,
    ):
        await publish(redis_server.url, "alice", event | forged)
        await other.next_of("note_sync")
        reply = await writer.ask(
            {"type": "note_update", "noteId": note, "changes": {"title": "new"}}
        )
        while reply["type"] != "note_update_success":
            reply = await writer.receive()
        assert reply["updatedNote"]["title"] == "new"
        shown = await other.next_of("note_sync")
        if shown["updatedNote"]["title"] == "t":  # read before the update, and shown
            shown = await other.next_of("note_sync")
        assert shown["changes"]["title"] == shown["updatedNote"]["title"] == "new"
