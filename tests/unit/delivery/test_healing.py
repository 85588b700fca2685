"""Looks: what they send, when they are repeated, and what devices are told."""

import asyncio

import pytest

from tests.unit.delivery.recovering import NOTE, OTHER, Device, Scene, recovering
from tests.unit.delivery.table import digest_of, key_of
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery.healing import NEXT_PAGE_S, READING_S, RETRY_S
from typelets_ws.delivery.recovery import DIGESTS
from typelets_ws.delivery.senders import digest_message

__all__ = ["loop_factory"]

PAIR = ["note_created_sync", "note_sync"]
OVER_S = 6.0
"""After it a heal is over, and the next look is that of the audit."""


async def signed_in(scene: Scene, *note_ids: str) -> Device:
    """A device that holds these notes, and is owed nothing."""
    for note_id in note_ids:
        scene.database.write(note_id)
    device = scene.connect("c1")
    await asyncio.sleep(OVER_S)
    device.heard()
    scene.looked_at()
    return device


async def heal(scene: Scene, device: Device, reason: str = "gap") -> list[str]:
    """What the device is sent in a heal."""
    scene.recovery.heal(["alice"], reason)
    await asyncio.sleep(OVER_S)
    return device.heard()


async def test_a_row_is_sent_once_and_the_first_reason_is_named() -> None:
    async with recovering() as scene:
        device = await signed_in(scene)
        scene.database.write(NOTE)
        scene.recovery.heal(["alice"], "first", 0.1)
        scene.recovery.heal(["alice"], "second", 0.2)
        await asyncio.sleep(OVER_S)
        assert device.messages[-1]["reason"] == "first"
        assert device.heard() == [*PAIR, "healed"]
        assert await heal(scene, device) == ["healed"]


async def test_a_row_above_the_horizon_is_sent_once() -> None:
    """A transaction that runs for long keeps the horizon below it."""
    async with recovering() as scene:
        device = await signed_in(scene)
        scene.database.running = scene.database.newest
        scene.database.newest += 1
        scene.database.write(NOTE)
        assert await heal(scene, device) == [*PAIR, "healed"]
        scene.recovery.shown.forget(key_of(NOTE))
        assert await heal(scene, device) == ["healed"], "its version is remembered"
        scene.database.write(NOTE)
        assert await heal(scene, device) == [*PAIR, "healed"]


async def test_a_version_is_remembered_until_a_look_does_not_read_it() -> None:
    async with recovering() as scene:
        device = await signed_in(scene)
        state = scene.recovery.states.get("alice")
        assert state is not None
        scene.database.write(NOTE)
        await heal(scene, device)
        assert state.known == {key_of(NOTE): str(scene.database.rows_by_id[NOTE][0])}
        await heal(scene, device)
        assert state.known is None


async def test_a_row_is_sent_when_it_has_rested_and_looked_at_once_until_then() -> None:
    async with recovering(quiet_s=1.0) as scene:
        device = await signed_in(scene)
        scene.database.write(NOTE)
        began = scene.time()
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(0.99)
        assert device.heard() == []
        await asyncio.sleep(0.02)
        assert device.heard() == [*PAIR, "healed"]
        times = [at - began for at, _ in scene.looked_at()]
        assert times == pytest.approx([0.0, 1.0])


async def test_deletions_found_by_the_audit_are_counted_and_proven() -> None:
    async with recovering(audit_s=5.0) as scene:
        device = await signed_in(scene, NOTE, OTHER)
        del scene.database.rows_by_id[NOTE]
        await asyncio.sleep(2 * OVER_S)
        assert [one["type"] for one in device.messages] == [
            "note_deleted_sync", "healed",
        ]  # fmt: skip
        digest = digest_message(digest_of(scene.database.copy))
        assert device.messages[-1]["digest"]["notes"] == {
            "count": digest.notes.count, "hash": digest.notes.hash,
        }  # fmt: skip
        assert scene.figure("unannounced_changes_total", table="notes") == 1
        device.heard()
        await asyncio.sleep(2 * OVER_S)
        assert device.heard() == []


async def test_a_row_the_audit_sends_is_followed_by_a_digest() -> None:
    async with recovering(audit_s=5.0) as scene:
        device = await signed_in(scene, OTHER)
        for count, row_id in ((2, NOTE), (2, OTHER)):
            scene.database.write(row_id)
            await asyncio.sleep(2 * OVER_S)
            assert device.messages[-1]["digest"]["notes"]["count"] == count
            assert device.heard() == [*PAIR, "healed"]


async def test_a_heal_of_many_users_has_no_digest_while_no_row_is_gone() -> None:
    async with recovering(quiet_s=3.0) as scene:
        device = await signed_in(scene, NOTE)
        users = [f"user{number}" for number in range(DIGESTS)]
        for user in users:
            scene.connect(user, user)
        await asyncio.sleep(OVER_S)
        scene.database.write(NOTE)
        await asyncio.sleep(OVER_S)  # the row has rested
        scene.looked_at()
        scene.recovery.heal(["alice", *users], "gap")
        await asyncio.sleep(0.1)
        assert "digest" not in device.messages[-1]
        assert device.heard() == [*PAIR, "healed"]
        assert len(scene.looked_at()) == 1
        scene.recovery.heal(["alice", *users[1:]], "gap")
        await asyncio.sleep(0.1)
        assert device.messages[-1]["digest"]["notes"]["count"] == 1


async def test_a_recount_of_the_audit_waits_for_events() -> None:
    async with recovering(audit_s=5.0, quiet_s=3.0) as scene:
        device = await signed_in(scene, NOTE, OTHER)
        del scene.database.rows_by_id[NOTE]
        await asyncio.sleep(2 * OVER_S)
        first, second = [at for at, _ in scene.looked_at()][:2]
        assert second - first == pytest.approx(3.0)
        assert device.heard() == ["note_deleted_sync", "healed"]


async def test_a_recount_of_a_heal_follows_at_once() -> None:
    """With many users at a time the first look has no digest."""
    async with recovering(quiet_s=3.0) as scene:
        device = await signed_in(scene, NOTE, OTHER)
        users = [f"user{number}" for number in range(DIGESTS)]
        for user in users:
            scene.connect(user, user)
        await asyncio.sleep(OVER_S)
        del scene.database.rows_by_id[NOTE]
        scene.looked_at()
        scene.recovery.heal(["alice", *users], "gap")
        await asyncio.sleep(0.1)
        assert device.messages[-1]["digest"]["notes"]["count"] == 1
        assert device.heard() == ["note_deleted_sync", "healed"]
        assert [len(some) for _, some in scene.looked_at()] == [DIGESTS + 1, 1]


async def test_a_device_that_comes_back_is_sent_late_deletions_once_more() -> None:
    async with recovering() as scene:
        device = await signed_in(scene, NOTE, OTHER)
        del scene.database.rows_by_id[NOTE]
        assert await heal(scene, device) == ["note_deleted_sync", "healed"]
        assert len(scene.looked_at()) == 2, "the second has the ids"
        scene.disconnect(device)
        back = scene.connect("c2")
        await asyncio.sleep(OVER_S)
        assert back.heard().count("note_deleted_sync") == 1


async def test_a_row_that_was_shown_and_is_gone_is_taken_back_once() -> None:
    """An event has shown it; its transaction was rolled back."""
    async with recovering() as scene:
        device = await signed_in(scene, OTHER)
        scene.recovery.shown.created(key_of(NOTE), b"{}", "t1")
        assert await heal(scene, device) == ["note_deleted_sync", "healed"]
        assert scene.recovery.deletions.kept.gone("alice", scene.time()) == [
            key_of(NOTE)
        ]
        assert await heal(scene, device) == ["healed"]


async def test_a_row_shown_in_part_is_sent_though_it_is_not_among_the_changes() -> None:
    async with recovering() as scene:
        device = await signed_in(scene, NOTE)
        scene.recovery.shown.updated(key_of(NOTE), b'{"title":"x"}', b"", "t999")
        assert await heal(scene, device) == [*PAIR, "healed"]


async def test_more_rows_than_one_look_sends_come_page_by_page() -> None:
    async with recovering(page_rows=2) as scene:
        device = await signed_in(scene)
        ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(5)]
        for row_id in ids:
            scene.database.write(row_id)
        began = scene.time()
        await asyncio.sleep(3.0)  # the rows have rested
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(OVER_S)
        sent = [one["noteId"] for one in device.messages if one["type"] == "note_sync"]
        assert sent == ids
        assert device.heard()[-1] == "healed"
        times = [at - began - 3.0 for at, _ in scene.looked_at()][:3]
        assert times == pytest.approx([0.0, NEXT_PAGE_S, 2 * NEXT_PAGE_S])
        assert [reason for reason, _ in device.resyncs] == ["gap"]
        assert await heal(scene, device) == ["healed"]


async def test_the_next_page_waits_for_a_device_to_read_but_not_for_ever() -> None:
    async with recovering(page_rows=2) as scene:
        device = await signed_in(scene)
        device.behind = True
        for number in range(6):
            scene.database.write(f"00000000-0000-4000-8000-{number:012d}")
        await asyncio.sleep(3.0)
        scene.looked_at()
        scene.recovery.heal(["alice"], "gap")
        pages = []
        for seconds in (READING_S - 1.0, 2.0, 1.0):
            await asyncio.sleep(seconds)
            pages.append(len(scene.looked_at()))
            device.behind = len(pages) < 2
        assert pages == [1, 1, 1]
        assert device.heard() == [*PAIR * 6, "healed"]


async def test_without_postgres_those_who_are_owed_a_heal_are_told_once() -> None:
    async with recovering(audit_s=2.0) as scene:
        device = await signed_in(scene)
        other = scene.connect("c2", "bob")
        await asyncio.sleep(OVER_S)
        scene.fail()
        scene.database.write(NOTE)
        scene.recovery.heal(["alice"], "gap")
        began = scene.time()
        scene.looked_at()
        await asyncio.sleep(5 * RETRY_S)
        assert device.resyncs == [("gap", 0.0)]
        assert other.resyncs == []
        times = [at - began for at, users in scene.looked_at() if users == ["alice"]]
        assert times[:4] == pytest.approx([0.0, RETRY_S, 2 * RETRY_S, 3 * RETRY_S])
        scene.database.failure = None
        await asyncio.sleep(OVER_S)
        assert device.heard() == [*PAIR, "healed"]
        scene.fail()
        scene.recovery.heal(["alice"], "again")
        await asyncio.sleep(0.1)
        assert device.resyncs == [("gap", 0.0), ("again", 0.0)]


async def test_without_postgres_the_audit_alone_owes_nothing() -> None:
    """It comes again in its turn, no sooner."""
    async with recovering(audit_s=5.0) as scene:
        device = await signed_in(scene, NOTE)
        scene.fail()
        await asyncio.sleep(OVER_S)
        assert device.resyncs == []
        state = scene.recovery.states.get("alice")
        assert state is not None
        assert state.due is None


async def test_a_look_at_another_database_is_thrown_away() -> None:
    """Its horizon is that of a database that is not in use any more."""
    async with recovering() as scene:
        device = await signed_in(scene, NOTE)
        scene.database.identity, scene.database.newest = "replica", 50
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(OVER_S)
        assert device.heard() == ["healed"]
        (first, (old,)), (second, (new,)) = scene.database.looks[:2]
        assert first == second
        assert old.horizon is not None
        assert (old.horizon > 100, new.horizon) == (True, 50)
        assert scene.logged()[-1] == "database_changed"
