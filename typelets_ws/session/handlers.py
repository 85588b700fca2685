"""Handlers of messages: one function per type, message in, `Outcome` out.

A handler checks, calls the store, and returns the reply and the event for the user's
other devices; it never sends. The event takes the same way as one of the REST service:
bus, relay, hub. A new message needs a struct in `client_messages`, and a function here
with its line in a table.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from ..delivery.hub import Device
from ..ports import Conflict, FieldChanges, Missing, Store, StoreError, VersionedRow
from ..protocol import client_messages, events, messages, replies
from ..protocol.errors import (
    CONFLICT,
    FOLDER_NOT_FOUND,
    INVALID_MESSAGE,
    NO_VALID_FIELDS,
    NOTE_NOT_FOUND,
    UNKNOWN_TYPE,
    ClientError,
    Code,
)
from ..protocol.fields import accepted_changes, uuid, wire_time
from ..recovery_ports import RowKey, RowKind
from .announcements import (
    folder_created,
    folder_deleted,
    folder_updated,
    note_created,
    note_deleted,
)
from .context import Context
from .ids import new_id
from .outcome import Outcome
from .session import Session

__all__ = ["ATTACHING", "HANDLERS", "IMMEDIATE", "handle", "not_announced"]


FIELDS: Final = 256
"""So many fields of one update count as one more message: 0.1 ms. The web client sends
a dozen; 100,000 fit into one message."""

Handler = Callable[[Context, Session, Any], Awaitable[Outcome]]
Immediate = Callable[[Context, Session, Any], messages.Reply]
Attaching = Callable[[Context, Device, Session, Any], Awaitable[bytes]]


def ping(
    context: Context, session: Session, message: client_messages.Ping
) -> messages.Pong:
    """Answer at once, without I/O."""
    return messages.Pong(
        timestamp=context.clock.now_ms(),
        cursor=messages.given(context.recovery.pong_cursor(session)),
        requestId=messages.echo(message),
    )


async def auth(
    context: Context, device: Device, session: Session, message: client_messages.Auth
) -> bytes:
    """Verify the token, and attach the device if it is new. Returns the answer."""
    return await context.authenticator.authenticate(device, session, message)


async def join_note(
    context: Context, session: Session, message: client_messages.JoinNote
) -> Outcome:
    """Check ownership. Nothing is kept: joined or not, a device gets all changes."""
    note_id = uuid(message.noteId, "noteId")
    if await context.store.note_owner(note_id) != session.user_id:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    return Outcome(
        messages.NoteJoined(
            noteId=str(message.noteId), requestId=messages.echo(message)
        )
    )


async def leave_note(
    _context: Context, _session: Session, message: client_messages.LeaveNote
) -> Outcome:
    """Answer; leaving a note that was never joined is allowed."""
    uuid(message.noteId, "noteId")
    return Outcome(
        messages.NoteLeft(noteId=str(message.noteId), requestId=messages.echo(message))
    )


async def note_update(
    context: Context, session: Session, message: client_messages.NoteUpdate
) -> Outcome:
    """Write the allowed fields of the sender's own note."""
    note_id = uuid(message.noteId, "noteId")
    session.charge(len(message.changes or ()) // FIELDS)
    if message.changes is None:
        raise ClientError(Code.INVALID_FIELD, "Missing changes")
    changes, filtered = accepted_changes(
        message.changes,
        require_encrypted=context.live.current.messages.require_encrypted,
    )
    for name, count in filtered.items():
        context.telemetry.metrics.filtered_fields.labels(name).inc(count)
    if not changes:
        raise ClientError(Code.INVALID_FIELD, NO_VALID_FIELDS)
    sequence = context.recovery.shown.sequence
    written = await _write(context.store, session.user_id, note_id, changes, message)
    if written is Missing.NOTE:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    if written is Missing.FOLDER:
        raise ClientError(
            Code.NOT_FOUND, FOLDER_NOT_FOUND, folder_id=str(changes["folderId"])
        )
    if isinstance(written, Conflict):
        key = RowKey(session.user_id, RowKind.NOTE, note_id)
        context.recovery.conflicts.note_refusal(
            key,
            VersionedRow(written.row, written.updated_at),
            session.connection_id,
            sequence,
        )
        raise ClientError(Code.CONFLICT, CONFLICT, updated_note=written.row)
    now_ms = context.clock.now_ms()
    row = Raw(written.row)
    return Outcome(
        reply=messages.NoteUpdateSuccess(
            noteId=note_id,
            updatedNote=row,
            timestamp=now_ms,
            requestId=messages.echo(message),
        ),
        event=events.NoteUpdatedEvent(
            noteId=note_id,
            changes=Raw(
                msgspec.json.encode({**changes, "updatedAt": written.updated_at})
            ),
            updatedNote=row,
            version=written.updated_at,
            fromUserId=session.user_id,
            exceptConnectionId=session.connection_id,
            publishedAt=now_ms,
        ),
        row=written,
    )


async def _write(
    store: Store,
    user_id: str,
    note_id: str,
    changes: FieldChanges,
    message: client_messages.NoteUpdate,
) -> VersionedRow | Missing | Conflict:
    base = message.baseUpdatedAt
    if base is None:
        return await store.update_note(user_id, note_id, changes)
    base = wire_time(base, "baseUpdatedAt")
    return await store.update_note_based(user_id, note_id, changes, base)


async def sync(
    context: Context, session: Session, message: client_messages.Sync
) -> Outcome:
    """Send the next page of what changed since the cursor."""
    if not context.recovery.on:
        # As a daemon without this message: the client fetches over REST.
        raise ClientError(Code.UNKNOWN_TYPE, UNKNOWN_TYPE)
    page = await context.recovery.sync(session.user_id, session.connection_id, message)
    return Outcome(page)


HANDLERS: Final[Mapping[type[client_messages.ClientMessage], tuple[Handler, str]]] = {
    client_messages.JoinNote: (join_note, "Failed to join note"),
    client_messages.LeaveNote: (leave_note, "Failed to leave note"),
    client_messages.NoteUpdate: (note_update, "Failed to update note"),
    client_messages.NoteCreated: (note_created, "Failed to announce note"),
    client_messages.NoteDeleted: (note_deleted, "Failed to delete note"),
    client_messages.FolderCreated: (folder_created, "Failed to announce folder"),
    client_messages.FolderUpdated: (folder_updated, "Failed to update folder"),
    client_messages.FolderDeleted: (folder_deleted, "Failed to delete folder"),
    client_messages.Sync: (sync, "Failed to sync"),
}
"""By message type: its function, and the text for a failure of the daemon."""

IMMEDIATE: Final[Mapping[type[client_messages.ClientMessage], Immediate]] = {
    client_messages.Ping: ping
}
"""Messages that a plain function answers: no task, no nonce shared by processes."""

ATTACHING: Final[Mapping[type[client_messages.ClientMessage], Attaching]] = {
    client_messages.Auth: auth
}
"""Messages that change which user the device belongs to."""


def not_announced(message: client_messages.ClientMessage) -> messages.Error:
    """The reply to an announcement with a `requestId` that Redis did not take."""
    _, failure = HANDLERS[type(message)]
    return replies.error(_add_ids(ClientError(Code.UNAVAILABLE, failure), message))


async def handle(
    context: Context, session: Session, message: client_messages.ClientMessage
) -> Outcome:
    """Hand a message to its function.

    Raises `ClientError`, complete with the ids of the message it refuses.
    """
    handler, failure = HANDLERS[type(message)]
    try:
        return await handler(context, session, message)
    # No refusal may have a name here when it is raised: the frame would hold the
    # refusal, and the refusal, by its traceback, the frame with the message.
    except StoreError as exc:
        raise _add_ids(
            ClientError(Code.UNAVAILABLE, failure, correlation_id=new_id()), message
        ) from exc
    except RecursionError:
        # Nested just so deep that one decoder takes it and the next does not.
        raise _add_ids(
            ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE), message
        ) from None
    except ClientError as refusal:
        _add_ids(refusal, message)
        raise


def _add_ids(
    refusal: ClientError, message: client_messages.ClientMessage
) -> ClientError:
    """Add which request and which note or folder the refusal is about."""
    refusal.request_id = message.requestId
    refusal.note_id = refusal.note_id or getattr(message, "noteId", None)
    refusal.folder_id = refusal.folder_id or getattr(message, "folderId", None)
    return refusal
