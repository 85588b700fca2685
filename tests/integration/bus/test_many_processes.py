"""One user's devices on several processes: every guarantee holds across them."""

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial

from tests.daemon import Boot, RunningDaemon, eventually, publish
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint

UPDATE_KEYS = {"type", "noteId", "changes", "updatedNote", "timestamp", "fromUserId"}

ID = "00000000-0000-4000-8000-000000000001"


async def test_what_one_device_does_reaches_the_others_wherever_they_are(
    boot: Boot, database: Database
) -> None:
    user = database.add_user("alice")
    note = database.add_note(user)
    async with (
        boot() as here,
        boot() as there,
        boot() as elsewhere,
        here.device("alice") as phone,
        here.device("alice") as tablet,
        there.device("alice") as laptop,
        elsewhere.device("bob") as other,
    ):
        update = {"type": "note_update", "noteId": note, "changes": {"title": "é"}}
        answer = await phone.ask(update)
        assert answer["type"] == "note_update_success"
        for device in (tablet, laptop):
            sync = await device.receive()
            assert set(sync) == UPDATE_KEYS
            assert sync["updatedNote"] == answer["updatedNote"]
            assert sync["fromUserId"] == "alice"
        await laptop.send({"type": "note_deleted", "noteId": note})
        for device in (phone, tablet):
            assert (await device.receive())["type"] == "note_deleted_sync"
        for device in (phone, tablet, laptop, other):
            assert await device.barrier() == []
        # A process where the user has no device does not even hear of it.
        assert elsewhere.figure("deliveries_total") == 0
        assert elsewhere.figure("events_total", event="note_updated", result="ok") == 0


async def test_all_devices_see_one_order(boot: Boot) -> None:
    """Announcements from three processes at once: everybody the same sequence."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(boot()) for _ in range(3)]
        speakers = [
            await stack.enter_async_context(server.device("alice"))
            for server in servers
        ]
        listeners = [
            await stack.enter_async_context(server.device("alice"))
            for server in servers
        ]
        for number in range(40):
            for index, speaker in enumerate(speakers):
                data = {"id": ID, "text": f"{index}-{number}"}
                await speaker.send({"type": "folder_created", "folderData": data})
        seen = []
        for listener in listeners:
            texts = [
                (await listener.receive())["folderData"]["text"] for _ in range(120)
            ]
            assert await listener.barrier() == []
            seen.append(texts)
        assert seen[0] == seen[1] == seen[2]
        for index in range(3):
            own = [text for text in seen[0] if text.startswith(f"{index}-")]
            assert own == [f"{index}-{number}" for number in range(40)]


async def attempt(stack: AsyncExitStack, server: RunningDaemon) -> bool:
    device = await stack.enter_async_context(server.device())
    answer = await device.auth(mint("alice"))
    if answer["type"] == "auth_success":
        return True
    assert answer["message"] == "Maximum connections exceeded for this user"
    assert await device.closed() == 4429
    return False


async def test_forty_devices_race_for_twenty_places_on_three_processes(
    boot: Boot,
) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(boot()) for _ in range(3)]
        got_in = await asyncio.gather(
            *(attempt(stack, servers[number % 3]) for number in range(40))
        )
        assert sum(got_in) == 20
        assert sum(server.daemon.hub.count("alice") for server in servers) == 20


async def test_places_come_free_with_the_devices_that_held_them(boot: Boot) -> None:
    limits = {"devices_per_user": 2}
    async with (
        boot(limits=limits) as here,
        boot(limits=limits) as there,
        AsyncExitStack() as stack,
    ):
        async with here.device("alice"), there.device("alice"):
            assert not await attempt(stack, here)
            assert not await attempt(stack, there)
        await eventually(lambda: len(here.daemon.hub) + len(there.daemon.hub) == 0)
        await here.daemon.bus.flush()
        await there.daemon.bus.flush()
        assert await attempt(stack, here)
        assert await attempt(stack, there)


async def test_a_nonce_is_single_use_over_all_processes(boot: Boot) -> None:
    async with (
        boot() as here,
        boot() as there,
        here.device() as phone,
        there.device() as laptop,
    ):
        token = mint("alice")
        await phone.auth(token)
        await laptop.auth(token)
        assert phone.secret == laptop.secret
        leave = {
            "type": "leave_note",
            "noteId": "00000000-0000-4000-8000-000000000001",
        }
        envelope = phone.signed(leave)
        assert (await phone.ask(envelope))["type"] == "note_left"
        replayed = await laptop.ask(envelope)
        assert replayed["message"] == "Message authentication failed"
        assert replayed["code"] == "SIGNATURE_REJECTED"
        assert there.figure("security_events_total", kind="signature_replayed") == 1
        assert (await laptop.ask(laptop.signed(leave)))["type"] == "note_left"


async def test_the_cost_of_an_event_in_redis_commands_does_not_depend_on_other_users(
    boot: Boot, redis_server: RedisServer
) -> None:
    """Counted by Redis: commands per connection, per event, per signed message."""
    # No probe in between that would be counted too.
    quiet = {"probe_interval_s": 3600.0, "probe_timeout_s": 3600.0}
    async with (
        boot(redis=quiet) as server,
        AsyncExitStack() as stack,
        server.device("alice") as phone,
        server.device("alice") as laptop,
    ):
        for others in (10, 100):
            redis_server.command("CONFIG", "RESETSTAT")
            for number in range(others):
                await stack.enter_async_context(
                    server.device(f"user_{others}_{number}")
                )
            assert redis_server.calls("subscribe") == others
            assert redis_server.calls("evalsha") == others
            redis_server.command("CONFIG", "RESETSTAT")
            for number in range(10):
                message = {"type": "note_created", "noteData": {"id": ID, "n": number}}
                await phone.send(phone.signed(message))
                assert (await laptop.receive())["noteData"]["n"] == number
            assert redis_server.calls("publish") == 10
            assert redis_server.calls("set") == 10


async def test_a_session_revoked_on_one_process_is_out_everywhere(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as here,
        boot() as there,
        boot() as elsewhere,
        here.device("alice", sid="sess_a") as phone,
        there.device("alice", sid="sess_a") as laptop,
        there.device("alice", sid="sess_b") as other,
    ):
        revoked = {"event": "session_revoked", "sessionId": "sess_a"}
        assert await publish(redis_server.url, "alice", revoked) == 2
        assert await phone.closed() == 4401
        assert await laptop.closed() == 4401
        assert await other.barrier() == []
        await here.daemon.bus.flush()
        # Its token is still valid, and a process that never heard of it bars it.
        for server in (here, there, elsewhere):
            async with server.device() as device:
                answer = await device.auth(mint("alice", sid="sess_a"))
                assert answer["reason"] == "auth-failed"
                assert await device.closed() == 4401
        # A live connection cannot change over to it either.
        answer = await other.auth(mint("alice", sid="sess_a"))
        assert answer["type"] == "auth_failed"
        assert await other.closed() == 4401


async def test_a_disconnected_user_is_out_everywhere_and_may_come_back(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as here,
        boot() as there,
        here.device("alice") as phone,
        there.device("alice") as laptop,
        there.device("bob") as other,
    ):
        gone = {"event": "user_disconnected", "reason": "deleted"}
        await publish(redis_server.url, "alice", gone)
        assert await phone.closed() == 4401
        assert await laptop.closed() == 4401
        assert await other.barrier() == []
        async with here.device("alice") as again:
            assert again.user_id == "alice"


async def test_a_re_auth_finds_a_session_that_another_process_barred(
    boot: Boot, redis_server: RedisServer
) -> None:
    revoked = {"event": "session_revoked", "sessionId": "sess_b"}
    async with boot() as here, boot() as there:
        async with there.device("alice", sid="sess_b") as laptop:
            await publish(redis_server.url, "alice", revoked)
            assert await laptop.closed() == 4401
        async with here.device("alice", sid="sess_a") as phone:
            answer = await phone.auth(mint("alice", sid="sess_b"))
            assert (answer["type"], answer["reason"]) == ("auth_failed", "auth-failed")
            assert await phone.closed() == 4401


def is_empty(server: RunningDaemon) -> bool:
    return not server.daemon.state.connections


async def test_churn_leaves_nothing_behind(
    boot: Boot, redis_server: RedisServer
) -> None:
    """Connect, subscribe, drop, reconnect: all counts return to where they were."""

    async def visit(server: RunningDaemon, rng: random.Random) -> None:
        for _ in range(4):
            async with server.device(f"user_{rng.randrange(20)}") as device:
                if rng.random() < 0.5:
                    device.socket.transport.abort()
                else:
                    await device.barrier()

    rng = random.Random(7)
    async with boot() as here, boot() as there:
        tasks_before = len(asyncio.all_tasks())
        async with asyncio.TaskGroup() as tasks:
            for number in range(60):
                tasks.create_task(visit((here, there)[number % 2], rng))
        for server in (here, there):
            built = server.daemon
            await eventually(partial(is_empty, server))
            assert len(built.hub) == 0
            assert built.hub.devices == 0
            assert built.state.limiter.total == 0
            assert built.state.limiter.unauthenticated == 0
            assert not len(built.state.context.authenticator.presence)
        await eventually(
            lambda: redis_server.command("PUBSUB", "CHANNELS", "*user:*") == []
        )
        await here.daemon.bus.flush()
        await there.daemon.bus.flush()
        assert redis_server.command("KEYS", "typelets:devices:*") == []
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before)
