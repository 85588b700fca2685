"""A device that syncs: it keeps a cursor and compares digests (recovery.md section 3).

It loads nothing over REST. Messages are applied in the order received; `sync` brings
what was missed, and a digest that differs makes it ask for all ids.
"""

import asyncio
import hashlib
import json
from typing import Any

from tests.chaos.devices import OldClient
from tests.chaos.rows import Row

__all__ = ["SyncClient", "digest"]

RETRY_S = 1.0
"""A refused `sync` is asked for again after so long."""


def digest(rows: dict[str, Row]) -> dict[str, Any]:
    """The count and the XOR of the hashes of `<id>:<updatedAt>`."""
    total = 0
    for row_id, row in rows.items():
        text = f"{row_id}:{row['updatedAt']}".encode()
        total ^= int.from_bytes(hashlib.sha256(text).digest()[:16], "big")
    return {"count": len(rows), "hash": f"{total:032x}"}


def _row_of(message: dict[str, Any]) -> Row | None:
    """The whole row that a sync message carries: an upsert."""
    for key in ("noteData", "folderData", "updatedNote", "updatedFolder"):
        row = message.get(key)
        if row and message["type"].endswith("_sync"):
            assert isinstance(row, dict)
            return row
    return None


class SyncClient(OldClient):
    """A client that is written for the second release."""

    cursor: str | None = None

    def load(self) -> None:
        """Nothing: the first `sync` brings everything."""

    def apply(self, message: dict[str, Any]) -> None:
        """Apply a message; ask for what is missing."""
        kind = message["type"]
        if kind in {"auth_success", "resync_required"}:
            self.ask_for_changes()
        elif kind == "sync_page":
            self._apply_page(message)
        elif kind == "healed":
            if "digest" in message and not self._equals(message["digest"]):
                self.ask({"type": "sync", "ids": True})
        elif kind == "error":
            self._refused(message)
        elif (row := _row_of(message)) is not None:
            rows = self.folders if kind.startswith("folder") else self.notes
            rows[row["id"]] = row
        else:
            super().apply(message)

    def _refused(self, message: dict[str, Any]) -> None:
        if message.get("requestId") != "sync":
            return
        self.seen[f"sync {message['code']}"] += 1
        if message["code"] == "CURSOR_EXPIRED":
            self.cursor = None
        asyncio.get_running_loop().call_later(RETRY_S, self._ask_again)

    def _ask_again(self) -> None:
        if self.connected:
            self.ask_for_changes()

    def ask_for_changes(self) -> None:
        """Ask for what changed since the cursor, or for everything."""
        message: dict[str, Any] = {"type": "sync"}
        if self.cursor is not None:
            message["cursor"] = self.cursor
        self.ask(message)

    def ask(self, message: dict[str, Any]) -> None:
        """Send behind what is being sent."""
        self.outgoing.put_nowait(json.dumps({**message, "requestId": "sync"}))

    def _apply_page(self, page: dict[str, Any]) -> None:
        for row in page["notes"]:
            self.notes[row["id"]] = row
        for row in page["folders"]:
            self.folders[row["id"]] = row
        self.cursor = page["cursor"]
        if page["more"]:
            self.ask_for_changes()
            return
        if "noteIds" in page:
            for rows, ids in (
                (self.notes, page["noteIds"]),
                (self.folders, page["folderIds"]),
            ):
                for row_id in set(rows) - set(ids):
                    del rows[row_id]
        elif "digest" in page and not self._equals(page["digest"]):
            self.ask({"type": "sync", "ids": True})

    def _equals(self, found: dict[str, Any]) -> bool:
        mine = {"notes": digest(self.notes), "folders": digest(self.folders)}
        return found == mine

    def differences(self, notes: dict[str, Row], folders: dict[str, Row]) -> list[str]:
        """As of an old client; a row too many is a difference as well."""
        found = super().differences(notes, folders)
        for kind, mine, rows in (
            ("note", self.notes, notes),
            ("folder", self.folders, folders),
        ):
            found += [
                f"{self.user}: {kind} {row_id} is shown and deleted"
                for row_id in set(mine) - set(rows)
            ]
        return found
