"""Junk into a live daemon: answered as documented, or closed with a documented code.

Never an internal error, never a stuck or leaked connection, never a word to others.
The seed is printed; each test is bounded by its number of rounds.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Callable

import pytest

from tests.daemon import Boot, RunningDaemon, eventually
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.raw import CLOSE, PONG, TEXT, Raw, frame, handshake, raw
from tests.redis import RedisServer
from tests.tokens import mint
from typelets_ws.protocol.errors import CloseCode, Code

WORDS = [
    "auth", "ping", "join_note", "leave_note", "note_update", "note_created",
    "note_deleted", "folder_created", "folder_updated", "folder_deleted", "sync",
    "nonsense", "note_sync",
]  # fmt: skip
SERVER_WORDS = {
    "auth_success", "auth_failed", "pong", "note_joined", "note_left",
    "note_update_success", "error", "note_sync", "note_created_sync",
    "note_deleted_sync", "folder_created_sync", "folder_updated_sync",
    "folder_deleted_sync", "announced", "sync_page", "healed", "resync_required",
}  # fmt: skip
LIMITS = {
    "rate_messages": 1_000_000, "devices_per_user": 100, "abort_s": 0.2,
    "connections": 20_000,
}  # fmt: skip


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def junk_value(rng: random.Random, depth: int = 0) -> object:
    plain: list[object] = [
        None, True, False, 0, -1, 1.5, 10**30, "", "x", "[ENCRYPTED]", "\0", "é\u2028",
        "a" * 70, "00000000-0000-4000-8000-000000000001", [], {}, ALICE, BOB,
    ]  # fmt: skip
    if depth < 3 and rng.random() < 0.3:
        return [junk_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if depth < 3 and rng.random() < 0.3:
        names = ["title", "starred", "folderId", "id", "userId", "tags", "updatedAt"]
        return {name: junk_value(rng, depth + 1) for name in rng.sample(names, 3)}
    return rng.choice(plain)


def junk_message(rng: random.Random, note: str) -> bytes:
    message: dict[str, object] = {"type": rng.choice(WORDS)}
    for name in ("noteId", "folderId", "changes", "noteData", "folderData",
                 "updatedFolder", "requestId", "token"):  # fmt: skip
        if rng.random() < 0.4:
            message[name] = junk_value(rng)
    if rng.random() < 0.3:
        message["noteId"] = note
    if rng.random() < 0.2:
        parts = {"signature": "A" * 44, "timestamp": 1, "nonce": "n"}
        message = {"payload": message, **parts}
    data = json.dumps(message, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.3:
        mangled = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            mangled[rng.randrange(len(mangled))] = rng.randrange(256)
        data = bytes(mangled)
    return data


def junk_frames(rng: random.Random, note: str) -> bytes:
    data = b""
    for _ in range(rng.randint(1, 5)):
        kind = rng.random()
        if kind < 0.2:
            data += rng.randbytes(rng.randint(1, 40))
        elif kind < 0.5:
            opcode = rng.choice([0, 1, 1, 2, 3, 7, 8, 9, 10, 11, 15])
            payload = rng.randbytes(rng.choice([0, 1, 2, 60, 125, 126, 300]))
            fin = rng.random() < 0.7
            data += frame(opcode, payload, fin=fin, masked=rng.random() < 0.95)
        else:
            data += frame(TEXT, junk_message(rng, note))
    if rng.random() < 0.2:
        data = data[: rng.randint(1, len(data))]
    return data


async def listen(client: Raw) -> int | None:
    """Check all that comes, to the close frame or the end; returns the code."""
    try:
        while True:
            opcode, data = await client.frame()
            if opcode == CLOSE:
                return int.from_bytes(data[:2], "big") if data else None
            assert opcode in {TEXT, PONG}
            if opcode == TEXT:
                message = json.loads(data)
                assert message["type"] in SERVER_WORDS
                if message["type"] == "error":
                    assert message["code"] in set(Code) - {"INTERNAL"}
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def attack(server: RunningDaemon, user: str | None, data: bytes) -> None:
    async with raw(server) as client:
        if user is not None:
            client.send(json.dumps({"type": "auth", "token": mint(user)}))
            assert b"auth_success" in await client.text()
        client.write(data)
        client.write(frame(CLOSE, (1000).to_bytes(2, "big")))
        client.writer.write_eof()
        code = await listen(client)
        # A client that closes has its own code sent back to it; 1000 is its own.
        assert code is None or code in {*CloseCode, 1000} or 3000 <= code < 5000, code


async def rounds(
    server: RunningDaemon, count: int, user: str | None, make: Callable[[], bytes]
) -> None:
    """Many attacks, some at once; then nothing of them is left."""
    for _ in range(count // 10):
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(attack(server, user, make()))
    await eventually(lambda: len(server.daemon.state.connections) <= 1)
    assert not server.logged("internal_error")
    assert not [line for line in server.log if line["level"] == "critical"]
    assert "Traceback" not in json.dumps(server.log)


async def test_junk_frames_before_authentication(
    boot: Boot, rng: random.Random
) -> None:
    async with boot(limits=LIMITS) as server:
        await rounds(server, 300, None, lambda: junk_frames(rng, "x"))
        assert server.daemon.hub.devices == 0
        door = server.daemon.state.limiter
        assert (door.total, door.unauthenticated) == (0, 0)


async def test_junk_frames_and_messages_after_authentication(
    boot: Boot, database: Database, rng: random.Random
) -> None:
    database.add_user(ALICE)
    database.add_user(BOB)
    note, his = database.add_note(ALICE), database.add_note(BOB)
    before = database.note(his)
    async with boot(limits=LIMITS) as server, server.device(BOB) as bob:
        await rounds(server, 300, ALICE, lambda: junk_frames(rng, note))
        assert await bob.barrier() == []
        assert server.daemon.hub.devices == 1
        assert database.note(his) == before


async def test_junk_messages_on_one_connection_are_all_answered_or_served(
    boot: Boot, database: Database, rng: random.Random
) -> None:
    database.add_user(ALICE)
    note = database.add_note(ALICE)
    limits = LIMITS
    async with boot(limits=limits) as server, server.device(ALICE) as device:
        for number in range(600):
            data = junk_message(rng, note)
            if b'"auth"' in data:
                continue
            try:
                await device.send(data.decode())
            except UnicodeDecodeError:
                await device.send(data)
            if number % 50 == 0:
                for message in await device.barrier():
                    assert message["type"] in SERVER_WORDS
                    assert message.get("code") != "INTERNAL", message
        await device.barrier()
        assert not server.logged("internal_error")


async def test_nesting_near_the_interpreters_limit_is_served_or_refused(
    boot: Boot, database: Database
) -> None:
    """Input that one decoder just accepts may exceed the next one's limit."""
    database.add_user(ALICE)
    async with (
        boot(limits=LIMITS) as server,
        server.device(ALICE) as device,
        server.device(ALICE) as other,
    ):
        for depth in range(600, 1010):
            deep = "[" * depth + "]" * depth
            data = f'{{"id":"{uuid.UUID(int=1)}","x":{deep}}}'
            text = f'{{"type":"note_created","noteData":{data}}}'
            await device.send(text)
            answers = await device.barrier()
            assert answers == [] or answers[0]["code"] == "INVALID_MESSAGE", depth
            if answers == []:
                heard = await other.receive_raw()
                assert deep in heard or '"event_too_deep"' in heard, depth
        assert await other.barrier() == []
        assert not server.logged("internal_error")


async def test_junk_on_redis_is_dropped_and_the_rest_goes_on(
    boot: Boot, redis_server: RedisServer, rng: random.Random
) -> None:
    kinds = [
        "note_updated", "note_created", "note_deleted", "folder_created",
        "folder_updated", "folder_deleted", "resync_required", "nonsense",
    ]  # fmt: skip

    def junk_event() -> bytes:
        event: dict[str, object] = {"event": rng.choice(kinds)}
        for name in ("noteId", "folderId", "changes", "updatedNote", "noteData",
                     "folderData", "updatedFolder", "publishedAt", "version",
                     "fromUserId", "exceptConnectionId", "reason"):  # fmt: skip
            if rng.random() < 0.5:
                event[name] = junk_value(rng)
        data = bytearray(json.dumps(event).encode())
        if rng.random() < 0.3:
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)

    def redis_server_publish(data: bytes) -> None:
        redis_server.command("PUBLISH", f"typelets:user:{ALICE}", data)

    async with boot() as server, server.device(ALICE) as device:
        for number in range(20):
            for _ in range(40):
                redis_server_publish(junk_event())
            mark = f"mark-{number}"
            redis_server_publish(
                json.dumps({"event": "note_deleted", "noteId": mark}).encode()
            )
            while (message := await device.receive()).get("noteId") != mark:
                assert message["type"] in SERVER_WORDS | {"resync_required"}
        assert server.daemon.health.unready_reasons() == []
        levels = {line["level"] for line in server.log}
        assert not levels & {"error", "critical"}


async def test_junk_requests_get_an_http_answer_or_none(
    boot: Boot, rng: random.Random
) -> None:
    async def knock(server: RunningDaemon, junk: str) -> None:
        try:
            _reader, writer, answer = await handshake(server, junk)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return
        assert answer.startswith(b"HTTP/1.1 ")
        writer.transport.abort()

    async with boot(limits=LIMITS | {"handshake_s": 1.0}) as server:
        for _ in range(150):
            junk = rng.randbytes(rng.randint(0, 60)).decode("latin-1")
            end = rng.choice(["", "\r\n", "\n", "\r\n\r\n"])
            await knock(server, junk + end)
        await eventually(lambda: not server.daemon.state.connections)
        assert server.daemon.state.limiter.total == 0
        assert "Traceback" not in json.dumps(server.log)
        async with server.device(ALICE) as device:
            assert await device.barrier() == []
