"""Announcements: changes a device made over REST, relayed to the user's other devices.

Invariants. Nothing is written. Data is relayed as it was received. A row that exists
must belong to the sender, and so must the data's `userId`; a row that does not exist
is what a creation before its commit and a deletion look like. (spec section 3)
Tested by tests/unit/session/test_handlers.py.
"""

from collections.abc import Awaitable, Callable

from msgspec import UNSET, Raw, structs

from ..protocol import client_messages, events, messages
from ..protocol.errors import (
    FOLDER_NOT_FOUND,
    FOREIGN_RESOURCE,
    NOTE_NOT_FOUND,
    ClientError,
    Code,
)
from ..protocol.fields import check_owner, json_object, uuid
from .context import Context
from .outcome import Outcome
from .session import Session

__all__ = [
    "folder_created", "folder_deleted", "folder_updated", "note_created",
    "note_deleted",
]  # fmt: skip


async def note_created(
    context: Context, session: Session, message: client_messages.NoteCreated
) -> Outcome:
    """Announce a note of the sender."""
    data, note_id = await _own_row(
        session, "note", message.noteData, message.noteId, context.store.note_owner
    )
    event = events.NoteCreatedEvent(noteData=data)
    return _announced(context, session, message, event, noteId=note_id)


async def folder_created(
    context: Context, session: Session, message: client_messages.FolderCreated
) -> Outcome:
    """Announce a folder of the sender."""
    data, folder_id = await _own_row(
        session,
        "folder",
        message.folderData,
        message.folderId,
        context.store.folder_owner,
    )
    event = events.FolderCreatedEvent(folderData=data)
    return _announced(context, session, message, event, folderId=folder_id)


async def note_deleted(
    context: Context, session: Session, message: client_messages.NoteDeleted
) -> Outcome:
    """Announce a deletion; the row may be deleted already."""
    note_id = uuid(message.noteId, "noteId")
    if await context.store.note_owner(note_id) not in {None, session.user_id}:
        raise ClientError(Code.NOT_FOUND, NOTE_NOT_FOUND)
    event = events.NoteDeletedEvent(noteId=note_id)
    return _announced(context, session, message, event, noteId=note_id)


async def folder_deleted(
    context: Context, session: Session, message: client_messages.FolderDeleted
) -> Outcome:
    """Announce a deletion; the row may be deleted already."""
    folder_id = uuid(message.folderId, "folderId")
    await _check_folder(context, session, folder_id)
    event = events.FolderDeletedEvent(folderId=folder_id)
    return _announced(context, session, message, event, folderId=folder_id)


async def folder_updated(
    context: Context, session: Session, message: client_messages.FolderUpdated
) -> Outcome:
    """Announce a change to a folder of the sender."""
    folder_id = uuid(message.folderId, "folderId")
    changes = json_object(message.changes, "changes")
    updated = json_object(message.updatedFolder, "updatedFolder")
    await _check_folder(context, session, folder_id)
    event = events.FolderUpdatedEvent(
        folderId=folder_id,
        changes=UNSET if changes is None else changes,
        updatedFolder=UNSET if updated is None else updated,
    )
    return _announced(context, session, message, event, folderId=folder_id)


async def _check_folder(context: Context, session: Session, folder_id: str) -> None:
    """Refuse another user's folder; it may not exist. Raises `ClientError`."""
    if await context.store.folder_owner(folder_id) not in {None, session.user_id}:
        raise ClientError(Code.NOT_FOUND, FOLDER_NOT_FOUND)


async def _own_row(
    session: Session,
    table: str,
    raw: Raw,
    beside: str | None,
    owner_of: Callable[[str], Awaitable[str | None]],
) -> tuple[Raw, str]:
    """The data of a row of the sender, and the id in it; `beside` may be another."""
    data, name = json_object(raw, f"{table}Data"), f"{table}Id"
    if data is None:
        raise ClientError(Code.INVALID_FIELD, f"Missing {table}Data")
    inside = uuid(check_owner(data, session.user_id, name), name)
    for row_id in {inside, uuid(beside or inside, name)}:
        if await owner_of(row_id) not in {None, session.user_id}:
            raise ClientError(Code.ACCESS_DENIED, FOREIGN_RESOURCE)
    return data, inside


def _announced(
    context: Context,
    session: Session,
    message: client_messages.ClientMessage,
    event: events.Event,
    **ids: str,
) -> Outcome:
    """The event, and the reply with `ids` for a client that asks by a `requestId`."""
    now_ms, announced = context.clock.now_ms(), None
    if message.requestId is not None:
        announced = messages.Announced(
            requestId=message.requestId, timestamp=now_ms, **ids
        )
    event = structs.replace(
        event,
        fromUserId=session.user_id,
        exceptConnectionId=session.connection_id,
        publishedAt=now_ms,
    )
    return Outcome(announced=announced, event=event)
