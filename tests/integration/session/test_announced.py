"""Announcements with a requestId: acknowledged when Redis has taken them."""

import json
from typing import Any

import pytest

from tests.daemon import Boot
from tests.postgres import Database
from tests.redis import RedisServer

ID = "00000000-0000-4000-8000-000000000001"
ANNOUNCEMENTS: list[dict[str, Any]] = [
    {"type": "note_created", "noteData": {"id": ID}},
    {"type": "note_deleted", "noteId": ID},
    {"type": "folder_created", "folderData": {"id": ID}},
    {"type": "folder_updated", "folderId": ID, "changes": {"name": "x"}},
    {"type": "folder_deleted", "folderId": ID},
]


@pytest.mark.parametrize("message", ANNOUNCEMENTS, ids=lambda m: str(m["type"]))
async def test_an_announcement_is_acknowledged_when_redis_has_taken_it(
    boot: Boot, message: dict[str, Any]
) -> None:
    async with (
        boot() as server,
        server.device("alice") as device,
        server.device("alice") as other,
    ):
        await device.send({**message, "requestId": "r1"})
        reply = await device.receive()
        assert reply.pop("timestamp") > 0
        name = "noteId" if message["type"].startswith("note") else "folderId"
        assert reply == {"type": "announced", "requestId": "r1", name: ID}
        assert (await other.receive())["type"] == f"{message['type']}_sync"
        await device.send(message)
        assert await device.barrier() == []


async def test_an_announcement_that_redis_did_not_take_is_refused(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        server.device("alice") as device,
        server.device("alice") as other,
    ):
        redis_server.kill()
        await device.send({**ANNOUNCEMENTS[1], "requestId": "r1"})
        reply = await device.receive()
        assert (reply["type"], reply["code"]) == ("error", "UNAVAILABLE")
        assert (reply["requestId"], reply["noteId"]) == ("r1", ID)
        assert (await other.receive())["type"] == "note_deleted_sync"


async def test_each_verdict_on_a_signature_has_its_reason(boot: Boot) -> None:
    async with boot() as server, server.device("alice") as device:
        message = device.signed({"type": "join_note", "noteId": ID})
        old = device.signed({"type": "ping"}, timestamp=1)
        forged = device.signed({"type": "ping"}, secret="x")
        reasons = []
        for envelope in (message, message, old, forged):
            reply = await device.ask(json.dumps(envelope))
            if reply["code"] == "SIGNATURE_REJECTED":
                assert reply["message"] == "Message authentication failed"
                reasons.append(reply["reason"])
        assert reasons == ["replayed", "too_old", "bad_signature"]


async def test_a_note_without_an_id_is_not_announced(
    boot: Boot, database: Database
) -> None:
    async with boot() as server, server.device("alice") as device:
        for data in ({}, {"id": None}, {"title": "x"}):
            reply = await device.ask({"type": "note_created", "noteData": data})
            assert reply["code"] == "INVALID_FIELD"
            assert reply["message"] == "Missing noteId"
