"""Handles the messages of one client, strictly in the order received.

A message that needs no I/O is answered at once. While one message waits for
the outside world (a key, Postgres, Redis) those behind it wait in `_inbox`; when
that holds enough, the link is asked not to read on. A task lives only that long.
"""

from collections import deque
from functools import partial
from typing import Final

from msgspec import structs

from ..ports import LimitsUnavailableError, VersionedRow
from ..protocol import client_messages, decoding, events, messages, replies
from ..protocol.errors import INVALID_MESSAGE, ClientError, Code, Disconnect
from ..recovery_ports import RowKey, RowKind
from . import failures, handlers
from .context import Context
from .outcome import Outcome
from .session import Received, Session, State
from .signing import (
    Envelope,
    SignatureError,
    SignatureVerdict,
    nonce_digest,
    nonce_ttl_ms,
)
from .transport import Transport
from .unavailable import limits_unavailable

__all__ = ["Dispatcher"]

INBOX_BYTES: Final = 1_048_576
INBOX_MESSAGES: Final = 64
REFUSAL_BYTES: Final = 512
"""Size of a refusal in the inbox: an object of seven short fields."""


class Dispatcher:
    """The queue of one client's messages."""

    __slots__ = (
        "_context",
        "_handled_bytes",
        "_inbox",
        "_inbox_bytes",
        "_paused",
        "_released",
        "_transport",
        "busy",
        "session",
    )

    def __init__(
        self, transport: Transport, session: Session, context: Context
    ) -> None:
        self._transport = transport
        self._context = context
        self.session = session
        self.busy = False
        self._inbox: deque[bytes | ClientError] | None = None
        self._inbox_bytes = self._handled_bytes = 0
        self._paused = self._released = False

    @property
    def held_bytes(self) -> int:
        """Bytes of the messages that wait or are being handled."""
        return self._inbox_bytes + self._handled_bytes

    def count_frame(self) -> ClientError | Disconnect | None:
        """Count a frame that is no whole message; return why it is refused."""
        return self.session.count(0, self._context.clock.monotonic())

    def receive(
        self, data: bytes, *, text: bool, refusal: ClientError | None = None
    ) -> None:
        """Take one whole message; `text` is valid UTF-8.

        `refusal` says why a part of it was refused already.
        """
        context = self._context
        context.telemetry.metrics.received_bytes.inc(len(data))
        item: bytes | ClientError = data
        verdict = self.session.count(len(data), context.clock.monotonic()) or refusal
        if isinstance(verdict, Disconnect):
            self._transport.disconnect(verdict)
            return
        if verdict is not None:
            verdict.request_id = decoding.request_id(data)
            item = verdict
        elif not text or not data:
            item = ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE)
        if self.busy or self._paused:
            self._enqueue(item)
            return
        received = self._accept(item)
        if received is not None:
            self._handled_bytes = len(data)
            self._start(received)

    def pause(self) -> None:
        """Handle no further message: the client has failed to read too much."""
        self._paused = True

    def resume(self) -> None:
        """Handle what waits."""
        if self._paused:
            self._paused = False
            if not self.busy and (received := self._next()) is not None:
                self._start(received)

    def close(self) -> None:
        """Handle nothing more; the message that is being handled may end."""
        self.session.close()
        self._inbox = None
        self._inbox_bytes = 0

    def release(self) -> None:
        """Drop the reference that makes a cycle; nothing is called afterwards."""
        self._released = True
        if not self.busy:
            del self._transport

    def _start(self, received: Received) -> None:
        self.busy = True
        self._transport.spawn(self._run(received))

    def _enqueue(self, item: bytes | ClientError) -> None:
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(item)
        self._inbox_bytes += len(item) if isinstance(item, bytes) else REFUSAL_BYTES
        if self._full:
            self._transport.pause_reading()
        self._transport.account()

    @property
    def _full(self) -> bool:
        room = self._context.live.current.limits.unread_bytes_before_auth
        if self.session.authenticated:
            room = INBOX_BYTES
        return self._inbox_bytes > room or len(self._inbox or ()) > INBOX_MESSAGES

    def _accept(self, item: bytes | ClientError) -> Received | None:
        """Let a message in, or answer it at once and return None."""
        if isinstance(item, ClientError):
            self._refuse(item, "unknown")
            return None
        try:
            received = self.session.accept(item, self._context.clock.now_ms())
        except ClientError as error:
            self._refuse(error, "unknown")
            return None
        except Exception as exc:
            # In a task, a mistake in reading a message would end the daemon.
            self._internal_error(exc, None, "unknown")
            return None
        message = received.message
        immediate = handlers.IMMEDIATE.get(type(message))
        if immediate is None:
            return received
        # A replayed one has no effect: no shared nonce, no task.
        self._reply(immediate(self._context, self.session, message))
        name = str(message.__struct_config__.tag)
        self._context.observe(name, "ok", self._transport)
        return None

    async def _run(self, first: Received) -> None:
        """Handle `first`, then what has come in meanwhile."""
        received: Received | None = first
        try:
            while received is not None:
                await self._handle(received)
                received = self._next()
        finally:
            self.busy = False
            self._handled_bytes = 0
            if self._released:
                del self._transport

    def _next(self) -> Received | None:
        """The next message that needs the outside world; those before are answered."""
        inbox = self._inbox
        while inbox and not self._paused and self.session.state is not State.CLOSED:
            item = inbox.popleft()
            size = len(item) if isinstance(item, bytes) else REFUSAL_BYTES
            self._inbox_bytes -= size
            received = self._accept(item)
            if received is not None:
                self._handled_bytes = size
                return received
        if not self._paused:
            self._inbox = None
            self._inbox_bytes = 0
            self._transport.resume_reading()
        return None

    async def _handle(self, received: Received) -> None:
        context, message = self._context, received.message
        name = str(message.__struct_config__.tag)
        started = context.clock.monotonic()
        try:
            if received.envelope is not None:
                await self._claim_nonce(received.envelope, message)
            attaching = handlers.ATTACHING.get(type(message))
            if attaching is None:
                await self._answer(message)
            else:
                await self._attach(attaching, message)
            context.observe(name, "ok", self._transport)
        except ClientError as error:
            self._refuse(error, name)
        except Disconnect as disconnect:
            context.observe(name, disconnect.reason, self._transport)
            self._transport.disconnect(disconnect)
        except Exception as exc:
            self._internal_error(exc, message.requestId, name)
        took = context.clock.monotonic() - started
        context.telemetry.metrics.handling.labels(name).observe(took)

    async def _claim_nonce(
        self, envelope: Envelope, message: client_messages.ClientMessage
    ) -> None:
        try:
            claimed = await self._context.authenticator.presence.claim_nonce(
                self.session.user_id,
                nonce_digest(envelope.nonce),
                nonce_ttl_ms(envelope.timestamp, self._context.clock.now_ms()),
            )
        except LimitsUnavailableError:
            raise limits_unavailable(message.requestId) from None
        if not claimed:
            raise SignatureError(SignatureVerdict.REPLAYED, message.requestId)

    async def _attach(
        self, attaching: handlers.Attaching, message: client_messages.ClientMessage
    ) -> None:
        before = self.session.authenticated
        answer = await attaching(self._context, self._transport, self.session, message)
        if self.session.authenticated and not before:
            self._transport.authenticated()
        self._transport.send_message(answer)

    async def _answer(self, message: client_messages.ClientMessage) -> None:
        if isinstance(message, client_messages.Sync):
            # Before the page is read: events that leave while a client is slow to
            # read would overtake its rows.
            await self._transport.drained()
        sequence = self._context.recovery.shown.sequence
        outcome = await handlers.handle(self._context, self.session, message)
        self._apply(outcome, message, sequence)

    def _apply(
        self, outcome: Outcome, message: client_messages.ClientMessage, sequence: int
    ) -> None:
        """Answer the sender, and send the others their event. No await in here.

        `sequence` is that of `delivery.shown` when the message began to be handled.
        """
        reply = outcome.reply
        if reply is not None:
            self._reply(reply)
        if outcome.row is not None and isinstance(reply, messages.NoteUpdateSuccess):
            self._note_reply(reply.noteId, outcome.row, sequence)
        if outcome.event is None:
            return
        on_published = None
        if outcome.announced is not None:
            refused = handlers.not_announced(message)
            on_published = partial(self._on_published, outcome.announced, refused)
        event = events.encode(outcome.event)
        self._context.publish(self.session.user_id, event, on_published)

    def _on_published(
        self, announced: messages.Announced, refused: messages.Error, taken: bool
    ) -> None:
        """Redis has answered to an announcement, or could not be asked."""
        now_ms = self._context.clock.now_ms()
        acknowledged = structs.replace(announced, timestamp=now_ms)
        self._reply(acknowledged if taken else refused)

    def _note_reply(self, note_id: str, row: VersionedRow, sequence: int) -> None:
        """Note that the sender was shown the row it wrote."""
        key = RowKey(self.session.user_id, RowKind.NOTE, note_id)
        self._context.recovery.conflicts.note_reply(
            key, row, self.session.connection_id, sequence
        )

    def _reply(self, reply: messages.Reply) -> None:
        self._transport.send_message(messages.encode(reply))

    def _refuse(self, error: ClientError, name: str) -> None:
        failures.record(self._context, self._transport, error, name)
        self._reply(replies.error(error))

    def _internal_error(self, exc: Exception, echo: str | None, name: str) -> None:
        error = failures.internal_error(self._context, self._transport, exc, name)
        error.request_id = echo
        self._reply(replies.error(error))
