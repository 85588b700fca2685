"""A stand-in for the REST service: it writes, then publishes.

Invariants:

- An event is published after the commit: a device that fetches on an event finds the
  change. Each write is one statement.
- No text of Postgres or Redis is in an error: it may quote values.
- It runs on the daemon's loop, so a call may take `TIMEOUT_S` at most.

Tested by tests/integration/dev/test_rest.py.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import psycopg
import redis

from ..postgres.changes_sql import FOLDER_ROW
from ..postgres.sql import NOTE_ROW
from ..protocol.event_decoding import decode

__all__ = ["HttpError", "RestStub"]

TIMEOUT_S: Final = 1
NO_REDIS: Final = "Redis does not answer."
NOT_PUBLISHED: Final = "Redis does not answer: the change is stored, not published."
NO_POSTGRES: Final = "Postgres does not answer. Nothing was written."
NOT_STORABLE: Final = "Postgres cannot store these values: look at the id and the name."

_WRITES: Final = {
    "note_created": """
        INSERT INTO notes AS n (user_id, title, updated_at)
        VALUES (%(user)s, %(name)s, now() + %(skew)s * interval '1 second')""",
    "note_updated": """
        UPDATE notes AS n SET title = %(name)s, updated_at = CASE %(skew)s
            WHEN 0 THEN greatest(now(), n.updated_at + interval '1 millisecond')
            ELSE now() + %(skew)s * interval '1 second' END
        WHERE n.id = %(id)s::uuid AND n.user_id = %(user)s""",
    "note_deleted": """
        DELETE FROM notes AS n WHERE n.id = %(id)s::uuid AND n.user_id = %(user)s""",
    "folder_created": """
        INSERT INTO folders AS f (user_id, name, updated_at)
        VALUES (%(user)s, %(name)s, now() + %(skew)s * interval '1 second')""",
    "folder_updated": """
        UPDATE folders AS f SET name = %(name)s,
            updated_at = now() + %(skew)s * interval '1 second'
        WHERE f.id = %(id)s::uuid AND f.user_id = %(user)s""",
    "folder_deleted": """
        DELETE FROM folders AS f WHERE f.id = %(id)s::uuid AND f.user_id = %(user)s""",
}
"""One statement per event; `skew` is the error of the host's clock in seconds."""
_ORDERS: Final = {"session_revoked", "user_disconnected", "resync_required"}

_LISTING: Final = f"""SELECT
    (SELECT coalesce(json_agg({NOTE_ROW} ORDER BY n.created_at, n.id), '[]')
     FROM notes AS n WHERE n.user_id = %(user)s),
    (SELECT coalesce(json_agg({FOLDER_ROW} ORDER BY f.created_at, f.id), '[]')
     FROM folders AS f WHERE f.user_id = %(user)s)"""  # noqa: S608


class HttpError(Exception):
    """A request that failed: the HTTP `status`, and a text for people."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RestStub:
    """Writes notes and folders to `database_url`, publishes events to `redis_url`."""

    def __init__(self, database_url: str, redis_url: str, prefix: str) -> None:
        self._database_url = database_url
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=TIMEOUT_S)
        self._prefix = prefix

    def close(self) -> None:
        """Close the connection to Redis."""
        self._redis.close()

    def listing(self, user_id: str) -> Mapping[str, Any]:
        """All notes and folders of a user. Raises `HttpError`."""
        row = self._ask(_LISTING, {"user": user_id})
        assert row is not None
        return {"notes": row[0], "folders": row[1]}

    def is_revoked(self, session_id: str) -> bool:
        """True if the session was revoked: Clerk gives no token for it.

        Without Redis it is False, as Clerk gives tokens without our Redis.
        """
        try:
            return bool(self._redis.exists(f"{self._prefix}barred:{session_id}"))
        except redis.RedisError:
            return False

    def publish(
        self, user_id: str, event: str, subject: str, name: str, *,
        skew_s: int = 0, silent: bool = False,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Write the change of an event, and publish the event unless `silent`.

        `subject` is the id of the row or session, `name` the new title or name; both
        may be empty. `skew_s` is the error of this host's clock. Returns the event and
        the number of processes that received it, None if it was not published.
        Raises `HttpError`.
        """
        if event in _WRITES:
            values = {"user": user_id, "id": subject, "name": name, "skew": skew_s}
            row = self._write(event, values)
            fields = _fields(event, row)
        elif event in _ORDERS:
            fields = {"sessionId": subject} if event == "session_revoked" else {}
        else:
            raise HttpError(400, f"unknown event {event!r}")
        whole = {"event": event, "publishedAt": time.time_ns() // 1_000_000, **fields}
        payload = msgspec.json.encode(whole)
        decode(payload)
        heard = None
        try:
            if not silent:
                heard = self._redis.publish(f"{self._prefix}user:{user_id}", payload)
        except redis.RedisError as exc:
            text = NOT_PUBLISHED if event in _WRITES else NO_REDIS
            raise HttpError(503, text) from exc
        return {"published": whole, "heard": heard}

    def _write(self, event: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = event.partition("_")[0]
        returned = NOTE_ROW if kind == "note" else FOLDER_ROW
        row = self._ask(f"{_WRITES[event]} RETURNING {returned}", values)
        if row is None:
            raise HttpError(404, f"{kind} not found")
        written: Mapping[str, Any] = row[0]
        return written

    def _ask(self, query: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        options = f"-c statement_timeout={TIMEOUT_S * 1000} -c timezone=UTC"
        try:
            with psycopg.connect(
                self._database_url,
                autocommit=True,
                connect_timeout=TIMEOUT_S,
                options=options,
            ) as db:
                return db.execute(query.encode(), values).fetchone()
        except (psycopg.DataError, psycopg.IntegrityError) as exc:
            raise HttpError(400, NOT_STORABLE) from exc
        except psycopg.Error as exc:
            raise HttpError(503, NO_POSTGRES) from exc


def _fields(event: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the event for a written row."""
    kind, _, what = event.partition("_")
    if what == "created":
        return {f"{kind}Data": row}
    if what == "deleted":
        return {f"{kind}Id": row["id"]}
    changed = ("title" if kind == "note" else "name", "updatedAt")
    return {
        f"{kind}Id": row["id"],
        "changes": {key: row[key] for key in changed},
        f"updated{kind.capitalize()}": row,
    }
