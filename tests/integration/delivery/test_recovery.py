"""Recovery with a whole daemon: sign-in, gaps, audit, sync."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chaos.rows import FOLDER
from tests.daemon import (
    Boot,
    Device,
    Message,
    RunningDaemon,
    eventually,
    exceptions,
    publish,
)
from tests.integration.delivery.stored import digest, wire_note
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint
from tests.within import PATIENCE_S
from typelets_ws.delivery.recovery import SIGN_IN_S
from typelets_ws.recovery_ports import RowKey, RowKind
from typelets_ws.redis.horizons import SharedHorizons

FAST = {
    "enabled": True, "replay_s": 60.0, "audit_s": 0.5, "audit_share": 0.5,
    "quiet_s": 0.3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def people(database: Database) -> None:
    for user in (ALICE, BOB):
        database.add_user(user)


def rename(database: Database, note: str, title: str) -> None:
    """As a REST route that publishes nothing."""
    database.execute(
        "UPDATE notes SET title = %s, updated_at = greatest(clock_timestamp()"
        " AT TIME ZONE 'UTC', updated_at + interval '1 millisecond') WHERE id = %s",
        title,
        note,
    )


async def until(device: Device, wanted: Callable[[Message], bool]) -> list[Message]:
    """All messages up to the first that is wanted."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found.append(await device.receive())
            if wanted(found[-1]):
                return found


async def reply_to(device: Device, message: dict[str, Any]) -> Message:
    """The reply; what a heal sends may come before it."""
    await device.send({**message, "requestId": "r"})
    return (await until(device, lambda m: m.get("requestId") == "r"))[-1]


async def ping(device: Device) -> Message:
    """The pong; the end of a heal may come before it."""
    await device.send({"type": "ping"})
    return await device.next_of("pong")


def is_healed(message: Message) -> bool:
    return bool(message["type"] == "healed")


def titles(messages: list[Message]) -> list[str]:
    return [m["updatedNote"]["title"] for m in messages if m["type"] == "note_sync"]


async def ready(server: RunningDaemon) -> None:
    """Recovery is on, and has a horizon."""
    await eventually(lambda: server.daemon.relay.recovery.cursor is not None)


async def audited(server: RunningDaemon) -> None:
    """Wait until every user's rows have been looked at once more."""
    now = asyncio.get_running_loop().time()
    states = server.daemon.relay.recovery.states
    await eventually(
        lambda: all(
            (state := states.get(user)) is not None and state.looked_at > now
            for user in states
        )
    )


# Sign-in


async def test_a_device_that_signs_in_gets_what_changed_of_late(
    boot: Boot, database: Database
) -> None:
    note, folder = database.add_note(ALICE, title="new"), database.add_folder(ALICE)
    old = database.add_note(ALICE, title="old")
    database.execute(
        "UPDATE notes SET updated_at = now() - interval '1 day' WHERE id = %s", old
    )
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            found = await until(device, is_healed)
        kinds = [m["type"] for m in found]
        assert kinds[:2] == ["folder_created_sync", "folder_updated_sync"]
        assert (
            found[0]["folderData"] == found[1]["updatedFolder"] == found[1]["changes"]
        )
        assert found[0]["folderData"]["id"] == folder
        sync = next(m for m in found if m["type"] == "note_sync")
        assert sync["noteId"] == note
        assert sync["changes"] == sync["updatedNote"]
        assert sync["fromUserId"] == "server"
        assert found[-1]["reason"] == "sign_in"


async def test_every_further_device_gets_it_and_the_others_do_not(
    boot: Boot, database: Database
) -> None:
    database.add_note(ALICE, title="new")
    async with boot(recovery={**FAST, "audit_s": 30.0}) as server:
        await ready(server)
        async with server.device(ALICE) as first:
            assert titles(await until(first, is_healed)) == ["new"]
            async with server.device(ALICE) as second:
                assert titles(await until(second, is_healed)) == ["new"]
            assert await first.barrier() == []


async def test_without_anything_new_nothing_is_sent(
    boot: Boot, database: Database
) -> None:
    database.add_note(ALICE)
    database.execute("UPDATE notes SET updated_at = now() - interval '1 day'")
    async with boot(recovery={**FAST, "replay_s": 1.0}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await audited(server)
            assert await device.barrier() == []
            assert (await ping(device))["cursor"]


async def moved_after_a_process(
    boot: Boot, database: Database, redis_server: RedisServer
) -> str:
    """A note that lost its folder once a process had left its horizons."""
    folder = database.add_folder(ALICE)
    note = database.add_note(ALICE, folder_id=folder)
    database.execute("UPDATE notes SET updated_at = now() - interval '1 day'")
    async with boot(recovery=FAST) as server:
        await ready(server)
        await eventually(
            lambda: bool(redis_server.command("KEYS", "typelets:horizon:*"))
        )
    database.execute("DELETE FROM folders WHERE id = %s", folder)
    return note


async def test_a_new_process_knows_the_horizons_of_the_one_before(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """Only a transaction id shows that a note has lost its folder."""
    note = await moved_after_a_process(boot, database, redis_server)
    async with boot(recovery={**FAST, "audit_s": 60.0}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            found = await until(device, is_healed)
            assert [m["noteId"] for m in found if m["type"] == "note_sync"] == [note]


async def test_a_sign_in_waits_for_the_horizons_of_earlier_processes(
    boot: Boot,
    database: Database,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection to Redis may be ready after that to Postgres."""
    note = await moved_after_a_process(boot, database, redis_server)
    recall, signed_in = SharedHorizons.recall, asyncio.Event()

    async def late(
        self: SharedHorizons, identity: str
    ) -> list[tuple[float, int]] | None:
        if not signed_in.is_set():
            return None
        found = await recall(self, identity)
        await asyncio.sleep(SIGN_IN_S)  # a slow link: the ages found are out of date
        return found

    monkeypatch.setattr(SharedHorizons, "recall", late)
    async with (
        boot(recovery={**FAST, "audit_s": 60.0}) as server,
        server.device(ALICE) as device,
    ):
        await asyncio.sleep(3 * SIGN_IN_S)  # its look would have been by then
        assert await device.barrier() == []
        signed_in.set()
        found = await until(device, is_healed)
        assert [m["noteId"] for m in found if m["type"] == "note_sync"] == [note]


# Unpublished changes


async def test_an_unpublished_change_reaches_the_devices_once(
    boot: Boot, database: Database
) -> None:
    note = database.add_note(ALICE, title="first")
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device, server.device(BOB) as bob:
            await until(device, is_healed)
            rename(database, note, "second")
            found = await until(device, is_healed)
            assert titles(found) == ["second"]
            assert found[-1]["reason"] == "audit"
            await audited(server)
            await audited(server)
            assert await device.barrier() == await bob.barrier() == []
        counted = server.figure("unannounced_changes_total", table="notes")
        assert counted == 1
        (line,) = server.logged("unannounced_change")
        assert line["table"] == "notes"
        assert "second" not in json.dumps(line)


async def test_a_row_that_keeps_changing_is_sent_when_it_rests(
    boot: Boot, database: Database
) -> None:
    note = database.add_note(ALICE, title="first")
    async with boot(recovery={**FAST, "quiet_s": 1.8, "audit_s": 0.2}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            for number in range(5):
                rename(database, note, f"{number}")
                await asyncio.sleep(0.5)
            assert titles(await until(device, is_healed)) == ["4"]


async def test_a_folders_deletion_reaches_its_notes(
    boot: Boot, database: Database
) -> None:
    folder = database.add_folder(ALICE)
    note = database.add_note(ALICE, folder_id=folder)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            database.execute("DELETE FROM folders WHERE id = %s", folder)
            found = await until(device, is_healed)
            (sync,) = [m for m in found if m["type"] == "note_sync"]
            assert sync["noteId"] == note
            assert sync["updatedNote"]["folderId"] is None


# Rows that are gone


def gone_of(messages: list[Message]) -> list[str]:
    return [m["noteId"] for m in messages if m["type"] == "note_deleted_sync"]


async def known(server: RunningDaemon, database: Database) -> None:
    """Wait until the ids of the user's rows are kept."""
    kept = server.daemon.relay.recovery.deletions.kept
    query = "SELECT (SELECT count(*) FROM notes) + (SELECT count(*) FROM folders) AS n"
    (row,) = database.execute(query)
    await eventually(lambda: kept.count(ALICE) == row["n"])


async def test_unpublished_deletions_reach_the_devices(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """An old client is sent them; a client that syncs also compares the digest."""
    notes = [database.add_note(ALICE) for _ in range(4)]
    folder = database.add_folder(ALICE)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            await known(server, database)
            database.execute("DELETE FROM notes WHERE id = ANY(%s)", notes[:2])
            database.execute("DELETE FROM folders")
            found = await until(device, is_healed)
            assert set(gone_of(found)) == set(notes[:2])
            assert [m["folderId"] for m in found if "folderId" in m] == [folder]
            assert (found[-1]["reason"], found[-1]["digest"]) == (
                "audit", digest(database),
            )  # fmt: skip
            assert server.figure("unannounced_changes_total", table="notes") == 2
            # As many rows come as go.
            database.execute("DELETE FROM notes WHERE id = %s", notes[2])
            created = database.add_note(ALICE)
            found = await until(device, is_healed)
            assert gone_of(found) == [notes[2]]
            assert created in [m.get("noteId") for m in found]
            # A deletion that is published is not sent again.
            database.execute("DELETE FROM notes WHERE id = %s", notes[3])
            event = {"event": "note_deleted", "noteId": notes[3]}
            await publish(redis_server.url, ALICE, event)
            assert (await device.receive())["type"] == "note_deleted_sync"
            await audited(server)
            await audited(server)
            assert await device.barrier() == []


async def test_a_repeated_deletion_does_not_hide_an_unpublished_one(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """One event more and one row less: counting both would balance."""
    note, other = database.add_note(ALICE), database.add_note(ALICE)
    event = {"event": "note_deleted", "noteId": other}
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            database.execute("DELETE FROM notes WHERE id = %s", other)
            await publish(redis_server.url, ALICE, event)
            await audited(server)
            await known(server, database)
            await device.barrier()
            database.execute("DELETE FROM notes WHERE id = %s", note)
            await publish(redis_server.url, ALICE, event)
            found = await until(device, is_healed)
            assert gone_of(found) == [other, note]
            assert found[-1]["digest"] == digest(database)


async def test_a_deletion_while_a_device_was_away(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """Published to nobody, or to the user's other device only."""
    notes = [database.add_note(ALICE) for _ in range(3)]
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            await known(server, database)
        database.execute("DELETE FROM notes WHERE id = %s", notes[0])
        async with server.device(ALICE) as device:
            assert gone_of(await until(device, is_healed)) == [notes[0]]
            await known(server, database)
            database.execute("DELETE FROM notes WHERE id = %s", notes[1])
            event = {"event": "note_deleted", "noteId": notes[1]}
            await publish(redis_server.url, ALICE, event)
            assert gone_of([await device.receive()]) == [notes[1]]
            async with server.device(ALICE) as other:
                assert notes[1] in gone_of(await until(other, is_healed))
            await audited(server)
            assert await device.barrier() == []
            async with server.device(ALICE) as other:
                assert notes[1] in gone_of(await until(other, is_healed))


async def test_a_deletion_in_a_gap(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = database.add_note(ALICE)
    async with boot(recovery={**FAST, "audit_s": 60.0}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            redis_server.kill()
            database.execute("DELETE FROM notes WHERE id = %s", note)
            redis_server.start()
            assert gone_of(await until(device, is_healed)) == [note]


async def test_an_id_that_is_no_uuid_does_not_stop_the_audit(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = database.add_note(ALICE, title="first")
    row = wire_note(database, note)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            for row_id in ("junk", note.replace("-", ""), ""):
                for event in (
                    {"event": "note_deleted", "noteId": row_id},
                    {"event": "note_created", "noteData": {**row, "id": row_id}},
                    {
                        "event": "note_updated", "noteId": row_id, "changes": {},
                        "updatedNote": {**row, "updatedAt": "9999-01-01T00:00:00.000Z"},
                    },
                ):  # fmt: skip
                    await publish(redis_server.url, ALICE, event)
            await audited(server)
            rename(database, note, "second")
            found = await until(device, is_healed)
            while "second" not in titles(found):
                found = await until(device, is_healed)
        assert not exceptions(server.log)


async def test_the_first_edit_of_a_row_is_sent_whole_once_more(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """An event before it may have been skipped: its copy on devices is not known."""
    note = database.add_note(ALICE, title="first")
    database.execute("UPDATE notes SET updated_at = now() - interval '1 day'")
    async with boot(recovery={**FAST, "replay_s": 1.0}) as server:
        await ready(server)
        await asyncio.sleep(1.1)  # until the note is older than the replay
        async with server.device(ALICE) as device:
            await audited(server)
            assert await device.barrier() == []
            await update_and_publish(database, redis_server, note, title="second")
            found = await until(device, is_healed)
            assert titles(found) == ["second", "second"]
            await update_and_publish(database, redis_server, note, title="third")
            assert titles([await device.receive()]) == ["third"]
            await audited(server)
            await audited(server)
            assert await device.barrier() == []
        assert server.figure("unannounced_changes_total", table="notes") == 0


async def test_a_skipped_event_before_a_published_one_is_found(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """The last event has the newest version, and does not name the field skipped."""
    note = database.add_note(ALICE, title="first")
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            rename(database, note, "skipped")
            await update_and_publish(database, redis_server, note, starred=True)
            await device.receive()
            found = await until(device, is_healed)
            assert titles(found) == ["skipped"]
            assert found[0]["noteData"]["starred"] is True


async def update_and_publish(
    database: Database,
    redis_server: RedisServer,
    note: str,
    **fields: Any,
) -> Message:
    """As a REST route that does it right."""
    names = ", ".join(f"{name} = %s" for name in fields)
    database.execute(
        f"UPDATE notes SET {names}, updated_at = greatest(clock_timestamp()"
        " AT TIME ZONE 'UTC', updated_at + interval '1 millisecond') WHERE id = %s",
        *fields.values(),
        note,
    )
    row = wire_note(database, note)
    event = {
        "event": "note_updated", "noteId": note,
        "changes": {**fields, "updatedAt": row["updatedAt"]}, "updatedNote": row,
    }  # fmt: skip
    await publish(redis_server.url, ALICE, event)
    return row


async def test_delivered_changes_are_not_sent_again(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note, other = database.add_note(ALICE), database.add_note(ALICE)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as one, server.device(ALICE) as two:
            await until(one, is_healed)
            await until(two, is_healed)
            await one.send(
                {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
            )
            await one.receive()
            await two.receive()
            await update_and_publish(database, redis_server, other, title="y")
            await one.receive()
            await two.receive()
            await audited(server)
            await audited(server)
            assert await one.barrier() == await two.barrier() == []
        assert server.figure("unannounced_changes_total", table="notes") == 0


async def test_a_late_event_of_an_older_version_is_set_right(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """Long after the audit has seen the newer version."""
    note = database.add_note(ALICE, title="first")
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            older = wire_note(database, note)
            rename(database, note, "newer")
            assert titles(await until(device, is_healed)) == ["newer"]
            shown = server.daemon.relay.recovery.shown
            shown.forget(RowKey(ALICE, RowKind.NOTE, note))
            await audited(server)
            event = {
                "event": "note_updated", "noteId": note,
                "changes": {"title": "first", "updatedAt": older["updatedAt"]},
                "updatedNote": older,
            }  # fmt: skip
            await publish(redis_server.url, ALICE, event)
            assert titles([await device.receive()]) == ["first"]
            assert titles(await until(device, is_healed)) == ["newer"]


SLOW = {**FAST, "audit_s": 3_600.0, "quiet_s": 0.05}


def star(database: Database, note: str, *, starred: bool) -> None:
    """By hand: `updatedAt` stays, and nothing is published."""
    query = "UPDATE notes SET starred = %s WHERE id = %s"
    database.execute(query, starred, note)


async def heal(redis_server: RedisServer, device: Device) -> list[Message]:
    """Have the user healed; returns what the device hears of it."""
    await publish(redis_server.url, ALICE, {"event": "resync_required"})
    return await until(device, is_healed)


@asynccontextmanager
async def two_healed(boot: Boot) -> AsyncIterator[tuple[Device, Device]]:
    """Two devices of one user, after the looks at their sign-ins."""
    async with boot(recovery=SLOW) as server:
        await ready(server)
        async with server.device(ALICE) as one, server.device(ALICE) as two:
            await until(one, is_healed)
            await until(two, is_healed)
            yield one, two


def starred(messages: list[Message]) -> list[bool]:
    rows = [m["updatedNote"] for m in messages if m["type"] == "note_sync"]
    return [row["starred"] for row in rows]


async def test_a_row_that_changed_back_after_a_page_is_sent_again(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """One device was shown it in between; the digest is the same throughout."""
    note = database.add_note(ALICE)
    async with two_healed(boot) as (one, two):
        star(database, note, starred=True)
        page = await reply_to(one, {"type": "sync"})
        assert [row["starred"] for row in page["notes"]] == [True]
        star(database, note, starred=False)
        assert starred(await heal(redis_server, one)) == [False]
        assert starred(await until(two, is_healed)) == [False]
        assert starred(await heal(redis_server, one)) == []


async def test_a_row_that_changed_back_after_a_replay_is_sent_again(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = database.add_note(ALICE)
    async with boot(recovery=SLOW) as server:
        await ready(server)
        async with server.device(ALICE) as one:
            await until(one, is_healed)
            star(database, note, starred=True)
            async with server.device(ALICE) as two:
                assert starred(await until(two, is_healed)) == [True]
                star(database, note, starred=False)
                assert starred(await heal(redis_server, two)) == [False]


async def test_a_row_that_changed_back_after_a_conflict_is_sent_again(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = database.add_note(ALICE)
    async with two_healed(boot) as (one, _):
        star(database, note, starred=True)
        refused = await reply_to(one,
            {
                "type": "note_update", "noteId": note, "changes": {"title": "x"},
                "baseUpdatedAt": "2020-01-01T00:00:00.000Z",
            }
        )  # fmt: skip
        assert refused["updatedNote"]["starred"]
        star(database, note, starred=False)
        assert starred(await heal(redis_server, one)) == [False]


async def test_a_row_that_was_announced_and_does_not_exist_is_taken_back(
    boot: Boot, redis_server: RedisServer
) -> None:
    note = "00000000-0000-4000-8000-00000000abcd"
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await audited(server)
            event = {"event": "note_created", "noteData": {"id": note}}
            await publish(redis_server.url, ALICE, event)
            found = await until(device, is_healed)
            assert [m["type"] for m in found] == [
                "note_created_sync", "note_deleted_sync", "healed",
            ]  # fmt: skip


# Gaps


@pytest.mark.parametrize("way", ["kill", "unreadable", "publish_failed"])
async def test_after_a_gap_devices_are_healed(
    boot: Boot, database: Database, redis_server: RedisServer, way: str
) -> None:
    note = database.add_note(ALICE, title="first")
    async with boot(recovery={**FAST, "audit_s": 60.0}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            if way == "kill":
                redis_server.kill()
                rename(database, note, "second")
                redis_server.start()
            elif way == "unreadable":
                rename(database, note, "second")
                await publish(redis_server.url, ALICE, b"junk")
            else:
                rename(database, note, "second")
                event = {"event": "resync_required", "reason": "publish_failed"}
                await publish(redis_server.url, ALICE, event)
            found = await until(device, is_healed)
            assert titles(found) == ["second"]
            assert "resync_required" not in [m["type"] for m in found]
            assert found[-1]["reason"] not in {"audit", "sign_in"}
            assert found[-1]["digest"] == digest(database)


async def test_with_postgres_away_devices_are_reported_and_healed_later(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = database.add_note(ALICE, title="first")
    away = {"wait_ms": 1_000}
    async with boot(recovery={**FAST, "audit_s": 60.0}, database=away) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            rename(database, note, "second")
            database.stop()
            await publish(redis_server.url, ALICE, b"junk")
            told = await until(device, lambda m: m["type"] == "resync_required")
            assert told[-1]["reason"].startswith("event_")
            database.start()
            assert titles(await until(device, is_healed)) == ["second"]


async def test_without_recovery_devices_are_reported_to_resync(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        await publish(redis_server.url, ALICE, b"junk")
        assert (await device.receive())["type"] == "resync_required"
        sync = await reply_to(device, {"type": "sync"})
        assert (sync["code"], "cursor" in await ping(device)) == (
            "UNKNOWN_TYPE", False,
        )  # fmt: skip


# Sync


async def test_sync_from_nothing_and_from_a_cursor(
    boot: Boot, database: Database
) -> None:
    note, folder = database.add_note(ALICE, title="first"), database.add_folder(ALICE)
    database.add_note(BOB)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            page = await reply_to(
                device, {"type": "sync", "requestId": "r", "ids": True}
            )
            assert page.pop("cursor")
            assert page == {
                "type": "sync_page", "requestId": "r", "more": False,
                "notes": [wire_note(database, note)],
                "folders": [page["folders"][0]],
                "digest": digest(database),
                "noteIds": [note], "folderIds": [folder],
            }  # fmt: skip
            assert page["folders"][0]["id"] == folder
            cursor = (await reply_to(device, {"type": "sync"}))["cursor"]
            page = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert (page["notes"], page["folders"]) == ([], [])
            assert "noteIds" not in page
            rename(database, note, "second")
            page = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert [row["title"] for row in page["notes"]] == ["second"]
            assert page["digest"] == digest(database)
            await audited(server)
            assert [m["type"] for m in await device.barrier()].count("healed") <= 1


async def test_pages_of_a_sync(boot: Boot, database: Database) -> None:
    notes = {database.add_note(ALICE, content="x" * 500) for _ in range(9)}
    async with boot(recovery={**FAST, "page_rows": 4, "page_bytes": 3_000}) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            seen: list[str] = []
            page: Message = {"more": True}
            while page["more"]:
                asked = {"type": "sync"}
                if "cursor" in page:
                    asked["cursor"] = page["cursor"]
                page = await reply_to(device, asked)
                assert page["type"] == "sync_page"
                assert ("digest" in page) is not page["more"]
                assert len(json.dumps(page["notes"])) < 4_000
                seen += [row["id"] for row in page["notes"]]
            assert sorted(seen) == sorted(notes)


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "AQ", "A" * 20, "A" * 200, "é", "\ud800", "AQAAAAAAAAAAAAAAAAAAAAAA"],
)
async def test_unknown_cursors_are_refused(boot: Boot, cursor: str) -> None:
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            error = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert error["type"] == "error"
            assert error["code"] in {"CURSOR_EXPIRED", "INVALID_FIELD"}


async def test_a_cursor_is_good_on_every_process_and_after_a_restart(
    boot: Boot, database: Database
) -> None:
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            cursor = (await reply_to(device, {"type": "sync"}))["cursor"]
    note = database.add_note(ALICE)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            page = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert [row["id"] for row in page["notes"]] == [note]


async def test_auth_success_has_a_cursor_that_finds_what_follows(
    boot: Boot, database: Database
) -> None:
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device() as device:
            answer = await device.auth(device_token())
            note = database.add_note(ALICE)
            found = await reply_to(device, {"type": "sync", "cursor": answer["cursor"]})
            assert note in [row["id"] for row in found["notes"]]


def device_token() -> str:
    return mint(ALICE)


async def test_a_step_that_fails_ends_neither_recovery_nor_the_daemon(
    boot: Boot, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = database.add_note(ALICE, title="first")
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            states = server.daemon.relay.recovery.states
            with monkeypatch.context() as patch:
                patch.setattr(states, "take_due", lambda *_: 1 / 0)
                await eventually(lambda: bool(server.logged("recovery_step_failed")))
            assert exceptions(server.log) == server.logged("recovery_step_failed")
            rename(database, note, "second")
            assert titles(await until(device, is_healed)) == ["second"]


async def test_a_second_device_is_healed_of_what_the_first_was_shown_before(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """The event comes while the user's first look is still to come."""
    async with boot(recovery=FAST) as server, server.device(ALICE) as first:
        folder = database.add_folder(ALICE)
        query = f"SELECT {FOLDER} WHERE id = %s) AS r"
        (row,) = database.execute(query, folder)
        event = {"event": "folder_created", "folderData": row["row_to_json"]}
        await publish(redis_server.url, ALICE, event)
        await until(first, lambda m: m["type"] == "folder_created_sync")
        async with server.device(ALICE) as second:
            found = await until(second, lambda m: m["type"] == "folder_created_sync")
            assert found[-1]["folderData"]["id"] == folder
