"""A real Postgres for tests, and ways to break it.

`postgres` is one private server for the whole run; `database` its only database,
emptied for each test, and its server running again after any test.
"""

import os
import select
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

import typelets_ws.dev
from typelets_ws.dev.postgres import Postgres, PostgresError
from typelets_ws.fastpaths import VARIABLE, FastPaths

Link = psycopg.Connection[dict[str, Any]]
DEV = Path(typelets_ws.dev.__file__).parent
MAX_CONNECTIONS = 40
TRUNCATE = b"TRUNCATE users, folders, notes"
"""Some milliseconds: it makes new files."""
DELETE = b"DELETE FROM notes; DELETE FROM folders; DELETE FROM users"
SIZE = b"""SELECT sum(pg_total_relation_size(name)) AS size
    FROM unnest(ARRAY['users', 'folders', 'notes']) AS name"""
LARGE_BYTES = 4_000_000
END_OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> ALL (%s)"""


def chosen_paths() -> FastPaths:
    """The fast paths that a daemon would use, for a store without one."""
    return FastPaths.named(os.environ.get(VARIABLE, "all"))


def alive(link: Link) -> bool:
    """Whether an idle connection holds nothing to read, such as its end."""
    return not link.closed and not select.select([link], [], [], 0)[0]


class Database:
    """The test's own view of the database: superuser, autocommit, no daemon between."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._link: Link | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def url(self) -> str:
        return self._server.url("postgres")

    def url_as(self, user: str) -> str:
        return self._server.url("postgres", user)

    def execute(
        self, query: str | sql.Composed, *params: object
    ) -> list[dict[str, Any]]:
        with self._connection() as link:
            text = query.encode() if isinstance(query, str) else query
            cursor = link.execute(text, params)
            return cursor.fetchall() if cursor.description else []

    def script(self, name: str) -> None:
        """Run a file of `typelets_ws/dev`."""
        with self._connection() as link:
            link.execute((DEV / name).read_bytes())

    def empty(self) -> None:
        with self._connection() as link:
            row = link.execute(SIZE).fetchone()
            assert row is not None
            large = row["size"] > LARGE_BYTES
            link.execute(TRUNCATE if large else DELETE)

    def add_user(self, user_id: str) -> str:
        self._insert("users", {"id": user_id, "email": f"{user_id}@example.org"})
        return user_id

    def add_folder(self, user_id: str, **columns: object) -> str:
        return self._insert("folders", {"user_id": user_id, "name": "f", **columns})

    def add_note(self, user_id: str, **columns: object) -> str:
        return self._insert("notes", {"user_id": user_id, "title": "t", **columns})

    def note(self, note_id: str) -> dict[str, Any]:
        """The row as it is, by column name."""
        (row,) = self.execute("SELECT * FROM notes WHERE id = %s", note_id)
        return row

    def _insert(self, table: str, columns: dict[str, object]) -> str:
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        )
        (row,) = self.execute(query, *columns.values())
        return str(row["id"])

    @contextmanager
    def _connection(self) -> Iterator[Link]:
        """The kept connection; another one while it is in use by another thread."""
        if not self._lock.acquire(blocking=False):
            with self._connected() as link:
                yield link
            return
        try:
            if self._link is None or not alive(self._link):
                self.close()
                self._link = self._connected()
            yield self._link
        finally:
            self._lock.release()

    def _connected(self) -> Link:
        # Not prepared: a migration changes the results of statements.
        return psycopg.connect(
            self.url, autocommit=True, row_factory=dict_row, prepare_threshold=None
        )

    # Ways to break it.

    def stop(self) -> None:
        """As `systemctl stop postgresql`."""
        self._server.stop()

    def crash(self) -> None:
        """Statements under way are lost."""
        self._server.crash()

    def start(self) -> None:
        """At the same address as before."""
        self._server.start()

    @contextmanager
    def locked(self, note_id: str) -> Iterator[psycopg.Connection]:
        """Another transaction holds the note's row; it is rolled back at the end."""
        with psycopg.connect(self.url) as link:
            link.execute("SELECT FROM notes WHERE id = %s FOR UPDATE", [note_id])
            yield link
            link.rollback()

    @contextmanager
    def exhausted(self, *, alone: bool = False) -> Iterator[None]:
        """No further connection is accepted, not even a superuser's.

        `alone`: those that others have are ended, and their places taken. One may be
        back before its place is taken; so that is done until all are.
        """
        self.close()
        with ExitStack() as held:
            mine: list[psycopg.Connection] = []
            while len(mine) < MAX_CONNECTIONS:
                try:
                    link = psycopg.connect(self.url, autocommit=True)
                except psycopg.OperationalError:
                    if not alone:
                        break
                    pids = [link.info.backend_pid for link in mine]
                    mine[0].execute(END_OTHERS, [pids])
                else:
                    mine.append(held.enter_context(link))
            yield

    def kill_connections(self, application: str) -> None:
        """Returns when their processes have ended."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE application_name = %s",
            application,
        )

    def waiting_for_locks(self) -> int:
        """How many statements wait for somebody's lock."""
        (row,) = self.execute(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        return int(row["n"])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    place = Path(tempfile.mkdtemp(prefix="typelets-test-"))
    server = Postgres(
        place / "data", max_connections=MAX_CONNECTIONS, max_prepared_transactions=5
    )
    try:
        try:
            server.start()
        except PostgresError as error:
            if "CI" in os.environ:
                raise
            pytest.skip(str(error))
        with closing(Database(server)) as database:
            database.script("schema.sql")
            database.execute("CREATE ROLE typelets_ws LOGIN")
            database.script("grants.sql")
        yield server
    finally:
        server.close()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def kept_database(postgres: Postgres) -> Iterator[Database]:
    with closing(Database(postgres)) as database:
        yield database


@pytest.fixture
def database(postgres: Postgres, kept_database: Database) -> Iterator[Database]:
    kept_database.empty()
    yield kept_database
    if not postgres.running:
        postgres.start()
