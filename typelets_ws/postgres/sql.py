"""The SQL of `store`: one statement per operation, made from fixed words only.

No text of a client ever becomes part of a statement: the names of fields choose
from `COLUMNS`, their values travel beside the statement. There are at most 2^9
updates, so that psycopg can keep the usual ones prepared.

Owner and folder are judged by the statement that writes. After a wait for a row's lock
Postgres evaluates WHERE and SET again on the newest version of the row. That holds for
a plain UPDATE, not for one fed by a SELECT. So a row that has just changed its owner is
not written. `updated_at` only moves forward, in the order of the commits, even when the
clock steps back.
"""

import re
from functools import lru_cache
from typing import Final

__all__ = [
    "ALIVE", "COLUMNS", "FOLDER_OWNER", "NOTE_OWNER", "NOTE_ROW", "iso", "numbered",
    "update_note",
]  # fmt: skip

COLUMNS: Final = {
    "title": "title",
    "content": "content",
    "encryptedTitle": "encrypted_title",
    "encryptedContent": "encrypted_content",
    "starred": "starred",
    "archived": "archived",
    "deleted": "deleted",
    "hidden": "hidden",
    "folderId": "folder_id",
}
"""Wire name -> column of `notes`, of what clients may change."""

ALIVE: Final = b"SELECT 1"
NOTE_OWNER: Final = b"SELECT user_id FROM notes WHERE id = %(id)s::uuid"
FOLDER_OWNER: Final = b"SELECT user_id FROM folders WHERE id = %(id)s::uuid"


def iso(column: str) -> str:
    """UTC with milliseconds: to_char cuts, it does not round."""
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""


# row_to_json writes without spaces, json_build_object would not.
NOTE_ROW: Final = f"""(SELECT row_to_json(r) FROM (SELECT
    n.id, n.user_id AS "userId", n.folder_id AS "folderId", n.title, n.content, n.type,
    n.encrypted_title AS "encryptedTitle", n.encrypted_content AS "encryptedContent",
    n.iv, n.salt, n.starred, n.archived, n.deleted, n.hidden,
    {iso("n.hidden_at")} AS "hiddenAt", n.tags,
    {iso("n.created_at")} AS "createdAt", {iso("n.updated_at")} AS "updatedAt"
) AS r)"""  # noqa: S608
"""A row of `notes` under the alias n, as the clients know it."""

# clock_timestamp and not now(): the time of writing, not of having begun to wait.
# After 'infinity', which has no place on the wire, the clock counts again.
_FORWARD: Final = """updated_at = greatest(
    date_trunc('milliseconds', clock_timestamp() AT TIME ZONE 'UTC'),
    date_trunc('milliseconds', nullif(n.updated_at, 'infinity'))
        + interval '1 millisecond')"""

_MINE: Final = "n.id = %(note)s::uuid AND n.user_id = %(user)s"


@lru_cache(maxsize=4 << len(COLUMNS))
def update_note(
    fields: tuple[str, ...], *, into_folder: bool, based: bool = False
) -> bytes:
    """The UPDATE of the fields (wire names, all in `COLUMNS`).

    Its parameters are the fields, ``note`` and ``user``. Its one row is: the note as
    JSON, its updatedAt, and whether the *note* is what was wanting; the first two are
    null when nothing was written, and there may be no row when the note is missing.
    With `into_folder` the folder ``folderId`` must be the user's own. It is judged as
    of the statement's beginning; one deleted meanwhile breaks the foreign key.
    With `based` nothing is written unless the row's updatedAt equals ``base``; there
    is always a row then, and in place of the third column the note as it stood and its
    updatedAt, null without such a note.
    """
    changes = ", ".join(f"{COLUMNS[name]} = %({name})s" for name in fields)
    update = f"UPDATE notes AS n SET {changes}, {_FORWARD} WHERE {_MINE}"  # noqa: S608
    returning = f"""RETURNING {NOTE_ROW} AS "row", {iso("n.updated_at")} AS at"""
    if based:
        return _based_update(update, returning, into_folder=into_folder)
    if not into_folder:
        return f"{update} {returning}, false".encode()
    return f"""
        WITH folder AS MATERIALIZED (SELECT EXISTS (
            SELECT FROM folders WHERE id = %(folderId)s::uuid AND user_id = %(user)s
        ) AS mine),
        written AS ({update} AND (SELECT mine FROM folder) {returning})
        SELECT written."row", written.at,
            folder.mine OR NOT EXISTS (SELECT FROM notes AS n WHERE {_MINE})
        FROM folder LEFT JOIN written ON true""".encode()  # noqa: S608


def _based_update(update: str, returning: str, *, into_folder: bool) -> bytes:
    # The row is locked first: without the lock the current row would be the one of
    # the statement's beginning, and older than the one the UPDATE was judged by.
    folder = """AND EXISTS (
        SELECT FROM folders WHERE id = %(folderId)s::uuid AND user_id = %(user)s)"""
    return f"""
        WITH current AS MATERIALIZED (
            SELECT {NOTE_ROW} AS "row", {iso("n.updated_at")} AS at
            FROM notes AS n WHERE {_MINE} FOR NO KEY UPDATE),
        written AS ({update} AND (SELECT at FROM current) = %(base)s
            {folder if into_folder else ""} {returning})
        SELECT written."row", written.at, current."row", current.at
        FROM (SELECT) AS one LEFT JOIN written ON true
            LEFT JOIN current ON true""".encode()  # noqa: S608


_NAMED: Final = re.compile(rb"%\((\w+)\)s")


@lru_cache(maxsize=8 << len(COLUMNS))
def numbered(query: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A statement in libpq's form, and the names of its $1, $2 and so on."""
    names = tuple(dict.fromkeys(_NAMED.findall(query)))
    text = _NAMED.sub(lambda found: b"$%d" % (names.index(found[1]) + 1), query)
    return text, tuple(name.decode() for name in names)
