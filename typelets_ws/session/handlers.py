"""What each message does: one function per type, message in, `Outcome` out.

A handler checks, asks the store, and says what the sender is told and what the
user's other devices must learn; it never sends. What others must learn is an
event, which takes the same road as the REST service's: bus, relay, hub. To add
a message: a struct in `messages`, a function here, a line in `HANDLERS`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from ..config.model import Messages
from ..delivery.versions import VersionedRow
from ..ports import Conflict, Missing, Store, StoreUnavailable, Updated
from ..protocol import events, messages
from ..protocol.errors import (
    CONFLICT,
    FOLDER_NOT_FOUND,
    FOREIGN_RESOURCE,
    INVALID_MESSAGE,
    NO_VALID_FIELDS,
    NOTE_NOT_FOUND,
    ClientError,
    Code,
)
from ..protocol.fields import (
    accepted_changes,
    check_owner,
    json_object,
    uuid,
    wire_time,
)
from ..telemetry.metrics import Metrics
from .session import Session

__all__ = ["HANDLERS", "Context", "Outcome", "handle", "ping"]


@dataclass(frozen=True, slots=True)
class Context:
    """What every handler may use; `now_ms` is the wall clock."""

    store: Store
    rules: Messages
    metrics: Metrics
    now_ms: Callable[[], int]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a message.

    `row` is set when the reply shows a row that was just written: whoever sends
    the reply must first ask `versions.VersionCache` for the row to show.
    """

    reply: messages.Reply | None = None
    event: events.Event | None = None
    row: VersionedRow | None = None


FIELDS: Final = 256
"""So many fields of one update count as one more message: 0.1 ms. The web client sends
a dozen; 100,000 fit into one message."""

Handler = Callable[[Context, Session, Any], Awaitable[Outcome]]


def ping(message: messages.Ping, now_ms: int) -> messages.Pong:
    """Answer at once; needs nobody."""
    return messages.Pong(timestamp=now_ms, requestId=messages.echo(message))


async def join_note(
    context: Context, session: Session, message: messages.JoinNote
) -> Outcome:
    """Check ownership and remember the note."""
    note_id = uuid(message.noteId, "noteId")
    if await context.store.note_owner(note_id) != session.user_id:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    session.join(note_id)
    return Outcome(
        messages.NoteJoined(
            noteId=str(message.noteId), requestId=messages.echo(message)
        )
    )


async def leave_note(
    _context: Context, session: Session, message: messages.LeaveNote
) -> Outcome:
    """Forget the note; leaving what was never joined is fine."""
    session.leave(uuid(message.noteId, "noteId"))
    return Outcome(
        messages.NoteLeft(noteId=str(message.noteId), requestId=messages.echo(message))
    )


async def note_update(
    context: Context, session: Session, message: messages.NoteUpdate
) -> Outcome:
    """Write the allowed fields of the sender's own note."""
    note_id = uuid(message.noteId, "noteId")
    session.charge(len(message.changes or ()) // FIELDS)
    changes, filtered = accepted_changes(
        message.changes or {}, require_encrypted=context.rules.require_encrypted
    )
    for name, count in filtered.items():
        context.metrics.filtered_fields.labels(name).inc(count)
    if not changes:
        raise ClientError(Code.INVALID_FIELD, NO_VALID_FIELDS)
    written = await _write(context.store, session.user_id, note_id, changes, message)
    if written is Missing.NOTE:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    if written is Missing.FOLDER:
        raise ClientError(
            Code.NOT_FOUND, FOLDER_NOT_FOUND, folder_id=str(changes["folderId"])
        )
    if isinstance(written, Conflict):
        raise ClientError(Code.CONFLICT, CONFLICT, updated_note=written.row)
    now_ms = context.now_ms()
    row = Raw(written.row)
    return Outcome(
        reply=messages.NoteUpdateSuccess(
            noteId=note_id,
            updatedNote=row,
            timestamp=now_ms,
            requestId=messages.echo(message),
        ),
        event=events.NoteUpdated(
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
        row=VersionedRow(written.updated_at, written.row),
    )


async def _write(
    store: Store,
    user_id: str,
    note_id: str,
    changes: Mapping[str, str | bool | None],
    message: messages.NoteUpdate,
) -> Updated | Missing | Conflict:
    base = message.baseUpdatedAt
    if base is None:
        return await store.update_note(user_id, note_id, changes)
    base = wire_time(base, "baseUpdatedAt")
    return await store.update_note_based(user_id, note_id, changes, base)


async def note_created(
    context: Context, session: Session, message: messages.NoteCreated
) -> Outcome:
    """Announce a note of the sender's."""
    data = json_object(message.noteData, "noteData")
    if data is None:
        raise ClientError(Code.INVALID_FIELD, "Missing noteData")
    for note_id in _announced_ids(message.noteId, data, session, "noteId"):
        owner = await context.store.note_owner(note_id)
        if owner not in {None, session.user_id}:
            raise ClientError(Code.ACCESS_DENIED, FOREIGN_RESOURCE)
    return _announced(context, session, events.NoteCreated, noteData=data)


async def folder_created(
    context: Context, session: Session, message: messages.FolderCreated
) -> Outcome:
    """Announce a folder of the sender's."""
    data = json_object(message.folderData, "folderData")
    if data is None:
        raise ClientError(Code.INVALID_FIELD, "Missing folderData")
    for folder_id in _announced_ids(message.folderId, data, session, "folderId"):
        owner = await context.store.folder_owner(folder_id)
        if owner not in {None, session.user_id}:
            raise ClientError(Code.ACCESS_DENIED, FOREIGN_RESOURCE)
    return _announced(context, session, events.FolderCreated, folderData=data)


async def note_deleted(
    context: Context, session: Session, message: messages.NoteDeleted
) -> Outcome:
    """Announce a deletion; a row already gone is what a deletion looks like."""
    note_id = uuid(message.noteId, "noteId")
    if await context.store.note_owner(note_id) not in {None, session.user_id}:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    return _announced(context, session, events.NoteDeleted, noteId=note_id)


async def folder_deleted(
    context: Context, session: Session, message: messages.FolderDeleted
) -> Outcome:
    """Announce a deletion; a row already gone is what a deletion looks like."""
    folder_id = uuid(message.folderId, "folderId")
    if await context.store.folder_owner(folder_id) not in {None, session.user_id}:
        raise ClientError(Code.NOT_FOUND, FOLDER_NOT_FOUND)
    return _announced(context, session, events.FolderDeleted, folderId=folder_id)


async def folder_updated(
    context: Context, session: Session, message: messages.FolderUpdated
) -> Outcome:
    """Announce a change of a folder of the sender's."""
    folder_id = uuid(message.folderId, "folderId")
    changes = json_object(message.changes, "changes")
    updated = json_object(message.updatedFolder, "updatedFolder")
    if await context.store.folder_owner(folder_id) not in {None, session.user_id}:
        raise ClientError(Code.NOT_FOUND, FOLDER_NOT_FOUND)
    return _announced(
        context,
        session,
        events.FolderUpdated,
        folderId=folder_id,
        changes=UNSET if changes is None else changes,
        updatedFolder=UNSET if updated is None else updated,
    )


def _announced_ids(
    given: str | None, data: Raw, session: Session, name: str
) -> set[str]:
    """The ids under which something is announced: beside the data and inside."""
    inside = check_owner(data, session.user_id, name)
    ids = {uuid(given, name)} if given else set()
    return ids if inside is None else ids | {inside}


def _announced(
    context: Context, session: Session, kind: type[events.Event], **fields: Any
) -> Outcome:
    return Outcome(
        event=kind(
            fromUserId=session.user_id,
            exceptConnectionId=session.connection_id,
            publishedAt=context.now_ms(),
            **fields,
        )
    )


HANDLERS: Final[Mapping[type[messages.ClientMessage], tuple[Handler, str]]] = {
    messages.JoinNote: (join_note, "Failed to join note"),
    messages.LeaveNote: (leave_note, "Failed to leave note"),
    messages.NoteUpdate: (note_update, "Failed to update note"),
    messages.NoteCreated: (note_created, "Failed to announce note"),
    messages.NoteDeleted: (note_deleted, "Failed to delete note"),
    messages.FolderCreated: (folder_created, "Failed to announce folder"),
    messages.FolderUpdated: (folder_updated, "Failed to update folder"),
    messages.FolderDeleted: (folder_deleted, "Failed to delete folder"),
}
"""By message type: its function, and the words for a failure of ours."""


async def handle(
    context: Context, session: Session, message: messages.ClientMessage
) -> Outcome:
    """Hand a message to its function.

    Raises `ClientError`, complete with the ids of the message it refuses.
    """
    handler, failure = HANDLERS[type(message)]
    try:
        return await handler(context, session, message)
    # No refusal may have a name here when it is raised: the frame would hold the
    # refusal, and the refusal, by its traceback, the frame with the message.
    except StoreUnavailable as exc:
        raise _add_ids(
            ClientError(Code.UNAVAILABLE, failure, correlation_id=context.new_id()),
            message,
        ) from exc
    except RecursionError:
        # Nested just so deep that one decoder takes it and the next does not.
        raise _add_ids(
            ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE), message
        ) from None
    except ClientError as refusal:
        _add_ids(refusal, message)
        raise


def _add_ids(refusal: ClientError, message: messages.ClientMessage) -> ClientError:
    """Add which request and which note or folder the refusal is about."""
    refusal.request_id = message.requestId
    refusal.note_id = refusal.note_id or getattr(message, "noteId", None)
    refusal.folder_id = refusal.folder_id or getattr(message, "folderId", None)
    return refusal
