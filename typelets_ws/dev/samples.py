"""Sample users with folders and notes, the same at every start."""

from importlib.resources import files
from typing import Final

import psycopg

__all__ = ["USERS", "fill", "note_id"]

USERS: Final = ("user_alice", "user_bob")
NOTES: Final = ("Shopping list", "Ideas", "Letter to Ada")
CREATED_S: Final = 1_767_225_600
"""Of the notes, by the clock of Unix: 2026-01-01."""


def note_id(user: int, note: int) -> str:
    """The id of a sample note: n-th note of the n-th user, from 1."""
    return f"00000000-0000-4000-8000-{user:04d}{note:08d}"


def fill(url: str) -> None:
    """Create the tables and the sample rows that are missing."""
    schema = files(__package__).joinpath("schema.sql").read_text("utf-8")
    # The columns have no zone and hold UTC, in every zone of the machine.
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as db:
        if db.execute("SELECT to_regclass('notes')").fetchone() == (None,):
            db.execute(schema.encode())
        for user, user_id in enumerate(USERS, 1):
            _fill_user(db, user, user_id)


def _fill_user(db: psycopg.Connection, user: int, user_id: str) -> None:
    folder_id = f"00000000-0000-4000-9000-{user:012d}"
    db.execute(
        "INSERT INTO users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (user_id, f"{user_id}@example.org"),
    )
    db.execute(
        "INSERT INTO folders (id, user_id, name) VALUES (%s, %s, 'Home')"
        " ON CONFLICT DO NOTHING",
        (folder_id, user_id),
    )
    for note, title in enumerate(NOTES, 1):
        db.execute(
            # Notes are shown by age: a row that is filled in again keeps its place.
            "INSERT INTO notes (id, user_id, folder_id, title, content, created_at)"
            " VALUES (%s, %s, %s, %s, 'Write here.', to_timestamp(%s))"
            " ON CONFLICT DO NOTHING",
            (note_id(user, note), user_id, folder_id, title, CREATED_S + note),
        )
