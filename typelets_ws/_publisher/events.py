"""The events a publisher can send, as methods; how they are sent is the subclass's.

Invariant: everything is checked when the method is called, before anything is sent.
Tested by tests/unit/test_publisher.py.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from ..protocol import events
from .json_data import data, is_integer, optional_data, text, user_text
from .rows import check_changes, check_folder, check_note, row_id
from .unsent import OnFailure, Outcomes, Publication

__all__ = ["Data", "Notifications"]

Data = Mapping[str, Any] | bytes
Id = str | UUID
Receivers = TypeVar("Receivers")

SESSION_KEEP_S: Final = 3600
"""Longer than any token of a session lives: Clerk's templates allow an hour."""


class Notifications(Generic[Receivers]):
    """The methods of both publishers. `clock`: seconds since the epoch.

    Arguments of all of them: `from_user_id` is the user who caused the change
    (default: "server"); `except_connection_id` is the device that caused it, by its
    `connectionId` from `auth_success`, and does not get the message (empty: none, as
    a client without a connection has no id). All raise
    `ValueError` for an argument that does not fit.
    """

    def __init__(
        self, prefix: str, clock: Callable[[], float], on_failure: OnFailure | None
    ) -> None:
        self._prefix = prefix
        self._clock = clock
        self._outcomes = Outcomes(self._resync_message, on_failure)

    @property
    def failures(self) -> int:
        """How many events Redis did not take."""
        return self._outcomes.failures

    @property
    def pending(self) -> int:
        """Users with a pending `resync_required`, and unsent control events."""
        return self._outcomes.pending

    @property
    def forgotten(self) -> int:
        """How many of those were dropped, because too many were pending."""
        return self._outcomes.forgotten

    @abstractmethod
    def _send(self, message: Publication) -> Receivers:
        """Publish one message."""

    def notify_note_update(
        self,
        user_id: str,
        note_id: Id,
        changes: Data,
        updated_note: Data,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`note_sync`: these fields were changed, and this is the whole note now."""
        user, note = user_text(user_id), row_id(note_id, "note_id")
        event = events.NoteUpdatedEvent(
            noteId=note,
            changes=data(changes, "changes", partial(check_changes, user, note)),
            updatedNote=data(
                updated_note, "updated_note", partial(check_note, user, note)
            ),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def notify_note_created(
        self,
        user_id: str,
        note_data: Data,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`note_created_sync`: there is a new note."""
        event = events.NoteCreatedEvent(
            noteData=data(
                note_data, "note_data", partial(check_note, user_text(user_id), None)
            ),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def notify_note_deleted(
        self,
        user_id: str,
        note_id: Id,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`note_deleted_sync`: a note is gone."""
        event = events.NoteDeletedEvent(
            noteId=row_id(note_id, "note_id"),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def notify_folder_created(
        self,
        user_id: str,
        folder_data: Data,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`folder_created_sync`: there is a new folder."""
        event = events.FolderCreatedEvent(
            folderData=data(
                folder_data,
                "folder_data",
                partial(check_folder, user_text(user_id), None),
            ),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def notify_folder_updated(
        self,
        user_id: str,
        folder_id: Id,
        changes: Data | None = None,
        updated_folder: Data | None = None,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`folder_updated_sync`: these fields were changed, and the folder is this."""
        user, folder = user_text(user_id), row_id(folder_id, "folder_id")
        event = events.FolderUpdatedEvent(
            folderId=folder,
            changes=optional_data(
                changes, "changes", partial(check_changes, user, folder)
            ),
            updatedFolder=optional_data(
                updated_folder, "updated_folder", partial(check_folder, user, folder)
            ),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def notify_folder_deleted(
        self,
        user_id: str,
        folder_id: Id,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Receivers:
        """`folder_deleted_sync`: a folder is gone."""
        event = events.FolderDeletedEvent(
            folderId=row_id(folder_id, "folder_id"),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def require_resync(self, user_id: str, reason: str = "requested") -> Receivers:
        """`resync_required`: so much has changed that devices must fetch again."""
        return self._publish(
            user_id,
            events.ResyncRequiredEvent(reason=text(reason, "reason"), **self._common()),
        )

    def revoke_session(
        self, user_id: str, session_id: str, *, keep_s: int = SESSION_KEEP_S
    ) -> Receivers:
        """Close the connections of a session (the token's `sid`) and bar it.

        It stays barred for `keep_s` seconds, on every process, even if no device
        of the user is connected at this moment.
        """
        text(session_id, "session_id")
        if not is_integer(keep_s) or keep_s < 1:
            raise ValueError("keep_s: expected a whole number of seconds from 1")
        event = events.SessionRevokedEvent(sessionId=session_id, **self._common())
        return self._publish(
            user_id, event, (f"{self._prefix}barred:{session_id}", keep_s)
        )

    def disconnect_user(self, user_id: str, reason: str | None = None) -> Receivers:
        """Close all of the user's connections; valid tokens may come back."""
        if reason is not None:
            text(reason, "reason")
        return self._publish(
            user_id, events.UserDisconnectedEvent(reason=reason, **self._common())
        )

    def _common(
        self, from_user_id: str | None = None, except_connection_id: str | None = None
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"publishedAt": int(self._clock() * 1000)}
        if from_user_id is not None:
            fields["fromUserId"] = text(from_user_id, "from_user_id")
        if except_connection_id not in (None, ""):
            fields["exceptConnectionId"] = text(
                except_connection_id, "except_connection_id"
            )
        return fields

    def _publish(
        self,
        user_id: str,
        event: events.Event,
        revocation: tuple[str, int] | None = None,
    ) -> Receivers:
        return self._send(self._message(user_id, event, revocation))

    def _message(
        self,
        user_id: str,
        event: events.Event,
        revocation: tuple[str, int] | None = None,
    ) -> Publication:
        return Publication(
            user_id=user_id,
            event=events.name(event),
            channel=f"{self._prefix}user:{user_text(user_id)}",
            payload=events.encode(event),
            revocation=revocation,
            is_order=isinstance(event, events.ControlEvent),
        )

    def _resync_message(self, user_id: str) -> Publication:
        """Replaces the messages to a user that were not sent."""
        event = events.ResyncRequiredEvent(reason="publish_failed", **self._common())
        return self._message(user_id, event)
