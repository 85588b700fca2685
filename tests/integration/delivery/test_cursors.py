"""Cursors of other users, other times and other shapes; `pong` and pages by them."""

import base64
import struct
from typing import Any

import pytest

from tests.daemon import Boot, Device, Message, eventually, publish
from tests.integration.delivery.test_recovery import (
    FAST,
    SLOW,
    heal,
    is_healed,
    ping,
    ready,
    rename,
    reply_to,
    titles,
    until,
)  # fmt: skip
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint

PAGED = {**SLOW, "page_rows": 2}


@pytest.fixture(autouse=True)
def people(database: Database) -> None:
    for user in (ALICE, BOB):
        database.add_user(user)


async def page(device: Device, **asked: Any) -> Message:
    """The answer to a `sync`; rows of a sign-in's heal may come before it."""
    return await reply_to(device, {"type": "sync", **asked})


def ids(found: Message) -> set[str]:
    return {row["id"] for row in found["notes"]}


def altered(cursor: str, horizon: int) -> str:
    """The cursor with another horizon; it has no secret."""
    packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    changed = packed[:7] + struct.pack(">Q", horizon) + packed[15:]
    return base64.urlsafe_b64encode(changed).rstrip(b"=").decode()


async def test_another_users_cursor_selects_among_ones_own_rows(
    boot: Boot, database: Database
) -> None:
    mine = {database.add_note(ALICE) for _ in range(3)}
    for _ in range(4):
        database.add_note(BOB)
    async with boot(recovery=PAGED) as server:
        await ready(server)
        async with server.device(ALICE) as alice, server.device(BOB) as bob:
            foreign = await page(bob)
            assert foreign["more"]
            for cursor in (foreign["cursor"], (await page(bob, ids=True))["cursor"]):
                found = await page(alice, cursor=cursor)
                assert found["type"] == "sync_page"
                assert ids(found) <= mine
            whole = await page(bob, cursor=foreign["cursor"])
            assert ids(await page(alice, cursor=whole["cursor"])) == set()


async def test_a_cursor_of_the_future_or_of_another_epoch_is_refused(
    boot: Boot, database: Database
) -> None:
    database.add_note(ALICE)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            cursor = (await page(device))["cursor"]
            assert (await page(device, cursor=cursor))["type"] == "sync_page"
            for horizon in (2**31, 2**40, 2**63, 2**64 - 1):
                refused = await page(device, cursor=altered(cursor, horizon))
                assert refused["code"] == "CURSOR_EXPIRED", horizon
            # A horizon before the first transaction: everything is newer.
            assert ids(await page(device, cursor=altered(cursor, 3)))


@pytest.mark.parametrize("cursor", [5, True, {}, [], 1.5, "\ud800", "\x00", "=" * 22])
async def test_a_cursor_of_any_other_shape_is_refused_alike(
    boot: Boot, cursor: object
) -> None:
    """The client then syncs without one; after another code it would keep it."""
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            refused = await page(device, cursor=cursor)
            assert (refused["type"], refused["code"]) == ("error", "CURSOR_EXPIRED")
            assert (await page(device, cursor=None))["type"] == "sync_page"


async def test_pages_with_ids_have_them_on_the_last(
    boot: Boot, database: Database
) -> None:
    notes = {database.add_note(ALICE) for _ in range(5)}
    folders = {database.add_folder(ALICE) for _ in range(2)}
    async with boot(recovery=PAGED) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            found = await page(device, ids=True)
            first, seen = found["cursor"], ids(found)
            while found["more"]:
                assert not {"noteIds", "folderIds", "digest"} & found.keys()
                # A row behind the position changes: the next sync has it.
                if found["cursor"] == first:
                    database.execute("UPDATE folders SET color = 'red'")
                found = await page(device, ids=True, cursor=found["cursor"])
                seen |= ids(found)
            assert seen == notes
            assert set(found["noteIds"]) == notes
            assert set(found["folderIds"]) == folders
            gone = notes.pop()
            database.execute("DELETE FROM notes WHERE id = %s", gone)
            found = await page(device, ids=True, cursor=found["cursor"])
            assert {row["id"] for row in found["folders"]} == folders
            assert set(found["noteIds"]) == notes
            assert found["digest"]["notes"]["count"] == len(notes)


async def test_the_cursor_of_a_pong_is_not_ahead_of_what_was_sent(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """An unpublished change is after it until a look has sent it."""
    note = database.add_note(ALICE, title="first")
    async with boot(recovery=SLOW) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await page(device)

            async def known() -> bool:
                return "cursor" in await ping(device)

            await eventually(known)
            rename(database, note, "second")
            pong = await ping(device)
            assert ids(await page(device, cursor=pong["cursor"])) == {note}
            assert titles(await heal(redis_server, device)) == ["second"]
            pong = await ping(device)
            assert ids(await page(device, cursor=pong["cursor"])) == set()


async def test_a_user_without_rows_syncs_to_nothing(
    boot: Boot, database: Database
) -> None:
    empty = {"count": 0, "hash": "0" * 32}
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            found = await page(device, ids=True)
            assert found["digest"] == {"notes": empty, "folders": empty}
            assert (found["noteIds"], found["folderIds"], found["more"]) == (
                [], [], False,
            )  # fmt: skip


async def test_an_update_of_a_deleted_note_is_not_found_whatever_its_base(
    boot: Boot, database: Database
) -> None:
    note = database.add_note(ALICE)
    async with boot(recovery=FAST) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            (row,) = (await page(device))["notes"]
            database.execute("DELETE FROM notes WHERE id = %s", note)
            for base in (row["updatedAt"], "2020-01-01T00:00:00.000Z"):
                await device.send(
                    {
                        "type": "note_update", "noteId": note, "requestId": "u",
                        "changes": {"title": "x"}, "baseUpdatedAt": base,
                    }
                )  # fmt: skip
                heard = await until(device, lambda m: m.get("requestId") == "u")
                assert heard[-1]["code"] == "NOT_FOUND"


async def test_with_recovery_off_updates_still_have_a_base(
    boot: Boot, database: Database
) -> None:
    note = database.add_note(ALICE)
    off = {"enabled": False}
    async with boot(recovery=off) as server, server.device() as device:
        answer = await device.auth(mint(ALICE))
        assert "cursor" not in answer
        assert "cursor" not in await ping(device)
        refused = await page(device)
        assert refused["code"] == "UNKNOWN_TYPE"
        stale = await reply_to(device,
                {
                    "type": "note_update", "noteId": note, "changes": {"title": "x"},
                    "baseUpdatedAt": "2020-01-01T00:00:00.000Z",
                }
            )  # fmt: skip
        assert stale["code"] == "CONFLICT"
        assert stale["updatedNote"]["id"] == note


async def test_a_heal_too_large_for_one_look_is_reported_and_goes_on(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """Old clients get all rows; others may sync from the cursor of `healed`."""
    notes = {database.add_note(ALICE, title=f"first {n}"): n for n in range(5)}
    async with boot(recovery=PAGED) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            for note, number in notes.items():
                rename(database, note, f"second {number}")
            event = {"event": "resync_required", "reason": "publish_failed"}
            await publish(redis_server.url, ALICE, event)
            found = await until(device, is_healed)
            assert sorted(titles(found)) == [f"second {n}" for n in range(5)]
            reports = [m["reason"] for m in found if m["type"] == "resync_required"]
            assert reports == ["publish_failed"], "once for all of its pages"
            assert found[-1]["reason"] == "publish_failed"
            last = await page(device, cursor=found[-1]["cursor"])
            assert (ids(last), last["digest"]) == (set(), found[-1]["digest"])
