"""Bugs of the earlier server, shown to be absent here.

One test for each of its known bugs that can apply; the numbers are those of the list
in the project's reference facts. Bugs that have a test elsewhere are named with it:

4 updates overtake each other: test_convergence · 5 wrong types corrupt:
test_protocol_notes · 8 token refresh at the limit: test_limits · 9 unbounded send
buffers: test_slow_devices · 10 nonces: test_signed_messages, unit/test_nonces ·
12 connections from one address: test_limits · 13 one key fetch per junk token:
test_authentication · 14 one locked row takes the pool: test_database_down · 16 limits
that are not numbers: unit/test_settings · 17 origins: test_handshake
"""

import json
import uuid

import pytest

from tests.daemon import Boot, eventually, publish
from tests.integration.scene import ALICE, BOB, staged
from tests.postgres import Database
from tests.raw import raw
from tests.redis import RedisServer
from tests.tokens import mint


@pytest.fixture(autouse=True)
def note(database: Database) -> str:
    database.add_user(ALICE)
    database.add_user(BOB)
    return database.add_note(ALICE)


async def test_1_re_auth_as_another_user_leaks_nothing(
    boot: Boot, note: str, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device(ALICE) as writer:
        async with server.device(ALICE) as turncoat:
            answer = await turncoat.auth(mint(BOB))
            assert answer["reason"] == "auth-failed"
            changes = {"title": "private"}
            update = {"type": "note_update", "noteId": note, "changes": changes}
            assert (await writer.ask(update))["type"] == "note_update_success"
            assert await turncoat.closed() == 4401
        await eventually(lambda: server.daemon.hub.devices == 1)
        assert server.daemon.hub.count(BOB) == 0
        heard = await publish(
            redis_server.url, BOB, {"event": "note_deleted", "noteId": note}
        )
        assert heard == 0


async def test_2_a_row_given_away_meanwhile_is_not_written(
    boot: Boot, note: str, database: Database
) -> None:
    async with boot() as server, staged(server) as scene:
        with database.locked(note) as thief:
            await scene.sender.send(
                {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
            )
            await eventually(lambda: database.waiting_for_locks() == 1)
            thief.execute("UPDATE notes SET user_id = %s", [BOB])
            thief.commit()
            answer = await scene.sender.receive()
        assert answer["message"] == "Note not found or access denied"
        assert database.note(note)["title"] == "t"
        assert await scene.other.barrier() == []
        assert await scene.bob.barrier() == []


async def test_2_a_row_deleted_meanwhile_is_not_found(
    boot: Boot, note: str, database: Database
) -> None:
    async with boot() as server, staged(server) as scene:
        with database.locked(note) as rest:
            await scene.sender.send(
                {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
            )
            await eventually(lambda: database.waiting_for_locks() == 1)
            rest.execute("DELETE FROM notes")
            rest.commit()
            answer = await scene.sender.receive()
        assert answer["code"] == "NOT_FOUND"
        assert await scene.other.barrier() == []


async def test_3_a_folder_of_anothers_and_none_are_reported_the_same(
    boot: Boot, note: str, database: Database
) -> None:
    his = database.add_folder(BOB)
    async with boot() as server, server.device(ALICE) as device:
        told = []
        for folder in (his, str(uuid.uuid4())):
            changes = {"folderId": folder}
            answer = await device.ask(
                {"type": "note_update", "noteId": note, "changes": changes}
            )
            assert answer.pop("folderId") == folder
            told.append(answer)
        assert told[0] == told[1]
        assert database.note(note)["folder_id"] is None


async def test_6_what_is_right_behind_auth_is_served(boot: Boot, note: str) -> None:
    async with boot() as server:
        for _ in range(12):
            async with server.device() as device:
                await device.send({"type": "auth", "token": mint(ALICE)})
                await device.send({"type": "join_note", "noteId": note})
                assert (await device.receive())["type"] == "auth_success"
                assert (await device.receive())["type"] == "note_joined"


async def test_6_what_is_right_behind_a_final_failure_is_not_applied(
    boot: Boot, note: str, database: Database
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        for _ in range(3):
            await device.send({"type": "auth", "token": "junk"})
        await device.send(
            {"type": "note_update", "noteId": note, "changes": {"title": "late"}}
        )
        assert await device.closed() == 4401
        async with server.device(ALICE) as other:
            assert await other.barrier() == []
        assert database.note(note)["title"] == "t"


async def test_7_a_deletion_is_reported_after_the_row_has_gone(
    boot: Boot, note: str, database: Database
) -> None:
    database.execute("DELETE FROM notes")
    async with boot() as server, staged(server) as scene:
        seen = await scene.say({"type": "note_deleted", "noteId": note})
        assert seen.sync["noteId"] == note


async def test_8_sending_auth_twice_at_the_limit_keeps_the_place(boot: Boot) -> None:
    one = {"devices_per_user": 1}
    async with boot(limits=one) as server, server.device() as device:
        auth = {"type": "auth", "token": mint(ALICE)}
        await device.send(auth)
        await device.send(auth)
        for _ in range(2):
            assert (await device.receive())["type"] == "auth_success"
        assert await device.barrier() == []


async def test_11_oversized_messages_are_counted_by_the_rate(boot: Boot) -> None:
    few = {"rate_messages": 5}
    async with boot(limits=few) as server, server.device(ALICE) as device:
        codes = [(await device.ask("x" * 1_048_577))["code"] for _ in range(6)]
        assert codes == ["MESSAGE_TOO_LARGE"] * 4 + ["RATE_LIMITED"] * 2


async def test_15_an_empty_subject_is_no_one(boot: Boot) -> None:
    async with boot() as server:
        async with server.device() as device:
            answer = await device.auth(mint("x", claims={"sub": ""}))
            assert answer["reason"] == "auth-failed"
            assert await device.closed() == 4401
        assert len(server.daemon.hub) == 0


async def test_18_a_downgrade_is_refused_where_signatures_are_required(
    boot: Boot, note: str, database: Database
) -> None:
    rules = {"require_signed_messages": True}
    async with boot(messages=rules) as server, server.device(ALICE) as device:
        update = {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
        for message in (update, {**update, "signature": 5, "payload": {}}):
            assert (await device.ask(message))["code"] == "SIGNATURE_REJECTED"
        assert database.note(note)["title"] == "t"


async def test_20_status_tells_no_user_ids_to_the_public(boot: Boot) -> None:
    async with boot() as server, server.device(ALICE):
        _, _, body = await server.get("/websocket/status")
        assert ALICE.encode() not in body
        assert json.loads(body)["connections"]["perUser"] == []


async def test_half_open_connections_do_not_count_for_ever(boot: Boot) -> None:
    """It sent no pings: a device that was gone without a word kept its place."""
    limits = {
        "devices_per_user": 1, "ping_interval_s": 0.2, "ping_timeout_s": 0.2,
    }  # fmt: skip
    async with boot(limits=limits) as server, raw(server) as ghost:
        ghost.send(json.dumps({"type": "auth", "token": mint(ALICE)}))
        await ghost.text()
        await eventually(lambda: server.daemon.hub.devices == 0)
        async with server.device(ALICE) as device:
            assert device.user_id == ALICE
