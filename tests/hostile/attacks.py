"""Attacks on frames, memory and HTTP. A run begins with no socket open."""

import json
import socket
import time
import zlib
from contextlib import suppress
from itertools import count

from .clients import PING, PONG, TEXT, Target, attack, masked

__all__ = ["READ_BYTES"]

READ_BYTES = 262_144
"""One read of an event loop: as many small frames as fit."""
MESSAGE_BYTES = 1_048_576
FRAME_BYTES = 4 * MESSAGE_BYTES
NOTE = "00000000-0000-4000-8000-000000000001"


def flood(target: Target, frame: bytes) -> None:
    """Send a small frame at full speed on an unauthenticated connection."""
    sock = target.websocket()
    chunk = frame * (READ_BYTES // len(frame))
    while not target.over:
        target.send(sock, chunk)


@attack("pongs at full speed")
def pongs(target: Target) -> None:
    flood(target, masked(PONG))


@attack("pings at full speed")
def pings(target: Target) -> None:
    flood(target, masked(PING))


@attack("empty texts at full speed")
def empty_texts(target: Target) -> None:
    flood(target, masked(TEXT))


@attack("empty fragments at full speed")
def empty_fragments(target: Target) -> None:
    sock = target.websocket()
    target.send(sock, masked(TEXT, fin=False))
    while not target.over:
        target.send(sock, masked(0, fin=False) * (READ_BYTES // 6))


@attack("40 connections flood and ignore their close")
def deaf_flood(target: Target) -> None:
    socks = [target.websocket(f"127.0.1.{n + 1}") for n in range(40)]
    while not target.over:
        for sock in socks:
            sock.setblocking(False)
            sock.send(masked(PONG) * 2_000)


@attack("1,000 connections of 5 addresses flood and come back")
def many_floods(target: Target) -> None:
    """Each sends a burst whenever it may, and is replaced once it was closed."""
    socks: list[socket.socket] = []
    burst = masked(PONG) * 300
    for number in count():
        if target.over:
            return
        if len(socks) < 1_000:
            with suppress(OSError):
                socks.append(target.websocket(f"127.0.6.{number % 5 + 1}"))
                socks[-1].setblocking(False)
        for sock in socks[-200:]:
            try:
                sock.send(burst)
            except BlockingIOError:
                continue
            except OSError:
                sock.close()
                socks.remove(sock)


@attack("one account sends frames of 4 MiB")
def large_frames(target: Target) -> None:
    sock = target.device()
    frame = masked(TEXT, b'{"type":"ping","x":"' + b"y" * (FRAME_BYTES - 23) + b'"}')
    while not target.over:
        target.send(sock, frame)


@attack("12 connections without an account send 60 KB messages")
def unauthenticated_messages(target: Target) -> None:
    socks = [target.websocket() for _ in range(12)]
    frame = masked(TEXT, b'{"type":"ping","x":"' + b"y" * 60_000 + b'"}')
    while not target.over:
        for sock in socks:
            target.send(sock, frame)


@attack("160 connections leave messages of 4 MB unfinished")
def unfinished(target: Target) -> None:
    head = masked(TEXT, b"y" * (FRAME_BYTES - 100))[: FRAME_BYTES - 200]
    for number in range(160):
        target.send(target.device(number % 20, f"127.0.2.{number % 20 + 1}"), head)
    target.hold()


@attack("20 devices of a user read nothing")
def read_nothing(target: Target) -> None:
    for _ in range(19):
        target.device(3)
    sender = target.device(3)
    data = json.dumps({"x": "y" * 900_000})
    text = f'{{"type":"note_created","noteId":"{NOTE}","noteData":{data}}}'
    while not target.over:
        target.send(sender, masked(TEXT, text.encode()))


@attack("1 MB messages of 100,000 unknown keys")
def unknown_keys(target: Target) -> None:
    sock = target.device(1)
    changes = ",".join(f'"k{n}":1' for n in range(100_000))
    text = f'{{"type":"note_update","noteId":"{NOTE}","changes":{{{changes}}}}}'
    while not target.over:
        target.send(sock, masked(TEXT, text.encode()))


@attack("1 MB envelopes with bad signatures and lone surrogates")
def bad_signatures(target: Target) -> None:
    sock = target.device(2)
    payload = '{"type":"ping","x":"' + "\\ud83d" * 170_000 + '"}'
    for number in count():
        if target.over:
            return
        text = (
            f'{{"payload":{payload},"signature":"{"A" * 43}=",'
            f'"timestamp":{int(time.time() * 1000)},"nonce":"{number}"}}'
        )
        target.send(sock, masked(TEXT, text.encode()))


@attack("1 MB messages of 60,000 keys with lone surrogates")
def surrogate_keys(target: Target) -> None:
    sock = target.device(4)
    members = ",".join(f'"k{n}":"\\ud83d"' for n in range(60_000))
    text = f'{{"type":"ping",{members},"requestId":"r"}}'
    while not target.over:
        target.send(sock, masked(TEXT, text.encode()))


@attack("200 connections send endless headers")
def endless_headers(target: Target) -> None:
    socks = [target.connect(f"127.0.3.{n % 20 + 1}") for n in range(200)]
    for sock in socks:
        target.send(sock, b"GET / HTTP/1.1\r\n")
    for number in count():
        for sock in socks:
            if target.over:
                return
            sock.setblocking(False)
            sock.send(b"X-%d: " % number + b"y" * 8_000 + b"\r\n")


@attack("requests for /health, one connection each")
def requests(target: Target) -> None:
    sock = target.connect()
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    sock.recv(4096)


@attack("1,200 silent sockets of one address")
def silent_sockets(target: Target) -> None:
    for _ in range(1_200):
        target.connect()
    target.hold()


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


@attack("bombs: 60 KB that inflate to 60 MB", server={"permessage_deflate": True})
def bombs(target: Target) -> None:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = squeezer.compress(b"y" * 60_000_000) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    for number in range(100):
        sock = target.websocket(f"127.0.4.{number % 20 + 1}", DEFLATE)
        target.send(sock, masked(TEXT | 0x40, data[:-4]))
