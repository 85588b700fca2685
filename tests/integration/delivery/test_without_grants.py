"""A daemon whose role lacks what recovery reads: it is off, and all else works."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.daemon import daemon, eventually, publish
from tests.integration.delivery.test_recovery import (
    FAST,
    is_healed,
    ping,
    ready,
    rename,
    reply_to,
    titles,
    until,
)
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.redis import RedisServer

ROLE = "without_xmin"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """With the privileges that the first release asked for."""
    database.execute(f"CREATE ROLE {ROLE} LOGIN")
    database.execute(f"GRANT SELECT (id, user_id) ON folders TO {ROLE}")
    database.execute(
        "GRANT SELECT (id, user_id, folder_id, title, content, type, encrypted_title,"
        " encrypted_content, iv, salt, starred, archived, deleted, hidden, hidden_at,"
        f" tags, created_at, updated_at) ON notes TO {ROLE}"
    )
    database.execute(f"GRANT UPDATE (title, updated_at) ON notes TO {ROLE}")
    yield ROLE
    database.execute(f"DROP OWNED BY {ROLE}")
    database.execute(f"DROP ROLE {ROLE}")


async def test_recovery_is_off_until_it_is_granted(
    database: Database,
    redis_server: RedisServer,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("typelets_ws.delivery.recovery.UNSUPPORTED_S", 0.1)
    database.add_user(ALICE)
    note = database.add_note(ALICE, title="first")
    boot = partial(daemon, redis_server.url, database.url_as(role))
    async with boot(recovery=FAST) as server:
        await eventually(lambda: bool(server.logged("recovery_off")))
        assert [line["reason"] for line in server.logged("recovery_off")] == [
            "no_privilege"
        ]
        assert server.figure("recovery_up") == 0
        assert (await server.get("/ready"))[0] == 200
        async with server.device(ALICE) as device:
            assert "cursor" not in await ping(device)
            assert (await reply_to(device, {"type": "sync"}))["code"] == "UNKNOWN_TYPE"
            update = {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
            assert (await reply_to(device, update))["type"] == "note_update_success"
            await publish(redis_server.url, ALICE, b"junk")
            assert (await device.receive())["type"] == "resync_required"
            database.execute(f"GRANT SELECT ON notes, folders TO {role}")
            await ready(server)
            rename(database, note, "second")
            assert titles(await until(device, is_healed)) == ["second"]
            assert server.figure("recovery_up") == 1
