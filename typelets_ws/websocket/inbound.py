"""Input of one client: frames to messages, a bounded share per loop iteration.

Two cases are handled without the library (`wire.frames`): a read, or a part of one,
that is one whole text frame or one whole pong. Everything else is read by the library,
one frame at a time (`wire.reader`). Invariants:

1. One loop iteration handles at most `limits.iteration_frames` frames, and starts none
   beyond `limits.iteration_bytes` bytes. The rest waits in `_unread` and for a turn in
   the `ReadQueue`, while the socket is not read. While others wait, a read begins with
   `FIRST_FRAMES` only, and after a large message of any connection bytes of another one
   wait. Tested by tests/hostile/test_frames.py.
2. Frames are handled one after the other, each to its end: nothing behind a frame that
   closes the connection is parsed.
3. Messages behind `auth` wait for its outcome: until then a larger limit may not apply.
4. The fast path is used only while no frame and no message is unfinished, no bytes wait
   and no extension is in use. The split of the bytes into reads changes nothing. Tested
   by tests/fuzz/test_segmentation.py.
"""

from typing import Final

from websockets.extensions import Extension
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from ..protocol.errors import Disconnect
from ..session.dispatcher import Dispatcher
from ..wire.assembler import Assembler
from ..wire.reader import FrameReader
from .endpoint import Endpoint
from .state import ServerState
from .timers import ConnectionTimers
from .writer import Writer

__all__ = ["Inbound"]

FIRST_FRAMES: Final = 8
"""More than an honest device sends at once; of 1,000 connections 0.1 s."""
LARGE_BYTES: Final = 65_536
"""A larger message may cost 2 ms or more."""


class Inbound:
    """Reads frames and hands messages to the dispatcher."""

    __slots__ = (
        "_connection",
        "_dispatcher",
        "_paused",
        "_reader",
        "_state",
        "_timers",
        "_unread",
        "_writer",
    )

    def __init__(
        self,
        connection: Endpoint,
        writer: Writer,
        dispatcher: Dispatcher,
        timers: ConnectionTimers,
        state: ServerState,
        extensions: list[Extension],
    ) -> None:
        self._connection = connection
        self._writer = writer
        self._dispatcher = dispatcher
        self._timers = timers
        self._state = state
        self._paused = False
        # Most connections open, live and end without: 2 KB of each.
        self._reader = FrameReader(extensions) if extensions else None
        self._unread: tuple[bytes, int] | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that were received and are not handled."""
        held = 0 if self._unread is None else len(self._unread[0])
        return held if self._reader is None else held + self._reader.held

    # Reading from the socket.

    def pause(self) -> None:
        """Read no more, until `resume_reading`."""
        self._paused = True
        self.stop_socket()

    def unpause(self) -> None:
        """Read again, after what was left."""
        paused, self._paused = self._paused, False
        if self._unread is not None:
            self._connection.read_on()
        elif paused:
            self.start_socket()

    def start_socket(self) -> None:
        """Have the transport read."""
        transport = self._writer.transport
        if not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def stop_socket(self) -> None:
        """Have the transport read no more."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.is_reading():
            transport.pause_reading()

    def close(self) -> None:
        """Free all input, and read on only to discard it."""
        self._unread = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        # Unread bytes would reset the connection, and the client would lose our last
        # frames.
        self.start_socket()

    def release(self) -> None:
        """Drop the references that make cycles; nothing is called afterwards."""
        del self._connection, self._dispatcher

    # From bytes to frames.

    def receive(self, data: bytes) -> None:
        """Handle as much as one iteration may."""
        reader, dispatcher = self._reader, self._dispatcher
        if self._unread is not None:
            unread, at = self._unread
            self._unread = (unread[at:] + data, 0)
        elif self._state.read_queue.spent and self._is_large(data):
            self._unread = (data, 0)
            self._wait()
        elif (reader is None or reader.needless) and (
            not dispatcher.busy or dispatcher.session.authenticated
        ):
            text = self._state.whole_text(data)
            if text is not None:
                self._message(text)
            elif not (self._state.is_pong(data) and self._timers.pong_received()):
                self._handle(data, 0, self._first_share)
        else:
            self._handle(data, 0, self._first_share)

    def _is_large(self, data: bytes) -> bool:
        """Whether these bytes may be, or may end, a large message."""
        held = 0 if self._reader is None else self._reader.held
        return held + len(data) > LARGE_BYTES

    def _wait(self) -> None:
        """Read no more from the socket before `_unread` is handled."""
        self.stop_socket()
        if self._may_read:
            self._connection.read_on()

    def resume(self) -> None:
        """Handle what was left, as much as one iteration may."""
        if self._unread is not None and self._may_read:
            (data, at), self._unread = self._unread, None
            self._handle(data, at, self._state.config.limits.iteration_frames)
            if self._unread is None and not self._paused:
                self.start_socket()

    @property
    def _may_read(self) -> bool:
        """False while the dispatcher's inbox is full, and while `auth` is handled."""
        dispatcher = self._dispatcher
        return not self._paused and (
            not dispatcher.busy or dispatcher.session.authenticated
        )

    @property
    def _max_message_size(self) -> int:
        """Bytes of the largest message that is read, as things stand."""
        limits = self._state.config.limits
        if self._dispatcher.session.authenticated:
            return limits.unread_bytes
        return limits.unread_bytes_before_auth

    @property
    def _first_share(self) -> int:
        """Frames of a read that are handled at once."""
        share = self._state.config.limits.iteration_frames
        return min(share, FIRST_FRAMES) if self._state.read_queue.busy else share

    def _handle(self, data: bytes, at: int, share: int) -> None:
        reader, limits = self._reader, self._state.config.limits
        if reader is None:
            reader = self._reader = FrameReader([])
        last = min(len(data), at + limits.iteration_bytes)
        for _ in range(share):
            if at >= last or not self._may_read:
                break
            end = reader.advance(data, at)
            self._read(reader, data[at:end])
            at = end
            if not self._connection.open:
                return
        if at < len(data):
            self._unread = (data, at)
            self._wait()
        if reader.between_messages:
            self._timers.message_finished()
        elif self._timers.message_unfinished(self._state.monotonic()):
            self._connection.reschedule()
        self._connection.account()

    def _read(self, reader: FrameReader, piece: bytes) -> None:
        """Handle one frame, or the part of it that has arrived."""
        if reader.whole and reader.needless:
            text = self._state.whole_text(piece)
            if text is not None:
                self._message(text)
                return
        if reader.complete and not self._count(reader):
            return
        frame = reader.feed(piece, self._max_message_size)
        for data in reader.to_send():
            self._writer.queue(data)
        failure = reader.failure
        if failure is not None:
            self._connection.close_frame_sent(failure)
        elif frame is not None:
            self._act(reader, frame)

    # From frames to messages.

    def _count(self, reader: FrameReader) -> bool:
        """Count a frame that is no message; False when that closed the connection.

        Every frame counts in the rate limit (spec section 5), but for a Close and for
        one pong per ping of the daemon. A whole message is counted by the dispatcher.
        """
        opcode, control = reader.opcode, reader.opcode >= Opcode.CLOSE
        if opcode == Opcode.CLOSE or (reader.final and not control):
            return True
        if opcode == Opcode.PONG and self._timers.awaits_pong:
            return True
        verdict = self._dispatcher.count_frame()
        if isinstance(verdict, Disconnect):
            self._connection.disconnect(verdict)
            return False
        if verdict is not None and not control:
            reader.assembler.refuse(verdict)
        return True

    def _act(self, reader: FrameReader, frame: WireFrame) -> None:
        """Act on a valid frame; the library has answered a ping or a Close."""
        if frame.opcode is Opcode.PONG:
            self._timers.pong_received()
        elif frame.opcode is Opcode.CLOSE:
            self._connection.close_frame_sent(None)
        elif frame.opcode is not Opcode.PING:
            self._data(reader.assembler, frame)

    def _data(self, assembler: Assembler, frame: WireFrame) -> None:
        try:
            whole = assembler.add(frame, self._max_message_size)
        except Disconnect as disconnect:
            self._connection.disconnect(disconnect)
            return
        # The library's parser refers to the frame until the next one.
        frame.data = b""
        if whole is not None:
            data, text = whole
            if len(data) > LARGE_BYTES:
                self._state.read_queue.spend()
            refusal = assembler.take_refusal()
            self._dispatcher.receive(data, text=text, refusal=refusal)

    def _message(self, text: bytes) -> None:
        """Hand over a whole text message, once its size and UTF-8 are checked."""
        if text.isascii() and len(text) <= self._state.least_unread:
            self._dispatcher.receive(text, text=True)
            return
        try:
            Assembler.whole(text, self._max_message_size, text=True)
        except Disconnect as disconnect:
            self._connection.disconnect(disconnect)
        else:
            self._dispatcher.receive(text, text=True)
