"""Rows of users for the bench, and what Postgres has used for the daemons."""

import time
from collections.abc import Sequence

import psycopg

__all__ = ["Backends", "change", "fill"]

APPLICATION = "typelets-ws"


def fill(url: str, users: Sequence[str], notes: int) -> None:
    """Give each user so many notes of about 300 bytes, and one folder.

    They are a day old: what is new is sent to each device that signs in.
    """
    with psycopg.connect(url, autocommit=True) as db:
        names = list(users)
        db.execute(
            "INSERT INTO users (id, email) SELECT u, u FROM unnest(%s::text[]) AS u",
            [names],
        )
        db.execute(
            "INSERT INTO folders (user_id, name, updated_at)"
            " SELECT u, 'Home', now() - interval '1 day' FROM unnest(%s::text[]) AS u",
            [names],
        )
        # Note by note, so that the rows of a user are not side by side on the disk.
        db.execute(
            "INSERT INTO notes (user_id, title, content, updated_at)"
            " SELECT u, '[ENCRYPTED]', repeat('c', 200), now() - interval '1 day'"
            " FROM generate_series(1, %s), unnest(%s::text[]) AS u",
            [notes, names],
        )
        db.execute("VACUUM ANALYZE notes, folders")


def change(url: str, users: Sequence[str], notes: int) -> None:
    """Write 1 KB to so many notes of each user; nobody announces it."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "UPDATE notes AS n SET content = repeat(md5(random()::text), 32),"
            " updated_at = clock_timestamp() AT TIME ZONE 'UTC'"
            " FROM (SELECT id, row_number() OVER (PARTITION BY user_id ORDER BY id)"
            "  AS number FROM notes WHERE user_id = ANY(%s)) AS mine"
            " WHERE mine.id = n.id AND number <= %s",
            [list(users), notes],
        )


class Backends:
    """The server processes that serve daemons."""

    def __init__(self, url: str) -> None:
        self._url = url

    def cpu(self) -> float:
        """Seconds of CPU time that those which are connected have used so far."""
        with psycopg.connect(self._url, autocommit=True) as db:
            found = db.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
                [APPLICATION],
            ).fetchall()
        # clock_getcpuclockid(3): the pid's complement, and CPUCLOCK_SCHED.
        return sum(time.clock_gettime((~pid << 3) | 2) for (pid,) in found)
