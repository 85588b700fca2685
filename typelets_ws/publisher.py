"""What a Python REST service imports: tell a user's devices what has changed.

::

    publisher = Publisher("redis://127.0.0.1:6379/0")
    publisher.notify_note_deleted("user_2abc", note_id)

Publish after the commit, never before: devices may fetch as soon as they hear.
Everything is checked before anything is sent; what does not fit raises `ValueError`
naming the argument. Every method returns how many daemon processes heard it; none
is no error, it means that no device of this user is connected.

Data (`changes`, `note_data` and so on) is a mapping, or JSON of an object as bytes,
which then travels byte for byte. In a mapping a `datetime` becomes
`YYYY-MM-DDTHH:MM:SS.mmmZ` (UTC, as a naive one is taken to be; what is below a
millisecond is cut off) and a `UUID` its text.

`AsyncPublisher` has the same methods, to be awaited.
"""

import time
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

import redis
import redis.asyncio

from . import events
from .publisher_data import data, identifier, is_whole, optional_data, text

__all__ = ["AsyncPublisher", "Data", "Publisher"]

Data = Mapping[str, Any] | bytes
Id = str | UUID
Heard = TypeVar("Heard")

SESSION_KEEP_S: Final = 3600
"""Longer than any token of a session lives: Clerk's templates allow an hour."""


class _Notifications(Generic[Heard]):
    """The methods of both publishers. `clock`: seconds since the epoch.

    Arguments of all of them: `from_user_id` is who caused the change (default:
    "server"); `except_connection_id` is the device that need not be told, as it had
    its `connectionId` from `auth_success`.
    """

    def __init__(self, prefix: str, clock: Callable[[], float]) -> None:
        self._prefix = prefix
        self._clock = clock

    def _send(self, channel: str, payload: bytes, bar: tuple[str, int] | None) -> Heard:
        """Publish; before that bar a session, given as key and seconds."""
        raise NotImplementedError

    def notify_note_update(
        self,
        user_id: str,
        note_id: Id,
        changes: Data,
        updated_note: Data,
        *,
        from_user_id: str | None = None,
        except_connection_id: str | None = None,
    ) -> Heard:
        """`note_sync`: these fields were changed, and this is the whole note now."""
        event = events.NoteUpdated(
            noteId=identifier(note_id, "note_id"),
            changes=data(changes, "changes"),
            updatedNote=data(updated_note, "updated_note"),
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
    ) -> Heard:
        """`note_created_sync`: there is a new note."""
        event = events.NoteCreated(
            noteData=data(note_data, "note_data"),
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
    ) -> Heard:
        """`note_deleted_sync`: a note is gone."""
        event = events.NoteDeleted(
            noteId=identifier(note_id, "note_id"),
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
    ) -> Heard:
        """`folder_created_sync`: there is a new folder."""
        event = events.FolderCreated(
            folderData=data(folder_data, "folder_data"),
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
    ) -> Heard:
        """`folder_updated_sync`: these fields were changed, and the folder is this."""
        event = events.FolderUpdated(
            folderId=identifier(folder_id, "folder_id"),
            changes=optional_data(changes, "changes"),
            updatedFolder=optional_data(updated_folder, "updated_folder"),
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
    ) -> Heard:
        """`folder_deleted_sync`: a folder is gone."""
        event = events.FolderDeleted(
            folderId=identifier(folder_id, "folder_id"),
            **self._common(from_user_id, except_connection_id),
        )
        return self._publish(user_id, event)

    def require_resync(self, user_id: str, reason: str = "requested") -> Heard:
        """`resync_required`: so much has changed that devices shall fetch anew."""
        return self._publish(
            user_id,
            events.ResyncRequired(reason=text(reason, "reason"), **self._common()),
        )

    def revoke_session(
        self, user_id: str, session_id: str, *, keep_s: int = SESSION_KEEP_S
    ) -> Heard:
        """Close the connections of a session (the token's `sid`) and bar it.

        It stays barred for `keep_s` seconds, on every process, even if no device
        of the user is connected at this moment.
        """
        text(session_id, "session_id")
        if not is_whole(keep_s) or keep_s < 1:
            raise ValueError("keep_s: expected a whole number of seconds from 1")
        event = events.SessionRevoked(sessionId=session_id, **self._common())
        return self._publish(
            user_id, event, (f"{self._prefix}barred:{session_id}", keep_s)
        )

    def disconnect_user(self, user_id: str, reason: str | None = None) -> Heard:
        """Close all of the user's connections; valid tokens may come back."""
        if reason is not None:
            text(reason, "reason")
        return self._publish(
            user_id, events.UserDisconnected(reason=reason, **self._common())
        )

    def _common(
        self, from_user_id: str | None = None, except_connection_id: str | None = None
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"publishedAt": int(self._clock() * 1000)}
        if from_user_id is not None:
            fields["fromUserId"] = text(from_user_id, "from_user_id")
        if except_connection_id is not None:
            fields["exceptConnectionId"] = text(
                except_connection_id, "except_connection_id"
            )
        return fields

    def _publish(
        self, user_id: str, event: events.Event, bar: tuple[str, int] | None = None
    ) -> Heard:
        channel = f"{self._prefix}user:{text(user_id, 'user_id')}"
        return self._send(channel, events.encode(event), bar)


class Publisher(_Notifications[int]):
    """Publishes over `link`, a `redis.Redis` or a URL; raises what redis-py raises.

    `prefix` as the daemon's `redis.prefix`. A client made from a URL is closed by
    `close` or at the end of a `with`; a given one is left alone.
    """

    def __init__(
        self,
        link: redis.Redis | str,
        *,
        prefix: str = "typelets:",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(prefix, clock)
        self._own = isinstance(link, str)
        self._redis = redis.Redis.from_url(link) if isinstance(link, str) else link

    def _send(self, channel: str, payload: bytes, bar: tuple[str, int] | None) -> int:
        with self._redis.pipeline(transaction=False) as pipeline:
            if bar is not None:
                pipeline.set(bar[0], b"1", ex=bar[1])
            pipeline.publish(channel, payload)
            return int(pipeline.execute()[-1])

    def close(self) -> None:
        """Close the connection, if it is ours."""
        if self._own:
            self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncPublisher(_Notifications[Coroutine[Any, Any, int]]):
    """The same for asyncio: over a `redis.asyncio.Redis` or a URL.

    Mistakes raise at the call, before anything is awaited.
    """

    def __init__(
        self,
        link: redis.asyncio.Redis | str,
        *,
        prefix: str = "typelets:",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(prefix, clock)
        self._own = isinstance(link, str)
        self._redis = (
            redis.asyncio.Redis.from_url(link) if isinstance(link, str) else link
        )

    async def _send(
        self, channel: str, payload: bytes, bar: tuple[str, int] | None
    ) -> int:
        async with self._redis.pipeline(transaction=False) as pipeline:
            if bar is not None:
                pipeline.set(bar[0], b"1", ex=bar[1])
            pipeline.publish(channel, payload)
            return int((await pipeline.execute())[-1])

    async def aclose(self) -> None:
        """Close the connection, if it is ours."""
        if self._own:
            await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
