"""Scratch Postgres clusters: promoted replicas, transaction ids set ahead."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg

from tests.daemon import eventually
from tests.postgres import Database
from typelets_ws.dev.postgres import Postgres, _as_server, _give_away, _programs

SEGMENT_XIDS = 2**20
"""A file of `pg_xact` has 32 pages of 8 KB, two bits for each transaction."""


class PostgresCluster:
    """A private cluster with the tables of the REST service."""

    def __init__(self, place: Path) -> None:
        self.data = place / "data"
        self.server = Postgres(self.data, max_connections=40)
        self.database = Database(self.server)

    @property
    def host(self) -> str:
        """The directory of its socket."""
        return str(self.server._socket_dir)

    def start(self) -> None:
        """Start it, and create the tables the first time."""
        fresh = not self.data.exists()
        self.server.start()
        if fresh:
            self.database.script("schema.sql")

    def close(self) -> None:
        self.database.close()
        self.server.close()

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the server's user."""
        command = [str(_programs() / name), *arguments]
        done = subprocess.run(
            _as_server(command), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # A replica.

    def replica(self, place: Path) -> "PostgresCluster":
        """A streaming replica, started."""
        replica = PostgresCluster(place)
        _give_away(place)
        source = f"host={self.host} user=postgres application_name=replica"
        self.tool("pg_basebackup", "-R", "-c", "fast", "-D", str(replica.data),
                  "-d", source)  # fmt: skip
        replica.server.start()
        return replica

    async def replayed(self, replica: "PostgresCluster") -> None:
        """Wait until the replica has what is committed here."""
        (row,) = self.database.execute("SELECT pg_current_wal_lsn()::text AS at")
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn AS done"
        await eventually(
            lambda: bool(replica.database.execute(query, row["at"])[0]["done"])
        )

    async def cut_off(self) -> None:
        """A replica that receives nothing more, as if the network had failed."""
        self.database.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.database.execute("SELECT pg_reload_conf()")
        query = "SELECT count(*) AS n FROM pg_stat_wal_receiver"
        await eventually(lambda: self.database.execute(query)[0]["n"] == 0)

    def promote(self) -> None:
        self.database.execute("SELECT pg_promote()")

    # Transaction ids.

    def advance(self, xids: int) -> None:
        """Set the next transaction id so much further, as if so many had run."""
        databases = [
            row["datname"]
            for row in self.database.execute("SELECT datname FROM pg_database")
        ]
        self.database.execute("UPDATE pg_database SET datallowconn = true")
        for name in databases:
            with psycopg.connect(self.server.url(name), autocommit=True) as link:
                link.execute("VACUUM (FREEZE)")
        (row,) = self.database.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next"
        )
        following = (int(row["next"]) + xids) // SEGMENT_XIDS * SEGMENT_XIDS
        epoch, xid = divmod(following, 2**32)
        self.server.stop()
        self.tool("pg_resetwal", "-f", "-D", str(self.data), "-e", str(epoch),
                  "-x", str(xid), "-u", str(xid))  # fmt: skip
        segment = self.data / "pg_xact" / f"{xid // SEGMENT_XIDS:04X}"
        segment.write_bytes(bytes(SEGMENT_XIDS // 4))
        shutil.copystat(self.data / "pg_xact", segment)
        self.server.start()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that the server's user may enter."""
    place = Path(tempfile.mkdtemp(prefix="typelets-scratch-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def either(*clusters: PostgresCluster) -> str:
    """The address of whichever of them is the primary, as libpq finds it."""
    places = {
        "host": ",".join(cluster.host for cluster in clusters),
        "user": "postgres",
        "target_session_attrs": "read-write",
    }
    return f"postgresql:///postgres?{urlencode(places)}"
