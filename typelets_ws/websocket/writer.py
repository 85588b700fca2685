"""What a device has yet to be sent: gathered by turn, bounded by bytes and time.

Frames pushed during one turn of the loop leave in one write at its end, whatever
pushed them; what is sent while nothing waits leaves at once. The common case, an
empty socket buffer, is written straight to the file descriptor: a transport adds two
thirds to the price of a small write and does the same. What the kernel does not take
goes to the transport, and from then on everything does until its buffer has drained,
so the order holds.
"""

import os
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["FlushQueue", "WriteTransport", "Writer"]

JOIN_BYTES: Final = 65_536
"""Above it, frames are handed over one by one: a joint copy for every device
would cost more memory than the calls cost time."""


class WriteTransport(Protocol):
    """The part of `asyncio.Transport` that is used."""

    def write(self, data: bytes | memoryview) -> None: ...  # noqa: D102
    def get_write_buffer_size(self) -> int: ...  # noqa: D102
    def is_closing(self) -> bool: ...  # noqa: D102
    def abort(self) -> None: ...  # noqa: D102


class Flushable(Protocol):
    """Something that writes at the end of the turn."""

    def flush(self) -> None: ...


class FlushQueue:
    """Those with something to write at the end of this turn of the loop."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: list[Flushable] = []

    def add(self, writer: Flushable) -> None:
        """Flush `writer` at the end of the turn."""
        if not self._waiting:
            self._call_soon(self._flush)
        self._waiting.append(writer)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            writer.flush()


class Writer:
    """The frames of one device on their way out."""

    __slots__ = ("_fd", "_frames", "_given", "_transport", "backlog", "queued")

    def __init__(self, transport: WriteTransport, fd: int) -> None:
        """`fd` is the socket's, or -1 where bytes must pass the transport (TLS)."""
        self._transport = transport
        self._fd = fd
        self._frames: list[bytes] = []
        self.queued = 0
        """Bytes pushed since the last flush."""
        self.backlog = 0
        """Bytes that the transport holds, as of the last look."""
        self._given = 0

    @property
    def unsent(self) -> int:
        """Bytes not taken by the kernel yet, as of the last flush."""
        return self.queued + self.backlog

    def queue(self, data: bytes) -> bool:
        """Queue bytes; True when they are the first since the last flush."""
        self._frames.append(data)
        first = not self.queued
        self.queued += len(data)
        return first

    def discard(self) -> None:
        """Forget what was queued since the last flush."""
        self._frames.clear()
        self.queued = 0

    def write(self, data: bytes) -> bool:
        """Write past an empty queue and no backlog; True when all of it has left."""
        return self._transport.is_closing() or self._write(data)

    def flush(self) -> bool:
        """Write what is queued; True when all of it has left."""
        frames, queued = self._frames, self.queued
        if not queued:
            return not self.backlog
        if self._transport.is_closing():
            self.discard()
            return True
        if self.backlog:
            self.backlog = self._transport.get_write_buffer_size()
        if len(frames) == 1:
            done = self._write(frames[0])
        elif queued <= JOIN_BYTES:
            done = self._write(b"".join(frames))
        else:
            done = True
            for frame in frames:
                done = self._write(frame)
        frames.clear()
        self.queued = 0
        return done

    def bytes_written(self) -> int:
        """Bytes that have left the transport's buffer so far: progress shows here."""
        self.backlog = self._transport.get_write_buffer_size()
        return self._given - self.backlog

    def _write(self, data: bytes) -> bool:
        if not self.backlog and self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # The peer is gone; the transport reports the loss in its own turn.
                self._transport.abort()
                return True
            if sent == len(data):
                return True
            rest: bytes | memoryview = memoryview(data)[sent:]
        else:
            rest = data
        self._transport.write(rest)
        self._given += len(rest)
        self.backlog = self._transport.get_write_buffer_size()
        return not self.backlog
