"""Long requests take turns: many at once do not hold up a loop iteration."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from typelets_ws.config.model import Config
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.websocket.handshake import HandshakeProtocol
from typelets_ws.websocket.read_queue import TURNS, ReadQueue
from typelets_ws.wire.upgrade import read_upgrade

SOCKETS = 3 * TURNS
ENDLESS = b"GET / HTTP/1.1\r\n" + b"".join(
    b"X-%d: %8000d\r\n" % (n, n) for n in range(9)
)


class Transport:
    """A socket that is read or not."""

    def __init__(self) -> None:
        self.reading, self.closing, self.closes = True, False, 0

    def close(self) -> None:
        self.closing, self.closes = True, self.closes + 1

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        """The answer."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Its end."""


class Daemon:
    """The state that handshakes see; `answers` has what was answered."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.turns: list[Callable[[], None]] = []
        quiet = SimpleNamespace(info=lambda *_, **__: None)
        wheel = SimpleNamespace(schedule=lambda *_: None, cancel=lambda *_: None)
        self.state = cast(Any, SimpleNamespace(
            config=Config(), monotonic=lambda: 0.0, log=quiet, timer_wheel=wheel,
            memory=SimpleNamespace(report=lambda *_: None),
            add_socket=lambda *_: None, discard_socket=lambda *_: None,
            account=lambda *_: None, read_upgrade=read_upgrade,
            record_handshake=self.answers.append,
            read_queue=ReadQueue(self.turns.append),
        ))  # fmt: skip

    def connect(self) -> tuple[HandshakeProtocol, Transport]:
        protocol, transport = HandshakeProtocol(self.state), Transport()
        protocol.connection_made(cast(Any, transport))
        return protocol, transport


async def test_long_headers_of_many_sockets_take_turns() -> None:
    daemon = Daemon()
    sockets = [daemon.connect() for _ in range(SOCKETS)]
    for protocol, _ in sockets:
        protocol.data_received(ENDLESS)
    assert daemon.answers == []
    assert not any(transport.reading for _, transport in sockets)
    assert all(protocol.held_bytes == len(ENDLESS) for protocol, _ in sockets)
    answered = []
    while daemon.turns:
        daemon.turns.pop(0)()
        answered.append(len(daemon.answers))
    assert answered == [TURNS, 2 * TURNS, 3 * TURNS]
    assert set(daemon.answers) == {"431"}
    assert all(transport.reading for _, transport in sockets), "or a reset follows"


async def test_a_socket_is_closed_once() -> None:
    """A TLS transport of Python 3.11.2 cannot be aborted after its second close."""
    protocol, transport = Daemon().connect()
    for _ in range(2):
        protocol.close(CloseCode.GOING_AWAY, "bye")
    assert transport.closes == 1


async def test_a_socket_that_is_lost_has_no_turn() -> None:
    daemon = Daemon()
    protocol, transport = daemon.connect()
    protocol.data_received(ENDLESS)
    transport.closing = True
    protocol.connection_lost(None)
    daemon.turns.pop(0)()
    assert daemon.answers == ["lost"]
