"""The log about one connection is enough to find out why a user is away."""

import json
import time
from typing import Any

from tests.daemon import Boot, eventually, publish
from tests.redis import RedisServer
from tests.tokens import mint
from typelets_ws.status import as_user_table

UNKNOWN = "5f0c4d1a-0000-4000-8000-000000000001"
ABOUT = {"connection", "address", "user"}


def of_user(server: Any, user: str) -> list[tuple[str, ...]]:
    """Event and the telling word of each line about the user, in order."""
    return [
        (line["event"], line.get("reason") or line.get("type") or "")
        for line in server.log
        if line.get("user") == user
    ]


async def test_debug_follows_one_connection_from_its_handshake_to_its_end(
    boot: Boot,
) -> None:
    async with boot(log={"level": "debug"}) as server:
        async with server.device() as device:
            await device.auth(mint("alice"))
            await device.ask({"type": "join_note", "noteId": UNKNOWN})
            await device.ask({"type": "ping"})
            name = device.connection_id
        await eventually(lambda: bool(server.logged("connection_closed")))
        lines = [x for x in server.log if x.get("connection") == name]
        assert [
            (x["event"], x.get("type"), x.get("result") or x.get("reason"))
            for x in lines
        ] == [
            ("connection_opened", None, None),
            ("authenticated", None, None),
            ("message_handled", "auth", "ok"),
            ("message_handled", "join_note", "NOT_FOUND"),
            ("message_handled", "ping", "ok"),
            ("connection_closed", None, "client"),
        ]
        assert {x["address"] for x in lines} == {"127.0.0.1"}
        assert "user" not in lines[0]
        assert {x["user"] for x in lines[1:]} == {"alice"}


async def test_each_refusal_says_whom_it_concerns(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot(limits={"devices_per_user": 1}) as server:
        async with server.device("alice") as device, server.device() as second:
            await second.send({"type": "auth", "token": mint("alice")})
            await second.closed()
            await device.ask(device.signed({"type": "ping"}, signature="wrong"))
            await device.auth(mint("alice", expires_in=-100))
            await publish(
                redis_server.url, "alice", {"event": "note_deleted", "noteId": 7}
            )
            await eventually(lambda: bool(server.logged("event_dropped")))
            await publish(redis_server.url, "alice", {"event": "user_disconnected"})
            await device.closed()
        async with server.device() as forged:
            await forged.send({"type": "auth", "token": "no.to.ken"})
            await forged.closed()
        assert of_user(server, "alice") == [
            ("too_many_devices", ""),
            ("signature_rejected", ""),
            ("auth_rejected", "expired"),
            ("event_dropped", "invalid_field"),
            ("connection_closed", "user_disconnected"),
        ]
        (dropped,) = server.logged("event_dropped")
        assert dropped["field"] == "noteId"
        for event in ("too_many_devices", "signature_rejected", "auth_rejected"):
            for line in server.logged(event):
                known = ABOUT if line.get("user") else ABOUT - {"user"}
                assert known <= line.keys(), line
        # Whose token this was meant to be is not known, so it is not said.
        assert "user" not in server.logged("auth_rejected")[-1]


async def test_status_of_a_user_shows_connections_and_why_others_were_refused(
    boot: Boot,
) -> None:
    async with (
        boot() as server,
        server.device("alice") as device,
        server.device() as second,
        server.device() as other,
    ):
        await second.auth(mint("alice", expires_in=-100))
        await other.auth(mint("bob", expires_in=-100))
        path = "/websocket/status?user=alice"
        _, _, body = await server.get(path, admin=True)
        found = json.loads(body)
        assert found["userId"] == "alice"
        (connection,) = found["connections"]
        assert connection["connectionId"] == device.connection_id
        assert connection["address"] == "127.0.0.1"
        assert abs(connection["since"] / 1000 - time.time()) < 60
        (line,) = found["recent"]
        assert (line["event"], line["reason"]) == ("auth_rejected", "expired")
        assert line["connection"] != device.connection_id
        table = as_user_table(found)
        assert "alice: 1 connection(s)" in table
        assert "auth_rejected  reason=expired" in table
        # A stranger learns nothing of it.
        _, _, body = await server.get(path)
        assert json.loads(body)["connections"]["perUser"] == []
        assert b"alice" not in body


async def test_a_request_that_cannot_be_read_is_told_with_its_header(
    boot: Boot,
) -> None:
    async with boot() as server:
        status, _, _ = await server.get("/health", headers={"Cookie": "c" * 20_000})
        assert status == 431
        (line,) = server.logged("request_refused")
        assert (line["status"], line["field"]) == (431, "Cookie")
        assert line["address"] == "127.0.0.1"
