"""Postgres down, slow, full or restarted: clear errors, nothing half done, recovery."""

import asyncio
import io
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.daemon import Boot, Device, Message, RunningDaemon, eventually
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database

BRIEF = {"statement_timeout_ms": 400, "wait_ms": 400}
FAILURES = {
    "join_note": "Failed to join note",
    "note_update": "Failed to update note",
    "note_created": "Failed to announce note",
    "note_deleted": "Failed to delete note",
    "folder_created": "Failed to announce folder",
    "folder_updated": "Failed to update folder",
    "folder_deleted": "Failed to delete folder",
}


@pytest.fixture(autouse=True)
def note(database: Database) -> str:
    database.add_user(ALICE)
    return database.add_note(ALICE)


def update(note_id: str, **changes: object) -> dict[str, Any]:
    return {"type": "note_update", "noteId": note_id, "changes": changes}


def unavailable(server: RunningDaemon, answer: Message, text: str) -> None:
    """A clear error, whose log line is found by its id, and no text of Postgres'."""
    assert answer["type"] == "error"
    assert (answer["message"], answer["code"]) == (text, "UNAVAILABLE")
    (line,) = [
        line
        for line in server.logged("message_failed")
        if line["correlation_id"] == answer["correlationId"]
    ]
    assert line["code"] == "UNAVAILABLE"


def everything(note_id: str) -> list[dict[str, Any]]:
    """One of each message that needs the database."""
    ids = {"noteId": note_id, "folderId": note_id, "requestId": "r1"}
    row = {"id": note_id}
    data = {"noteData": row, "folderData": row, "changes": {"title": "x"}}
    return [{"type": name, **ids, **data} for name in FAILURES]


async def served_again(device: Device, note_id: str) -> bool:
    answer = await device.ask(update(note_id, title="back"))
    return bool(answer["type"] == "note_update_success")


async def test_while_it_is_down_each_message_is_refused_and_the_rest_goes_on(
    boot: Boot, database: Database, note: str
) -> None:

    async def not_ready(server: RunningDaemon) -> bool:
        status, _, body = await server.get("/ready")
        return status == 503 and b"postgres does not answer" in body

    async with (
        boot(database=BRIEF) as server,
        server.device(ALICE) as device,
        server.device(ALICE) as other,
    ):
        await asyncio.to_thread(database.stop)
        for message in everything(note):
            answer = await device.ask(message)
            unavailable(server, answer, FAILURES[message["type"]])
            assert answer["requestId"] == "r1"
            wanted = "folderId" if "folder" in message["type"] else "noteId"
            assert answer[wanted] == note
        assert await device.barrier() == []
        left = await device.ask({"type": "leave_note", "noteId": note})
        assert left["type"] == "note_left"
        async with server.device(BOB) as bob:
            assert bob.user_id == BOB
        status, _, _ = await server.get("/health")
        assert status == 200
        await eventually(lambda: not_ready(server))
        assert await other.barrier() == []
        await asyncio.to_thread(database.start)
        assert database.note(note)["title"] == "t"
        await eventually(lambda: served_again(device, note))
        assert (await other.receive())["type"] == "note_sync"
        await eventually(lambda: not server.daemon.health.unready_reasons())
        assert not server.logged("internal_error")


@pytest.mark.parametrize("fast_paths", ["all"], indirect=True)
async def test_what_asks_again_and_again_does_not_fill_the_log(
    boot: Boot, database: Database
) -> None:
    async with boot(database=BRIEF, recovery={"enabled": True}) as house:
        count = partial(house.figure, "query_seconds_count", query="horizon")
        await eventually(lambda: count() > 0)
        await asyncio.to_thread(database.stop)
        await eventually(lambda: bool(house.logged("postgres_unreachable")))
        seen = count()
        await eventually(lambda: count() > seen + 1)
        assert not house.logged("statement_failed")
        await asyncio.to_thread(database.start)


async def test_a_daemon_that_starts_before_postgres_serves_when_it_comes(
    boot: Boot, database: Database, note: str
) -> None:
    await asyncio.to_thread(database.crash)
    start = asyncio.to_thread(database.start)
    async with asyncio.TaskGroup() as group:
        group.create_task(start)
        # `boot` returns when the daemon is ready.
        async with boot(database=BRIEF) as server, server.device(ALICE) as device:
            await eventually(lambda: served_again(device, note))


async def test_a_crash_in_the_middle_of_an_update_is_survived(
    boot: Boot, database: Database, note: str
) -> None:
    slow = {"statement_timeout_ms": 5_000, "wait_ms": 1_000}
    async with boot(database=slow) as server, server.device(ALICE) as device:
        # The lock's own connection dies with the server.
        with suppress(psycopg.OperationalError), database.locked(note):
            await device.send(update(note, title="lost"))
            await eventually(lambda: database.waiting_for_locks() == 1)
            await asyncio.to_thread(database.crash)
        unavailable(server, await device.receive(), "Failed to update note")
        await asyncio.to_thread(database.start)
        assert database.note(note)["title"] == "t"
        await eventually(lambda: served_again(device, note))


async def test_killed_connections_are_replaced_without_anyone_noticing(
    boot: Boot, database: Database, note: str
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        for number in range(3):
            database.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            answer = await device.ask(update(note, title=f"{number}"))
            assert answer["type"] == "note_update_success"
        assert not server.logged("internal_error")


async def test_a_locked_row_costs_its_user_and_no_one_else(
    boot: Boot, database: Database, note: str
) -> None:
    """25 updates of one row once took the whole pool; now others are served."""
    database.add_user(BOB)
    his = database.add_note(BOB)
    slow = {"statement_timeout_ms": 2_000, "wait_ms": 2_000}
    async with (
        boot(database=slow) as server,
        server.device(ALICE) as first,
        server.device(ALICE) as second,
        server.device(ALICE) as third,
        server.device(BOB) as bob,
    ):
        with database.locked(note):
            for device in (first, second, third):
                for _ in range(8):
                    await device.send(update(note, title="stuck"))
            await eventually(lambda: database.waiting_for_locks() == 2)
            # Served while the row is locked: these answers are the proof.
            assert await bob.barrier() == []
            joined = await bob.ask({"type": "join_note", "noteId": his})
            assert joined["type"] == "note_joined"
            written = await bob.ask(update(his, title="free"))
            assert written["type"] == "note_update_success"
            assert database.waiting_for_locks() == 2
            unavailable(server, await first.receive(), "Failed to update note")
            assert database.note(note)["title"] == "t"
        await eventually(lambda: not handling(server))
        # A write that waited for the lock may be done since, whole or not at all.
        assert not server.logged("internal_error")


def handling(server: RunningDaemon) -> bool:
    return any(
        getattr(connection, "busy", False)
        for connection in server.daemon.state.connections
    )


async def test_a_slow_update_is_given_up_and_not_written(
    boot: Boot, database: Database, note: str
) -> None:
    async with boot(database=BRIEF) as server, server.device(ALICE) as device:
        with database.locked(note):
            answer = await device.ask(update(note, title="late"))
            unavailable(server, answer, "Failed to update note")
        await eventually(lambda: database.waiting_for_locks() == 0)
        assert database.note(note)["title"] == "t"
        answer = await device.ask(update(note, title="now"))
        assert answer["updatedNote"]["title"] == "now"


async def test_out_of_connections_is_an_error_and_passes(
    boot: Boot, database: Database, note: str
) -> None:
    async with boot(database=BRIEF) as server, server.device(ALICE) as device:
        with database.exhausted(alone=True):
            answer = await device.ask(update(note, title="x"))
            unavailable(server, answer, "Failed to update note")
            assert await device.barrier() == []
        await eventually(lambda: served_again(device, note))


async def test_no_word_of_postgres_reaches_client_or_log(
    boot: Boot, database: Database, note: str
) -> None:
    database.execute(
        "ALTER TABLE notes ADD CONSTRAINT odd CHECK (title <> 'forbidden')"
    )

    try:
        debug = {"level": "debug"}
        async with boot(log=debug) as server, server.device(ALICE) as device:
            answer = await device.ask(update(note, title="forbidden"))
            assert answer["code"] in {"UNAVAILABLE", "INTERNAL"}
            assert "correlationId" in answer
            assert "odd" not in answer["message"]
            text = io.StringIO()
            print(server.log, answer, file=text)
            for word in ("forbidden", "constraint", "violates", note):
                assert word not in text.getvalue().replace(answer["noteId"], "")
    finally:
        database.execute("ALTER TABLE notes DROP CONSTRAINT odd")


async def test_a_folder_deleted_meanwhile_is_not_found(
    boot: Boot, database: Database, note: str
) -> None:
    """The folder goes between the check and the write: no half a move."""
    folder = database.add_folder(ALICE)
    async with boot() as server, server.device(ALICE) as device:
        with database.locked(note) as lock:
            await device.send(update(note, folderId=folder, title="moved"))
            await eventually(lambda: database.waiting_for_locks() == 1)
            database.execute("DELETE FROM folders WHERE id = %s", folder)
            lock.rollback()
            answer = await device.receive()
        assert answer["message"] == "Folder not found or access denied"
        assert database.note(note)["title"] == "t"
        gone = await device.ask(update(str(uuid.uuid4()), title="x"))
        assert gone["message"] == "Note not found or access denied"
        assert server.daemon.health.unready_reasons() == []
