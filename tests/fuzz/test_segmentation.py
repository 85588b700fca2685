"""However a stream is cut into reads, it has one meaning, and the library's own.

`Inbound` and `HandshakeProtocol` are fed random streams in random pieces, with random
shares per loop iteration; the library alone is fed the same stream byte by byte.
"""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.frames import Close, Opcode
from websockets.frames import Frame as WireFrame
from websockets.http11 import Request
from websockets.protocol import OPEN, SEND_EOF, Protocol, Side
from websockets.server import ServerProtocol

from tests.streams import cut, frames, request, streams
from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits
from typelets_ws.protocol.errors import Disconnect
from typelets_ws.websocket import handshake, inbound
from typelets_ws.websocket.handshake import HandshakeProtocol
from typelets_ws.websocket.inbound import Inbound
from typelets_ws.websocket.read_queue import ReadQueue
from typelets_ws.websocket.timers import ConnectionTimers
from typelets_ws.wire.frames import is_pong, whole_text
from typelets_ws.wire.upgrade import read_upgrade

MAX_SIZE = 200
Event = tuple[object, ...]


class Recorder:
    """An `Inbound` with everything around it; `events` is what came of the bytes."""

    def __init__(self, frames_each: int, bytes_each: int) -> None:
        self.events: list[Event] = []
        self.open = self.reading = True
        self.later: list[Callable[[], None]] = []
        limits = Limits(
            iteration_frames=frames_each, iteration_bytes=bytes_each,
            unread_bytes_before_auth=MAX_SIZE,
        )  # fmt: skip
        self.config = Config(limits=limits)
        self.session = SimpleNamespace(authenticated=False)
        self.whole_text, self.is_pong = whole_text, is_pong
        self.busy = False
        self.transport = self
        self.least_unread = MAX_SIZE
        self.read_queue = SimpleNamespace(busy=False, spent=False, spend=lambda: None)
        self.inbound = Inbound(
            cast(Any, self), cast(Any, self), cast(Any, self),
            ConnectionTimers(LiveConfig(self.config), 0), cast(Any, self), [],
        )  # fmt: skip

    def feed(self, data: bytes) -> None:
        while not self.reading and self.later:
            self.later.pop(0)()
        if self.open:
            self.inbound.receive(data)

    def finish(self) -> list[Event]:
        while self.later:
            self.later.pop(0)()
        return self.events

    # The dispatcher.

    def receive(self, data: bytes, *, text: bool, refusal: object = None) -> None:
        assert self.open
        self.events.append(("message", data, text))

    def count_frame(self) -> None:
        assert self.open

    # The writer and the transport.

    def queue(self, data: bytes) -> None:
        self.events.append(("sent", data[:4]))

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # The connection.

    def disconnect(self, disconnect: Disconnect) -> None:
        code = int(disconnect.close_code)
        frame = WireFrame(Opcode.CLOSE, Close(code, disconnect.reason).serialize())
        self.queue(frame.serialize(mask=False))
        self.close_frame_sent(disconnect)

    def close_frame_sent(self, failure: Disconnect | None) -> None:
        assert self.open
        self.open = False

    def read_on(self) -> None:
        self.later.append(lambda: self.inbound.resume() if self.open else None)

    def reschedule(self) -> None:
        """Nothing has a deadline here."""

    def account(self) -> None:
        """Nothing is counted here."""

    def monotonic(self) -> float:
        return 0.0


class Library(Protocol):
    """The library, but for a Close inside a fragmented message: it is valid.

    RFC 6455 section 5.4 allows control frames there; the library answers 1002.
    """

    def recv_frame(self, frame: WireFrame) -> None:
        if frame.opcode is Opcode.CLOSE:
            Close.parse(frame.data)
            self.current_size = None
        super().recv_frame(frame)


def library(stream: bytes) -> list[Event]:
    """The library's results for the stream, fed byte by byte."""
    protocol = Library(Side.SERVER, state=OPEN, max_size=MAX_SIZE)
    events: list[Event] = []
    joined, is_text = b"", False
    for at in range(len(stream)):
        protocol.receive_data(stream[at : at + 1])
        for frame in cast(list[WireFrame], protocol.events_received()):
            if frame.opcode >= Opcode.CLOSE:
                continue
            if frame.opcode is not Opcode.CONT:
                joined, is_text = b"", frame.opcode is Opcode.TEXT
            joined += frame.data
            if frame.fin and is_text and not is_utf8(joined):
                protocol.fail(1007)
            elif frame.fin:
                events.append(("message", joined, is_text))
        sent = protocol.data_to_send()
        events += [("sent", data[:4]) for data in sent if data != SEND_EOF]
        if protocol.state is not OPEN:
            break
    protocol.parser.close()
    return events


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def same(events: list[Event]) -> list[Event]:
    """Without the sizes of Close frames: reasons may differ, codes may not."""
    return [
        (kind, data[:1] + data[2:], *rest) if kind == "sent" and data[0] == 0x88 else
        (kind, data, *rest)
        for kind, data, *rest in cast(Any, events)
    ]  # fmt: skip


def test_frames_mean_the_same_however_they_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "LARGE_BYTES", 100)
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    closes = 0
    for number in range(streams(6_000)):
        stream = frames(rng)
        expected = same(library(stream))
        recorder = Recorder(rng.choice((1, 2, 64)), rng.choice((1, 20, 65_536)))
        for piece in cut(rng, stream):
            recorder.read_queue.busy = rng.random() < 0.3
            recorder.read_queue.spent = rng.random() < 0.3
            recorder.feed(piece)
            if rng.random() < 0.5 and recorder.later:
                recorder.later.pop(0)()
        assert same(recorder.finish()) == expected, (seed, number, stream)
        closes += not recorder.open
    assert closes > number // 10


class Transport:
    """The bytes that a handshake writes, and the protocol that follows."""

    def __init__(self) -> None:
        self.written = b""
        self.connection: tuple[object, ...] | None = None

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The answer is whole."""

    def set_protocol(self, protocol: object) -> None:
        """The upgrade is accepted."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """What is on its way comes nevertheless."""

    def resume_reading(self) -> None:
        """The turn has come."""


def outcome(status: object, accept: object = None, rest: bytes = b"") -> Event:
    return status, accept, rest


def ours(
    pieces: list[bytes], monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> Event:
    found: list[Event] = []
    turns: list[Callable[[], None]] = []
    later = b""

    class Connection:
        def __init__(self, _s: object, _t: object, _a: object, ext: object) -> None:
            assert ext == []

        def start(self, response: bytes, rest: bytes) -> None:
            accept = response.decode().partition("Accept: ")[2].split("\r\n")[0]
            found.append(outcome("101", accept, rest))

    def record(status: str) -> None:
        if status != "101":
            found.append(outcome(status))

    monkeypatch.setattr(handshake, "Connection", Connection)
    monkeypatch.setattr(handshake, "LONG_READ", 60)
    state = cast(Any, SimpleNamespace(
        config=Config(), monotonic=lambda: 0.0, connections=set(),
        timer_wheel=SimpleNamespace(
            schedule=lambda *_: None, cancel=lambda *_: None
        ),
        memory=SimpleNamespace(report=lambda *_: None),
        endpoints=SimpleNamespace(answer=lambda *_, **__: None),
        add_socket=lambda *_: True, discard_socket=lambda *_: None,
        log=SimpleNamespace(info=lambda *_, **__: None),
        account=lambda *_: None, allows=lambda _: True, try_accept=lambda *_: None,
        client_address=lambda *_: "", allows_origins=lambda *_: True,
        allows_request=lambda *_: True,
        record_handshake=record, read_upgrade=read_upgrade,
        read_queue=ReadQueue(turns.append),
    ))  # fmt: skip
    protocol = HandshakeProtocol(state, None)
    protocol.connection_made(cast(Any, Transport()))
    for piece in pieces:
        if found and found[0][0] == "101":
            later += piece
        else:
            protocol.data_received(piece)
            if turns and rng.random() < 0.5:
                turns.pop(0)()
    while turns:
        turns.pop(0)()
    assert len(found) <= 1
    if not found:
        return outcome(None)
    status, accept, rest = found[0]
    return outcome(status, accept, cast(bytes, rest) + later if accept else b"")


def library_handshake(stream: bytes) -> Event:
    """The library's answer; it gives none to what it cannot read, we say 400."""
    protocol = ServerProtocol()
    for at in range(len(stream)):
        protocol.receive_data(stream[at : at + 1])
        events = protocol.events_received()
        if events:
            asked = cast(Request, events[0])
            if asked.method not in {"GET", "HEAD"}:
                return outcome("405")
            if asked.method == "HEAD" or "Upgrade" not in asked.headers:
                return outcome("426")
            response = protocol.accept(asked)
            if response.status_code != 101:
                return outcome(str(response.status_code))
            accept = response.headers["Sec-WebSocket-Accept"]
            return outcome("101", accept, stream[at + 1 :])
        if protocol.eof_sent:
            sent = b"".join(protocol.data_to_send())
            return outcome(sent[9:12].decode() if sent else "400")
    return outcome(None)


def test_handshakes_mean_the_same_however_they_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    upgrades = 0
    for number in range(streams(4_000)):
        stream = request(rng)
        expected = library_handshake(stream)
        found = ours(list(cut(rng, stream)), monkeypatch, rng)
        assert found == expected, (seed, number, stream)
        upgrades += expected[0] == "101"
    assert upgrades > number // 10
