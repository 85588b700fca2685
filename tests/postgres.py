"""A real Postgres for tests, and ways to break it.

`postgres` is one private server for the whole run; `database` its only database,
emptied for each test, and its server running again after any test.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

import typelets_ws.dev
from typelets_ws.dev.postgres import Postgres, PostgresError
from typelets_ws.fastpaths import VARIABLE, FastPaths

DEV = Path(typelets_ws.dev.__file__).parent
MAX_CONNECTIONS = 40


def chosen_paths() -> FastPaths:
    """The fast paths that a daemon would use, for a store without one."""
    return FastPaths.named(os.environ.get(VARIABLE, "all"))


class Database:
    """The test's own view of the database: superuser, autocommit, no daemon between."""

    def __init__(self, server: Postgres) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url("postgres")

    def url_as(self, user: str) -> str:
        return self._server.url("postgres", user)

    def execute(self, query: str, *params: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as link:
            cursor = link.execute(query.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def script(self, name: str) -> None:
        """Run a file of `typelets_ws/dev`."""
        with psycopg.connect(self.url, autocommit=True) as link:
            link.execute((DEV / name).read_bytes())

    def empty(self) -> None:
        self.execute("TRUNCATE users, folders, notes")

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
        with psycopg.connect(self.url, autocommit=True) as link:
            row = link.execute(query, list(columns.values())).fetchone()
        assert row is not None
        return str(row[0])

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
    def exhausted(self) -> Iterator[None]:
        """No further connection is accepted, not even a superuser's."""
        with ExitStack() as held:
            for _ in range(MAX_CONNECTIONS):
                try:
                    held.enter_context(psycopg.connect(self.url))
                except psycopg.OperationalError:
                    break
            yield

    def kill_connections(self, application: str) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
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
        database = Database(server)
        database.script("schema.sql")
        database.execute("CREATE ROLE typelets_ws LOGIN")
        database.script("grants.sql")
        yield server
    finally:
        server.close()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    database = Database(postgres)
    database.empty()
    yield database
    if not postgres.running:
        postgres.start()
