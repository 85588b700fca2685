"""Stored rows on their way to devices: as the pair that heals every client.

A changed row leaves as `*_created_sync` and an update with all fields. The old web
client applies the first if it does not know the id and the second if it does, and
ignores the other; sending the pair twice changes nothing. The two frames are made
once and leave together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from msgspec import UNSET, Raw

from ..protocol import messages
from ..protocol.events import SERVER
from ..recovery_ports import Digest, RowKey, RowKind, StoredRow
from ..telemetry.metrics import Metrics
from ..wire.frames import Frame, Frames
from .hub import Device, Hub

__all__ = ["RowSender", "digest_message"]


@dataclass(slots=True)
class RowSender:
    """Sends rows, deletions and `healed` to devices of one user. Nothing awaits."""

    hub: Hub
    metrics: Metrics
    now_ms: Callable[[], int]

    def send(self, row: StoredRow, exclude: str | None = None) -> None:
        """Send a row to the user's devices, except the connection `exclude`.

        It leaves with the next `hub.flush`.
        """
        for frame in self._pair(row):
            count = self.hub.queue(row.key.user_id, frame, exclude)
            self.metrics.deliveries.inc(count)

    def send_to(self, device: Device, rows: Iterable[StoredRow]) -> None:
        """Send rows to one device at once."""
        self._send_together(device, [one for row in rows for one in self._pair(row)])

    def send_deletion(self, key: RowKey) -> None:
        """Send all devices of the user that the row is gone.

        It leaves with the next `hub.flush`.
        """
        count = self.hub.queue(key.user_id, self._deletion(key))
        self.metrics.deliveries.inc(count)

    def send_deletions(self, device: Device, keys: Iterable[RowKey]) -> None:
        """Send one device at once that rows are gone."""
        self._send_together(device, [self._deletion(key) for key in keys])

    def send_healed(
        self, devices: Iterable[Device], reason: str, cursor: str, digest: Digest | None
    ) -> None:
        """Tell devices that what they may have missed was sent."""
        message = messages.Healed(
            reason=reason,
            cursor=cursor,
            digest=UNSET if digest is None else digest_message(digest),
        )
        frame = Frame(messages.encode(message))
        for device in devices:
            device.send_frame(frame)

    def _send_together(self, device: Device, frames: Sequence[Frame]) -> None:
        """In one piece: the first of two large frames would count as unread."""
        if frames:
            device.send_frame(Frames(frames))
            self.metrics.deliveries.inc(len(frames))

    def _deletion(self, key: RowKey) -> Frame:
        timestamp = self.now_ms()
        message: messages.ServerMessage
        if key.kind is RowKind.NOTE:
            message = messages.NoteDeletedSync(
                noteId=key.row_id, timestamp=timestamp, fromUserId=SERVER
            )
        else:
            message = messages.FolderDeletedSync(
                folderId=key.row_id, timestamp=timestamp, fromUserId=SERVER
            )
        return Frame(messages.encode(message))

    def _pair(self, row: StoredRow) -> tuple[Frame, Frame]:
        timestamp, text = self.now_ms(), Raw(row.text)
        pair: tuple[messages.ServerMessage, messages.ServerMessage]
        if row.key.kind is RowKind.NOTE:
            pair = (
                messages.NoteCreatedSync(
                    noteData=text, timestamp=timestamp, fromUserId=SERVER
                ),
                messages.NoteSync(
                    noteId=row.key.row_id,
                    changes=text,
                    updatedNote=text,
                    timestamp=timestamp,
                    fromUserId=SERVER,
                ),
            )
        else:
            pair = (
                messages.FolderCreatedSync(
                    folderData=text, timestamp=timestamp, fromUserId=SERVER
                ),
                messages.FolderUpdatedSync(
                    folderId=row.key.row_id,
                    changes=text,
                    updatedFolder=text,
                    timestamp=timestamp,
                    fromUserId=SERVER,
                ),
            )
        first, second = pair
        return Frame(messages.encode(first)), Frame(messages.encode(second))


def digest_message(digest: Digest) -> messages.SyncDigest:
    """The digest as it is sent."""
    return messages.SyncDigest(
        notes=messages.TableDigest(count=digest.notes.rows, hash=digest.notes.xor),
        folders=messages.TableDigest(
            count=digest.folders.rows, hash=digest.folders.xor
        ),
    )
