"""Refused input on a real socket is freed at once: the garbage collector is off.

`tests/unit/test_reference_cycles.py` does the same for each part by itself.
"""

import asyncio
import gc
import json
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.daemon import Boot, RunningDaemon, eventually
from tests.postgres import Database
from tests.raw import HANDSHAKE
from tests.tokens import key_pair, mint

from .clients import TEXT, Target, masked

ROUNDS = 3
BIG = b"y" * 50_000
NOTE = "00000000-0000-4000-8000-000000000001"
CLOSE = masked(8, b"\x03\xe8")
COOKIE = b"Cookie: " + b"c" * 15_000 + b"\r\n\r\n"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def deflated(size: int) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = squeezer.compress(b"y" * size) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    return masked(TEXT | 0x40, data[:-4])


def text(**message: object) -> bytes:
    return masked(TEXT, json.dumps(message).encode())


def update(**fields: object) -> bytes:
    return text(type="note_update", noteId=NOTE, **fields)


REQUESTS = {
    "no HTTP": b"nonsense " + BIG[:9_000] + b"\r\n\r\n",
    "long request line": b"GET /" + BIG + b" HTTP/1.1\r\n\r\n",
    "long headers": b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 9_000 + b"\r\n") * 9,
    "many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + COOKIE,
    "method": b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n" + COOKIE + BIG,
    "no upgrade": b"GET /x HTTP/1.1\r\n" + COOKIE,
    "old HTTP": HANDSHAKE.replace("1.1", "1.0").encode() + COOKIE,
    "key": HANDSHAKE.replace("Key: ", "Key: !").encode() + COOKIE,
    "no key": HANDSHAKE.replace("Sec-WebSocket-Key", "X").encode() + COOKIE,
    "version": HANDSHAKE.replace(": 13", ": 8").encode() + COOKIE,
    "other upgrade": HANDSHAKE.replace("Upgrade: websocket", "Upgrade: h2c").encode()
    + COOKIE,
    "extension": f'{HANDSHAKE}{DEFLATE[:-2]}; a="\r\n'.encode() + COOKIE,
    "origin": f"{HANDSHAKE}Origin: https://evil.example\r\n".encode() + COOKIE,
}
FRAMES = {
    "too big before auth": masked(TEXT, BIG + BIG),
    "UTF-8": masked(TEXT, b"\xff" + BIG),
    "UTF-8 in a fragment": masked(TEXT, BIG, fin=False) + masked(0, b"\xff"),
    "opcode": masked(3, BIG),
    "no mask": b"\x81\x05hello" + BIG,
    "long ping": b"\x89\xfe\x01\x00\0\0\0\0" + BIG,
    "fragment without a beginning": masked(0, BIG),
    "message in a message": masked(TEXT, BIG, fin=False) + masked(TEXT, b"z"),
    "fragments": masked(TEXT, BIG, fin=False) + masked(0, fin=False) * 880,
    "closed in a message": masked(TEXT, BIG, fin=False),
    "malformed close": masked(TEXT, BIG) + masked(8, b"\0"),
    "flood": masked(TEXT, b"y" * 100) * 1_000,
    "binary": masked(2, BIG),
    "bomb": deflated(5_000_000),
    "junk in deflate": masked(TEXT | 0x40, os.urandom(9_000)),
    "junk token": text(type="auth", token="y" * 15_000),
    "forged token": text(type="auth", token=mint("alice", key=key_pair("forger"))),
    "old tokens": text(type="auth", token=mint("alice", now=time.time() - 600)) * 3,
}
MESSAGES = {
    "note of another": text(type="join_note", noteId=NOTE, x=BIG.decode()) * 2,
    "no note": update(changes={"title": BIG.decode()}) * 2,
    "no folder": update(changes={"folderId": NOTE, "title": BIG.decode()}) * 2,
    "base": update(changes={"title": "x"}, baseUpdatedAt=BIG.decode()) * 2,
    "year": update(
        changes={"title": "x"}, baseUpdatedAt="9" * 9_000 + "-01-01T00:00:00.000Z"
    ),
    "cursor": text(type="sync", cursor=BIG.decode()) * 2,
    "signature": text(
        payload={"x": BIG.decode()}, signature="A" * 43 + "=", nonce="n",
        timestamp=int(time.time() * 1000),
    ),
    "surrogate": update(changes={"title": "\ud83d" + BIG.decode()}),
    "junk with a surrogate": masked(TEXT, b'{"x":"\\ud83d' + BIG + b'"'),
    "depth": masked(TEXT, b"[" * 50_000),
    "depth in data": masked(
        TEXT, b'{"type":"note_created","noteData":' + b'{"a":' * 990 + b"1" + b"}" * 991
    ),
    "too large": masked(TEXT, b'{"type":"ping","x":"' + BIG * 22 + b'"}'),
    "over 4 MiB": masked(TEXT, BIG * 90),
    "token of another": text(type="auth", token=mint("bob"), x=BIG.decode()),
    "tokens": text(type="auth", token="y" * 15_000) * 3,
}  # fmt: skip


class Client:
    """Sends bytes and reads to the end, in a thread."""

    def __init__(self, server: RunningDaemon) -> None:
        self.target = Target(server.daemon.port, [mint("alice", expires_in=3600)])

    def request(self, data: bytes) -> None:
        self.finish(self.target.connect(), data)

    def frames(self, data: bytes) -> None:
        self.finish(self.target.websocket(headers=DEFLATE), data + CLOSE)

    def messages(self, data: bytes) -> None:
        self.finish(self.target.device(), data + CLOSE)

    def finish(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
            while sock.recv(65_536):
                pass
        except ConnectionError:
            pass
        self.target.drop()


@pytest.fixture
def uncollected() -> Iterator[Callable[[], None]]:
    """Call it to switch the collector off for the rest of the test."""

    def start() -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    yield start
    gc.enable()
    gc.unfreeze()


async def test_what_is_refused_on_a_socket_is_freed(
    boot: Boot, database: Database, uncollected: Callable[[], None]
) -> None:
    settings = {
        "port": 0, "drain_seconds": 0.0, "permessage_deflate": True,
        "allowed_origins": ["https://app.example"],
    }  # fmt: skip
    database.add_user("alice")
    async with boot(server=settings, limits={"abort_s": 0.2}) as server:
        client = Client(server)

        async def act(send: Callable[[bytes], None], data: bytes) -> None:
            await asyncio.to_thread(send, data)
            await eventually(lambda: not server.daemon.state.connections)

        cases = [
            (send, name, data)
            for send, group in (
                (client.request, REQUESTS), (client.frames, FRAMES),
                (client.messages, MESSAGES),
            )
            for name, data in group.items()
        ]  # fmt: skip
        for send, _, data in cases:
            await act(send, data)
        uncollected()
        left = {}
        for send, name, data in cases:
            for _ in range(ROUNDS):
                await act(send, data)
            left[name] = gc.collect() // ROUNDS
    assert not {name: count for name, count in left.items() if count}


async def test_a_message_of_a_failed_statement_is_freed(
    boot: Boot, database: Database, uncollected: Callable[[], None]
) -> None:
    note = database.add_note(database.add_user("alice"))
    limits = {"abort_s": 0.2}
    async with boot(database={"statement_timeout_ms": 150}, limits=limits) as server:
        client = Client(server)
        message = text(type="note_update", noteId=note, changes={"title": BIG.decode()})
        with database.locked(note):
            for round_ in range(ROUNDS):
                if round_ == 1:
                    uncollected()
                await asyncio.to_thread(client.messages, message * 2)
                await eventually(lambda: not server.daemon.state.connections)
            # A closed connection's statement goes on until its timeout.
            await eventually(lambda: len(server.logged("message_failed")) >= ROUNDS)
        assert gc.collect() == 0
