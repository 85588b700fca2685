"""The load: many sockets in one epoll, frames made beforehand, replies counted.

A client here knows no more of WebSocket than it must: it sends ready-made bytes and
counts the bytes that come back, so that the generator is never what is measured.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

__all__ = ["Crowd", "Publisher", "RefusedError", "Speech", "frame", "upgrade"]

PATIENCE_S = 30.0
ROOM = 262_144
PER_ADDRESS = 5_000
RESET = struct.pack("ii", 1, 0)
Script = Sequence[tuple[bytes, bytes]]
"""Messages of a client, each with words of its answer; `b""` awaits none."""


class RefusedError(Exception):
    """A connection was refused, closed, or not served in time."""


def frame(text: bytes) -> bytes:
    """A client's text frame. The mask is zero, which masks as any other does."""
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + text


def upgrade(path: bytes = b"/") -> bytes:
    """A browser's request, without the length of its cookies."""
    return (
        b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\nUser-Agent: bench\r\n\r\n"
    )


class _Client:
    __slots__ = ("heard", "script", "sock", "step")

    def __init__(self, sock: socket.socket, script: Script) -> None:
        self.sock = sock
        self.script = script
        self.step = -1
        self.heard = b""


class Crowd:
    """Connected clients, in the order in which they were asked for.

    `served` has the moments at which each of them had said its script.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._room = bytearray(ROOM)
        self.socks: dict[int, socket.socket] = {}
        self.heard: dict[int, bytes] = {}
        self.served: list[float] = []

    def __len__(self) -> int:
        return len(self.socks)

    def open(self, port: int, scripts: Sequence[Script], *, window: int = 64) -> None:
        """Connect one client per script, `window` at a time, and let each say it.

        Raises `RefusedError` when one is not served.
        """
        waiting = enumerate(scripts)
        connecting: dict[int, _Client] = {}
        until = time.monotonic() + PATIENCE_S
        while True:
            for number, script in islice(waiting, window - len(connecting)):
                sock = _connect(port, number)
                self.socks[sock.fileno()] = sock
                connecting[sock.fileno()] = _Client(sock, script)
                self._epoll.register(sock, select.EPOLLOUT)
            if not connecting:
                return
            for fd, _ in self._epoll.poll(1, 1024):
                if fd not in connecting:
                    # Rows that a device may have missed are sent after its sign-in.
                    if not self.socks[fd].recv_into(self._room):
                        raise RefusedError("closed after it was served")
                    continue
                client = connecting[fd]
                if self._advance(client):
                    self.heard[fd] = client.heard
                    self.served.append(time.monotonic())
                    del connecting[fd]
            if time.monotonic() > until:
                raise RefusedError(f"{len(connecting)} connections were not served")

    def _advance(self, client: _Client) -> bool:
        """Take what has come; True when the script is at its end."""
        try:
            if client.step >= 0:
                data = client.sock.recv(ROOM)
                client.heard += data
                if not data:
                    raise RefusedError(repr(client.heard[-200:]))
                if not _answered(client):
                    return False
            client.step += 1
            if client.step < len(client.script):
                client.heard = b""
                said, answer = client.script[client.step]
                client.sock.send(said)
                client.step += not answer
        except OSError as exc:
            raise RefusedError(str(exc)) from exc
        self._epoll.modify(client.sock, select.EPOLLIN)
        return client.step == len(client.script)

    def drain(self, total: int) -> int:
        """Read until this many bytes have come, over all clients; how many more did."""
        poll, room, socks = self._epoll.poll, self._room, self.socks
        while total > 0:
            ready = poll(PATIENCE_S, 4096)
            if not ready:
                raise RefusedError(f"{total} bytes never came")
            for fd, _ in ready:
                size = socks[fd].recv_into(room)
                if not size:
                    raise RefusedError("closed under load")
                total -= size
        return -total

    def learn(self, cause: Callable[[], object]) -> int:
        """Let `cause` send one message to every client; returns its size."""
        cause()
        got = dict.fromkeys(self.socks, 0)
        while ready := self._epoll.poll(0.5 if all(got.values()) else 5, 4096):
            for fd, _ in ready:
                got[fd] += self.socks[fd].recv_into(self._room)
        sizes = set(got.values())
        if len(sizes) != 1 or 0 in sizes:
            raise RefusedError(f"not everybody got the same: {sorted(sizes)[:5]}")
        return sizes.pop()

    def ask(self, messages: Mapping[int, Iterator[bytes]]) -> None:
        """Send each client's messages, each after the answer to the last."""
        poll, room, socks = self._epoll.poll, self._room, self.socks
        for fd, sock in socks.items():
            sock.send(next(messages[fd]))
        outstanding = len(socks)
        while outstanding:
            ready = poll(PATIENCE_S, 4096)
            if not ready:
                raise RefusedError(f"{outstanding} answers never came")
            for fd, _ in ready:
                sock = socks[fd]
                if not sock.recv_into(room):
                    raise RefusedError("closed under load")
                message = next(messages[fd], None)
                if message is None:
                    outstanding -= 1
                else:
                    sock.send(message)

    def ready(self, timeout: float) -> list[tuple[int, int]]:
        """Wait for clients with something to read; (descriptor, bytes) of each."""
        room, socks = self._room, self.socks
        return [
            (fd, socks[fd].recv_into(room)) for fd, _ in self._epoll.poll(timeout, 4096)
        ]

    def hush(self) -> None:
        """Read what has come so far."""
        while self.ready(0):
            pass

    def await_words(self, words: bytes, timeout: float) -> None:
        """Read until these words have come to every client."""
        tails = dict.fromkeys(self.socks, b"")
        until = time.monotonic() + timeout
        while tails:
            for fd, _ in self._epoll.poll(1, 4096):
                data = self.socks[fd].recv(ROOM)
                if not data:
                    raise RefusedError("closed while words were awaited")
                if fd in tails:
                    heard = tails[fd] + data
                    if words in heard:
                        del tails[fd]
                    else:
                        # The words may come in two reads.
                        tails[fd] = heard[-len(words) :]
            if time.monotonic() > until:
                raise RefusedError(f"{len(tails)} clients never heard {words!r}")

    def close(self) -> None:
        """Be gone, all at once: resets, which leave no port behind in TIME_WAIT."""
        for sock in self.socks.values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        self.socks.clear()
        self.heard.clear()


def _connect(port: int, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # One source address has ports for 28 000 at most.
    sock.bind((f"127.0.0.{1 + number // PER_ADDRESS}", 0))
    failed = sock.connect_ex(("127.0.0.1", port))
    if failed not in {0, errno.EINPROGRESS}:
        raise RefusedError(os.strerror(failed))
    return sock


def _answered(client: _Client) -> bool:
    return (
        client.script[client.step][1] in client.heard
        and client.heard.endswith((b"}", b"\n"))
    )  # fmt: skip


class Publisher:
    """PUBLISH over a plain socket, commands made beforehand."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port))
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @staticmethod
    def command(prefix: str, user: str, event: bytes) -> bytes:
        """The bytes that publish an event of a user."""
        words = (b"PUBLISH", f"{prefix}user:{user}".encode(), event)
        parts = (b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        return b"*3\r\n" + b"".join(parts)

    def send(self, commands: bytes, count: int) -> None:
        """Send `count` commands and wait for Redis to have taken them."""
        self._link.sendall(commands)
        while count > 0:
            count -= self._received().count(b"\n")

    def _received(self) -> bytes:
        """The next bytes of answers. Raises `ConnectionResetError` at their end."""
        if not (found := self._link.recv(65_536)):
            raise ConnectionResetError("the server closed before its answer")
        return found

    def close(self) -> None:
        """Hang up."""
        self._link.close()


@dataclass(frozen=True)
class Speech:
    """How a device of a user signs in at a server, and how events are published."""

    script: Callable[[str], Script]
    publisher: Callable[[], Publisher]
