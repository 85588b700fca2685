"""Notes and folders as Postgres holds them and as the wire shows them."""

import json
from typing import Any

import psycopg

__all__ = ["FOLDER", "NOTE", "Row", "fetch", "folders_of", "notes_of"]

Row = dict[str, Any]


def _iso(column: str) -> str:
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""


NOTE = f"""row_to_json(r) FROM (SELECT id, user_id AS "userId",
    folder_id AS "folderId", title, content, type,
    encrypted_title AS "encryptedTitle", encrypted_content AS "encryptedContent",
    iv, salt, starred, archived, deleted, hidden,
    {_iso("hidden_at")} AS "hiddenAt", tags,
    {_iso("created_at")} AS "createdAt", {_iso("updated_at")} AS "updatedAt"
    FROM notes"""
FOLDER = f"""row_to_json(r) FROM (SELECT id, user_id AS "userId", name, color,
    parent_id AS "parentId", sort_order AS "sortOrder", is_default AS "isDefault",
    {_iso("created_at")} AS "createdAt", {_iso("updated_at")} AS "updatedAt"
    FROM folders"""


def fetch(
    link: psycopg.Connection, kind: str, where: str, *values: object
) -> list[Row]:
    """The rows of a kind (`NOTE`, `FOLDER`) for which `where` holds."""
    query = f"SELECT {kind} WHERE {where}) AS r"
    rows = link.execute(query.encode(), values).fetchall()
    return [row if isinstance(row, dict) else json.loads(row) for (row,) in rows]


def notes_of(link: psycopg.Connection, user: str) -> dict[str, Row]:
    """All notes of a user by id."""
    return {row["id"]: row for row in fetch(link, NOTE, "user_id = %s", user)}


def folders_of(link: psycopg.Connection, user: str) -> dict[str, Row]:
    """All folders of a user by id."""
    return {row["id"]: row for row in fetch(link, FOLDER, "user_id = %s", user)}
