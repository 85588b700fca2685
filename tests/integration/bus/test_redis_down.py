"""Redis away, deaf, killed: no device is dropped, and nothing is lost silently."""

import asyncio
import json
import random
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack, suppress

import pytest
import redis.asyncio as redis_client

from tests.daemon import (
    IMPATIENT,
    Boot,
    Device,
    daemon,
    eventually,
    publish,
)
from tests.postgres import Database
from tests.redis import TIMEOUTS, LinkProxy, RedisServer, link_proxy

DELETED = {"event": "note_deleted", "noteId": "x"}


async def resynced(device: Device) -> str:
    """Wait for resync_required; returns its reason."""
    while (message := await device.receive())["type"] != "resync_required":
        pass
    assert set(message) == {"type", "reason", "timestamp"}
    return str(message["reason"])


async def event(device: Device) -> str:
    """Wait for the next event; one outage may be reported more than once."""
    while (message := await device.receive())["type"] == "resync_required":
        pass
    return str(message["type"])


async def test_killed_and_restarted_under_connected_clients(
    boot: Boot, redis_server: RedisServer, database: Database
) -> None:
    user = database.add_user("alice")
    note = database.add_note(user)
    async with (
        boot() as server,
        server.device("alice") as phone,
        server.device("alice") as laptop,
    ):
        redis_server.kill()
        await eventually(lambda: bool(server.daemon.health.unready_reasons()))
        code, _, body = await server.get("/ready")
        assert code == 503
        assert "redis" in json.loads(body)["reasons"][0]
        # A device's own update is written, confirmed, and delivered here.
        update = {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
        assert (await phone.ask(update))["type"] == "note_update_success"
        assert (await laptop.receive())["type"] == "note_sync"
        assert database.note(note)["title"] == "x"
        # Somebody new gets in, with this process' own limits.
        async with server.device("bob") as newcomer:
            assert newcomer.user_id == "bob"
            redis_server.start()
            await eventually(lambda: not server.daemon.health.unready_reasons())
            assert (await server.get("/ready"))[0] == 200
            assert await resynced(phone)
            assert await resynced(laptop)
            assert await resynced(newcomer)
        await publish(redis_server.url, "alice", DELETED)
        for device in (phone, laptop):
            assert await event(device) == "note_deleted_sync"
            assert await device.barrier() == []
        assert len(server.logged("redis_down")) <= 2


@pytest.mark.parametrize("way", ["cut", "stall", "to_client", "to_server", "refuse"])
async def test_a_bad_link_is_noticed_and_nothing_is_lost_silently(
    redis_server: RedisServer, database: Database, way: str
) -> None:
    async def spoil(proxy: LinkProxy) -> None:
        if way == "cut":
            proxy.cut()
        elif way == "stall":
            proxy.stall()
        elif way == "refuse":
            await proxy.refuse()
        else:
            proxy.stall(**{"to_client": False, "to_server": False, way: True})

    async with (
        link_proxy(redis_server.port) as proxy,
        daemon(proxy.url, database.url, redis=IMPATIENT) as server,
        server.device("alice") as device,
    ):
        await spoil(proxy)
        if way != "cut":
            await eventually(lambda: bool(server.daemon.health.unready_reasons()))
        await publish(redis_server.url, "alice", DELETED)
        await proxy.heal()
        # The held event may yet arrive; otherwise a resync reports it.
        first = await device.receive()
        assert first["type"] in {"note_deleted_sync", "resync_required"}
        await eventually(lambda: not server.daemon.health.unready_reasons())
        await device.barrier()
        await publish(redis_server.url, "alice", {**DELETED, "noteId": "y"})
        while (message := await device.receive()).get("noteId") != "y":
            assert message["type"] == "resync_required"


async def test_a_subscriber_killed_in_redis_is_replaced_and_reported(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device("alice") as device:
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await resynced(device) == "lost"
        await publish(redis_server.url, "alice", DELETED)
        assert await event(device) == "note_deleted_sync"


async def test_others_are_reported_of_what_one_process_could_not_publish(
    boot: Boot, redis_server: RedisServer, database: Database
) -> None:
    async with (
        link_proxy(redis_server.port) as proxy,
        daemon(proxy.url, database.url, redis=IMPATIENT) as cut_off,
        boot() as well,
        cut_off.device("alice") as phone,
        well.device("alice") as laptop,
    ):
        await proxy.refuse()
        await eventually(lambda: not cut_off.daemon.bus.listening)
        await phone.send(
            {"type": "folder_created", "folderData": {"id": str(uuid.uuid4())}}
        )
        assert await phone.barrier() == []
        assert await laptop.barrier() == []
        await proxy.heal()
        assert await resynced(laptop) == "publish_failed"


async def test_many_devices_are_reported_over_a_while(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot(redis={"resync_spread_s": 1.0}) as server,
        AsyncExitStack() as stack,
    ):
        devices = [
            await stack.enter_async_context(server.device(f"user_{number}"))
            for number in range(100)
        ]
        loop = asyncio.get_running_loop()

        async def told_at(device: Device) -> float:
            await resynced(device)
            return loop.time()

        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        times = await asyncio.gather(*(told_at(device) for device in devices))
        # 100 devices at 5 ms each: spread over half a second, in 0.1 s steps.
        assert max(times) - min(times) > 0.2
        for device in devices:
            assert await device.barrier() == []
        assert server.figure("resyncs_total") == 100


USERS = [f"user_{number}" for number in range(20)]


async def misbehave(proxy: LinkProxy, rng: random.Random) -> None:
    for _ in range(6):
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        way = rng.choice(["cut", "stall", "refuse", "delay", "half"])
        if way == "cut":
            proxy.cut()
        elif way == "stall":
            proxy.stall()
        elif way == "half":
            proxy.stall(to_server=False)
        elif way == "delay":
            proxy.delay_s = 0.05
        else:
            await proxy.refuse()
        await asyncio.sleep(rng.uniform(0.05, 1.2))
        await proxy.heal()


async def send_numbers(url: str, rng: random.Random) -> dict[str, list[int]]:
    sent: dict[str, list[int]] = defaultdict(list)
    async with redis_client.Redis.from_url(url, **TIMEOUTS) as link:
        for number in range(5_000):
            user = rng.choice(USERS)
            event = f'{{"event":"note_deleted","noteId":"{number}"}}'
            await link.publish(f"typelets:user:{user}", event)
            sent[user].append(number)
            await asyncio.sleep(0.0008)
    return sent


async def listen(device: Device, log: list[int | None]) -> None:
    """None stands for resync_required."""
    while True:
        message = await device.receive()
        resync = message["type"] == "resync_required"
        log.append(None if resync else int(message["noteId"]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_no_event_is_lost_without_a_word(
    redis_server: RedisServer, database: Database, seed: int
) -> None:
    """5,000 numbered events while the link misbehaves: each device has event n, or
    got resync_required after it."""
    rng = random.Random(seed)
    async with (
        link_proxy(redis_server.port) as proxy,
        daemon(proxy.url, database.url, redis=IMPATIENT) as server,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        logs: dict[str, list[int | None]] = {user: [] for user in USERS}
        listening = []
        for user in USERS:
            device = await stack.enter_async_context(server.device(user))
            listening.append(tasks.create_task(listen(device, logs[user])))
        trouble = tasks.create_task(misbehave(proxy, rng))
        sent = await send_numbers(redis_server.url, random.Random(seed + 100))
        await trouble
        with suppress(AssertionError):
            # A probe of the impatient daemon may yet be late on a busy machine.
            await eventually(
                lambda: not any(wrong(sent[user], logs[user]) for user in USERS)
            )
        for task in listening:
            task.cancel()
    found = {user: wrong(sent[user], logs[user]) for user in USERS}
    assert not any(found.values()), found


def wrong(sent: list[int], log: list[int | None]) -> str:
    """What a device was not sent and not told; empty when all is well."""
    received = [entry for entry in log if entry is not None]
    if received != sorted(set(received)):
        return "out of order, or twice"
    missing = set(sent) - set(received)
    if not missing:
        return ""
    if None not in log:
        return f"missing without a resync: {missing}"
    last_resync = len(log) - 1 - log[::-1].index(None)
    # An event after the last resync is later than everything that is missing.
    late = [entry for entry in log[last_resync:] if entry is not None]
    return f"{late[0]} before {max(missing)}" if late and late[0] < max(missing) else ""
