"""The log of a busy, failing and attacked daemon at its most talkative level: one
line per event that matters, and nothing that was said or may not be known."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock, Mock

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.daemon import Device, eventually, publish
from tests.e2e.supervisor import Process, supervised
from tests.postgres import Database
from tests.redis import RedisServer, link_proxy
from tests.tokens import key_pair, mint
from typelets_ws.process import heartbeat
from typelets_ws.systemd import Systemd

MARK = "MARKER"
"""In everything that a client, the database or the REST service says."""
UNKNOWN = "5f0c4d1a-0000-4000-8000-000000000001"


async def authenticated(socket: ClientConnection, token: str) -> Device:
    device = Device(socket)
    await device.receive()
    assert (await device.auth(token))["type"] == "auth_success"
    return device


async def talk(device: Device, note: str) -> None:
    """Every kind of message, good and bad, with the mark in every place."""
    data = {"id": UNKNOWN, "title": MARK, "content": MARK, "encryptedTitle": MARK}
    changes = {k: f"{MARK} {k}" for k in ("title", "content", "encryptedContent")}
    update = {"type": "note_update", "noteId": note, "changes": changes}
    spoken: list[Any] = [
        update,
        {**update, "changes": {"starred": MARK}},
        {**update, "changes": {MARK: MARK, "title": MARK}},
        {**update, "noteId": MARK},
        {**update, "noteId": UNKNOWN},
        {**update, "changes": {"title": MARK, "folderId": UNKNOWN}},
        {"type": "join_note", "noteId": note},
        {"type": "note_deleted", "noteId": MARK},
        {"type": "note_created", "noteData": {**data, "userId": MARK}},
        {"type": MARK, "token": MARK},
        f'{{"type": "note_update", {MARK}',
        f'"{MARK}"',
        MARK.encode(),
        {"type": "ping", "requestId": MARK, "secret": MARK},
        device.signed(update),
        device.signed(update, signature=MARK),
        device.signed(update, timestamp=1),
        device.signed(update, nonce=MARK),
        device.signed(update, nonce=MARK),
        device.signed({"type": MARK}),
        {"type": "auth", "token": f"{MARK}.{MARK}.{MARK}"},
    ]
    for message in spoken:
        await device.send(message)
    await device.send({"type": "note_created", "noteData": data})
    await device.barrier()


async def strangers(url: str) -> list[str]:
    """Tokens that do not hold, and handshakes that are refused."""
    tokens = [
        mint("alice", key=key_pair("stranger")),
        mint("alice", expires_in=-100),
        mint("alice", claims={"nbf": 9_999_999_999}),
        mint(f"alice {MARK}"),
        mint("alice", kid=MARK, claims={"azp": MARK}, key=MARK * 8, algorithm="HS256"),
        f"{MARK}.x.y",
    ]
    for token in tokens:
        async with connect(url) as socket:
            device = Device(socket)
            await device.receive()
            await device.send({"type": "auth", "token": token})
            await device.receive()
            with suppress(ConnectionClosed):
                await device.send({"type": "note_update", "changes": {"title": MARK}})
    async with connect(url) as socket:
        await socket.send(b"\xff" * 70_000)
        await Device(socket).closed()
    reader, writer = await asyncio.open_connection(*url[5:-1].split(":"))
    writer.write(f"GET /?token={MARK} HTTP/1.1\r\n{MARK}: {MARK}\r\n\r\n".encode())
    await reader.read()
    writer.close()
    return tokens


def leaks(process: Process, secrets: list[str]) -> list[str]:
    """Lines with something that must not be in them."""
    parts = [part for secret in secrets for part in secret.split(".") if len(part) > 8]
    return [
        line
        for line in process.text.splitlines()
        if MARK in line or any(part in line for part in parts)
    ]


async def test_no_line_holds_a_token_a_secret_or_a_word_of_a_note(
    redis_server: RedisServer, database: Database
) -> None:
    user = database.add_user("alice")
    note = database.add_note(user, title=MARK, content=MARK)
    # The server trusts; the password is there to be leaked.
    joint = "&" if "?" in database.url else "?"
    database_url = f"{database.url}{joint}password={MARK}"
    async with link_proxy(redis_server.port) as link:
        with supervised(
            link.url,
            database_url,
            server={"status_token": MARK},
            log={"level": "debug"},
            database={"statement_timeout_ms": 500, "wait_ms": 500},
        ) as supervisor:
            process = supervisor.start()
            await process.heard("READY=1")
            token = mint(user)
            async with connect(supervisor.url) as socket:
                device = await authenticated(socket, token)
                await talk(device, note)
                secrets = [token, device.secret, *await strangers(supervisor.url)]
                for event in (
                    f'{{"event":"note_created","noteData":{{"title":"{MARK}"}}}}',
                    f'{{"event":"{MARK}"}}',
                    f'{{"event":"note_updated","noteId":"{MARK}"}}',
                    MARK,
                ):
                    await publish(redis_server.url, user, event.encode())
                update = {"type": "note_update", "noteId": note}
                update["changes"] = {"title": MARK, "content": MARK}  # type: ignore[assignment]
                with database.locked(note):
                    slow = await answer(device, update)
                await link.refuse()
                await eventually(lambda: bool(process.logged("redis_down")))
                await answer(device, device.signed(update))
                database.stop()
                down = await answer(device, update)
                database.start()
                await link.heal()
                await eventually(lambda: bool(process.logged("redis_back")))
                await eventually(lambda: bool(process.logged("postgres_answers")))
                process.send(signal.SIGHUP)
                await eventually(lambda: bool(process.logged("reloaded")))
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
            assert leaks(process, secrets) == []

            # The id that a client may quote is in the log, with the reason.
            failed = {x["correlation_id"]: x for x in process.logged("message_failed")}
            for reply in (slow, down):
                assert reply["code"] == "UNAVAILABLE"
                assert failed[reply["correlationId"]]["type"] == "note_update"
            assert failed[slow["correlationId"]]["cause"] == "timeout"
            assert failed[down["correlationId"]]["cause"] == "disconnected"

            # Possible attacks are marked as such, and no other line is.
            marked = {x["event"] for x in process.lines if x.get("security")}
            assert marked == {"auth_rejected", "signature_rejected"}
            reasons = {x["reason"] for x in process.logged("auth_rejected")}
            assert {"bad_signature", "expired", "malformed"} <= reasons
            # An outage is one line, however many tried.
            for event_name in ("redis_down", "redis_back", "postgres_unreachable"):
                assert len(process.logged(event_name)) == 1, event_name


async def answer(device: Device, message: Any) -> dict[str, Any]:
    """The reply to a message; sync messages before it are passed over."""
    await device.send(message)
    while True:
        found = await device.receive()
        if found["type"] in {"error", "note_update_success"}:
            return found


async def test_a_flood_is_a_few_lines_and_a_sum(
    redis_server: RedisServer, database: Database
) -> None:
    with supervised(redis_server.url, database.url, log={"burst": 5}) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        async with connect(supervisor.url) as socket:
            await authenticated(socket, mint("alice"))
            began = time.monotonic()
            for _ in range(200):
                await publish(redis_server.url, "alice", b"no event")
            await eventually(lambda: bool(process.logged("event_dropped")))
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        totals = process.logged("suppressed")  # one for each ten seconds that it took
        assert {total["lines_of"] for total in totals} == {"event_dropped"}
        written = len(process.logged("event_dropped"))
        assert sum(total["count"] for total in totals) + written == 200
        assert written <= 5 * (time.monotonic() - began + 2), "five in each second"


async def test_sums_come_by_the_clock_though_nothing_is_written_any_more() -> None:
    output, idle = Mock(), MagicMock()
    idle.health.unready_reasons.return_value = []
    often = Systemd({"WATCHDOG_USEC": "10000"}, os.getpid(), time.monotonic)
    beating = asyncio.get_running_loop().create_task(heartbeat(idle, often, output))
    try:
        await eventually(lambda: output.summarise.call_count >= 5)
    finally:
        beating.cancel()
