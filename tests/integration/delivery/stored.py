"""Stored rows as a client sees them."""

import hashlib

from tests.daemon import Message
from tests.integration.scene import ALICE
from tests.postgres import Database
from typelets_ws.postgres.sql import NOTE_ROW


def wire_note(database: Database, note: str) -> Message:
    (found,) = database.execute(
        f"SELECT {NOTE_ROW} AS row FROM notes AS n WHERE n.id = %s", note
    )
    row = found["row"]
    assert isinstance(row, dict)
    return row


def digest(database: Database) -> Message:
    """As a client computes it over its own rows."""
    found = {}
    for table in ("notes", "folders"):
        rows = database.execute(
            f"SELECT id, updated_at FROM {table} WHERE user_id = %s", ALICE
        )
        total = 0
        for row in rows:
            at = row["updated_at"].isoformat(timespec="milliseconds") + "Z"
            hashed = hashlib.sha256(f"{row['id']}:{at}".encode()).digest()
            total ^= int.from_bytes(hashed[:16])
        found[table] = {"count": len(rows), "hash": f"{total:032x}"}
    return found
