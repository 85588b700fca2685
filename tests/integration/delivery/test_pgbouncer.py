"""Recovery behind PgBouncer in transaction mode: each statement on any connection."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from tests.daemon import daemon, eventually, exceptions
from tests.integration.delivery.test_recovery import (
    FAST,
    is_healed,
    ready,
    rename,
    reply_to,
    titles,
    until,
)
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.programs import program
from tests.redis import RedisServer
from tests.within import PATIENCE_S
from typelets_ws.dev.postgres import Postgres, _as_server, _give_away

CONFIG = """[databases]
postgres = host={host} user=postgres
[pgbouncer]
unix_socket_dir = {place}
listen_port = 6432
auth_type = any
auth_file =
pool_mode = transaction
default_pool_size = 3
"""


@pytest.fixture
def bouncer(postgres: Postgres, database: Database) -> Iterator[str]:
    """The address of a PgBouncer before the test's Postgres."""
    command = program("pgbouncer")
    place = Path(tempfile.mkdtemp(prefix="typelets-bouncer-"))
    _give_away(place)
    config = place / "pgbouncer.ini"
    host = psycopg.conninfo.conninfo_to_dict(database.url)["host"]
    config.write_text(CONFIG.format(host=host, place=place))
    process = subprocess.Popen(
        _as_server([command, "-q", str(config)]), stderr=subprocess.DEVNULL
    )
    try:
        where = {"host": place, "port": 6432, "user": "postgres"}
        yield f"postgresql:///postgres?{urlencode(where)}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        shutil.rmtree(place, ignore_errors=True)


async def test_recovery_behind_pgbouncer(
    bouncer: str, database: Database, redis_server: RedisServer
) -> None:
    database.add_user(ALICE)
    notes = [database.add_note(ALICE, title="first") for _ in range(9)]
    boot = partial(daemon, redis_server.url, bouncer)
    settings = {"prepare": False}
    recovery = {**FAST, "page_rows": 4}
    async with boot(database=settings, recovery=recovery) as server:
        await ready(server)
        async with server.device(ALICE) as device, server.device(ALICE) as other:
            await until(device, is_healed)
            await until(other, is_healed)
            page = await reply_to(device, {"type": "sync"})
            seen = [row["id"] for row in page["notes"]]
            while page["more"]:
                page = await reply_to(
                    device, {"type": "sync", "cursor": page["cursor"]}
                )
                seen += [row["id"] for row in page["notes"]]
            assert sorted(seen) == sorted(notes)
            rename(database, notes[0], "second")
            assert "second" in titles(await until(other, is_healed))
            await device.barrier()
            asked = {"type": "note_update", "noteId": notes[1]}
            answer = await reply_to(device, {**asked, "changes": {"title": "third"}})
            assert answer["type"] == "note_update_success"
            stale = {"baseUpdatedAt": "2020-01-01T00:00:00.000Z"}
            answer = await reply_to(
                device, {**asked, **stale, "changes": {"title": "x"}}
            )
            assert answer["code"] == "CONFLICT"
            await eventually(lambda: database.note(notes[1])["title"] == "third")
            assert server.figure("recovery_up") == 1
        assert not exceptions(server.log)
