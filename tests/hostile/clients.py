"""The parts of attacks: blocking sockets and bytes. Loopback only.

An attack runs in a process of its own, so that it does not slow down the honest client
that measures it. Attackers have other loopback addresses than the honest client.
"""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.raw import HANDSHAKE

__all__ = ["ATTACKS", "Attack", "Target", "attack", "masked"]

PATIENCE_S = 5.0
TEXT, PING, PONG = 1, 9, 10


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame; a mask of zeros is a mask, and costs the attacker nothing."""
    head = bytes([opcode | (0x80 if fin else 0)])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65_536:
        head += b"\xfe" + len(payload).to_bytes(2)
    else:
        head += b"\xff" + len(payload).to_bytes(8)
    return head + b"\0\0\0\0" + payload


@dataclass
class Target:
    """The daemon under attack; `tokens` are of one user each."""

    port: int
    tokens: list[str]
    until: float = 0.0
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """True when the attack is to end."""
        return time.monotonic() >= self.until

    def connect(self, source: str = "127.0.0.2") -> socket.socket:
        """A TCP connection from a loopback address; it stays open to the end."""
        assert source.startswith("127."), "loopback only"
        sock = socket.socket()
        sock.settimeout(PATIENCE_S)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", self.port))
        self.sockets.append(sock)
        return sock

    def websocket(self, source: str = "127.0.0.2", headers: str = "") -> socket.socket:
        """A WebSocket that has been greeted. Raises OSError when it is refused."""
        sock = self.connect(source)
        sock.sendall(f"{HANDSHAKE}{headers}\r\n".encode())
        answer = b""
        while b"connection_established" not in answer and b"deflate" not in answer:
            data = sock.recv(4096)
            answer += data
            if not data or answer.startswith(b"HTTP/1.1 5"):
                sock.close()
                raise ConnectionError(answer[:12])
        return sock

    def device(self, number: int = 0, source: str = "127.0.0.2") -> socket.socket:
        """An authenticated WebSocket of one of the users."""
        sock = self.websocket(source)
        auth = {"type": "auth", "token": self.tokens[number % len(self.tokens)]}
        sock.sendall(masked(TEXT, json.dumps(auth).encode()))
        sock.recv(4096)
        return sock

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Send what the daemon takes; nothing it answers is kept."""
        sock.setblocking(False)
        view = memoryview(data)
        while view and not self.over:
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                with suppress(BlockingIOError):
                    if not sock.recv(1 << 20):
                        raise ConnectionError("closed") from None
                time.sleep(0.0005)

    def drop(self) -> None:
        """Close all sockets, with a reset where the daemon's answers are unread."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def hold(self) -> None:
        """Keep all sockets open to the end."""
        time.sleep(max(0.0, self.until - time.monotonic()))


Run = Callable[[Target], None]


@dataclass(frozen=True)
class Attack:
    """An attack and the settings of the daemon that it needs."""

    name: str
    run: Run
    settings: dict[str, dict[str, object]]


ATTACKS: dict[str, Attack] = {}


def attack(name: str, **settings: dict[str, object]) -> Callable[[Run], Run]:
    """Register an attack; it is run again and again until `Target.over`."""

    def register(run: Run) -> Run:
        assert name not in ATTACKS
        ATTACKS[name] = Attack(name, run, settings)
        return run

    return register
