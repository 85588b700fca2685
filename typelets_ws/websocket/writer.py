"""The frames of one client on their way out, bounded in bytes.

Frames queued during one loop iteration, or during one read, leave in one write. A frame
that is sent while nothing waits leaves at once. Invariants:

1. Order: while the transport has a backlog, every frame goes through the transport.
2. The limit is on what a client fails to read: `unsent_bytes` plus the largest frame
   that waits. A reply of any size reaches a client that reads.

The common case, an empty socket buffer, is written to the file descriptor directly: the
transport does the same and takes two thirds longer (row fan-out of scripts/bench).
Tested by tests/integration/websocket/test_slow_devices.py.
"""

import asyncio
import os
from typing import Final

from .endpoint import Endpoint
from .state import ServerState

__all__ = ["Writer"]

JOIN_BYTES: Final = 65_536
"""Above it, frames are written one by one: a joint copy for every device would take
more memory than the calls take time."""

DRAINED_BYTES: Final = 65_536
"""Unsent at most before another page of a sync, a heal or a replay is sent."""
DRAIN_POLL_S: Final = 0.02


class Writer:
    """Queues and writes; `corked` is True while a read is being answered."""

    __slots__ = (
        "_connection",
        "_fd",
        "_frames",
        "_given",
        "_largest",
        "_state",
        "backlog",
        "corked",
        "queued",
        "transport",
    )

    def __init__(
        self, connection: Endpoint, transport: asyncio.Transport, state: ServerState
    ) -> None:
        self._connection = connection
        self.transport = transport
        self._state = state
        plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket")
        direct = plain and state.direct_writes
        self._fd: int = sock.fileno() if direct else -1
        self._frames: list[bytes] = []
        self._given = self._largest = 0
        self.queued = 0
        """Bytes queued since the last flush."""
        self.backlog = 0
        """Bytes that the transport holds, as of the last look."""
        self.corked = False

    @property
    def unsent(self) -> int:
        """Bytes the kernel has not taken, as of the last flush."""
        return self.queued + self.backlog

    def queue(self, data: bytes) -> None:
        """Write at the end of the loop iteration, or of the read being answered."""
        if not self.queued and not self.corked:
            self._state.flush_queue.add(self)
        self._frames.append(data)
        self.queued += len(data)

    def send(self, data: bytes) -> None:
        """Write now, unless other frames wait."""
        if self.queued or self.backlog:
            self.queue(data)
        elif not self.transport.is_closing():
            self._state.sent_bytes += len(data)
            if not self._write(data):
                self._connection.write_blocked()

    def discard(self) -> None:
        """Drop what was queued since the last flush."""
        self._frames.clear()
        self.queued = 0

    def flush(self) -> None:
        """Write what is queued; evict a client that has failed to read too much."""
        if not self.queued:
            return
        if self.backlog and self._connection.open and self._overflows():
            self._connection.evict("unsent_bytes")
            return
        self._state.sent_bytes += self.queued
        if not self._write_all() and self._connection.open:
            self._connection.write_blocked()

    def flush_large(self) -> None:
        """Flush above `unsent_bytes`: the next message is then not handled yet.

        Its reply would count against a client that had no time to read this one.
        Evicts no one: the caller may be closing the connection.
        """
        if self.unsent > self._state.config.limits.unsent_bytes and not (
            self.backlog and self._overflows()
        ):
            self.flush()

    def finish(self) -> None:
        """Write what is queued, then half-close; with TLS, close."""
        self.flush()
        transport = self.transport
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def bytes_written(self) -> int:
        """Return the bytes that have left the transport so far: its progress."""
        self.backlog = self.transport.get_write_buffer_size()
        if not self.backlog:
            self._largest = 0
        return self._given - self.backlog

    @property
    def behind(self) -> bool:
        """True while the client has to read much of what it was sent."""
        if self.unsent > DRAINED_BYTES and not self.transport.is_closing():
            self.bytes_written()
            return self.unsent > DRAINED_BYTES
        return False

    async def drained(self) -> None:
        """Wait until the client has read almost all, or is gone."""
        while self.behind:  # noqa: ASYNC110  # a transport tells only its protocol
            await asyncio.sleep(DRAIN_POLL_S)

    def release(self) -> None:
        """Drop the reference that makes a cycle; nothing is called afterwards."""
        self.discard()
        del self._connection

    def _overflows(self) -> bool:
        limit = self._state.config.limits.unsent_bytes
        if self.unsent <= limit:
            return False
        # The rest of the last flush may have been written since.
        self.bytes_written()
        largest = max(self._largest, *map(len, self._frames))
        return self.unsent > limit + largest

    def _write_all(self) -> bool:
        """Write what is queued; True when all of it has left."""
        frames, queued = self._frames, self.queued
        if self.transport.is_closing():
            self.discard()
            return True
        if self.backlog:
            self.bytes_written()
        if len(frames) == 1:
            self.queued = 0
            return self._write(frames.pop())
        if queued <= JOIN_BYTES:
            done = self._write(b"".join(frames))
        else:
            done = True
            for frame in frames:
                done = self._write(frame)
        self.discard()
        return done

    def _write(self, data: bytes) -> bool:
        if not self.backlog and self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # The peer is gone; the transport reports the loss by itself.
                self.transport.abort()
                return True
            if sent == len(data):
                return True
            rest: bytes | memoryview = memoryview(data)[sent:]
        else:
            rest = data
        self.transport.write(rest)
        self._given += len(rest)
        self._largest = max(self._largest, len(data))
        self.backlog = self.transport.get_write_buffer_size()
        return not self.backlog
