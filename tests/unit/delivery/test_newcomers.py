"""The replay to a device that has signed in beside others."""

import asyncio
import itertools

import pytest

from tests.unit.delivery.recovering import (
    NOTE,
    OTHER,
    TIMEOUT_S,
    Device,
    Scene,
    recovering,
)
from tests.unit.delivery.table import key_of
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery.healing import REST
from typelets_ws.delivery.newcomers import NARROW_FROM, REREAD_S, RETRY_S
from typelets_ws.delivery.recovery import SIGN_IN_S

__all__ = ["loop_factory"]

PAIR = ["note_created_sync", "note_sync"]
SOON_S = SIGN_IN_S + 0.11
"""After a sign-in: its replay has begun."""


async def beside(scene: Scene, *note_ids: str) -> Device:
    """A first device, which holds these notes; recovery knows a whole replay."""
    await asyncio.sleep(25.0)
    for note_id in note_ids:
        scene.database.write(note_id)
    first = scene.connect("c1")
    await asyncio.sleep(6.0)
    first.heard()
    scene.looked_at()
    scene.database.extents.clear()
    return first


def titles(device: Device) -> list[str]:
    """The updatedAt of each row sent."""
    rows = [one for one in device.messages if one["type"] == "note_sync"]
    return [one["updatedNote"]["updatedAt"] for one in rows]


async def test_it_gets_what_was_written_of_late_and_the_others_do_not() -> None:
    async with recovering() as scene:
        first = await beside(scene, NOTE, OTHER)
        device = scene.connect("c2")
        assert scene.recovery._newcomers.waiting
        await asyncio.sleep(SOON_S)
        assert device.messages[-1]["reason"] == "sign_in"
        assert device.messages[-1]["cursor"] == scene.recovery.cursor
        assert device.heard() == [*PAIR, *PAIR, "healed"]
        assert first.heard() == []
        assert not scene.recovery._newcomers.waiting
        assert scene.recovery._newcomers.next_due() is None
        assert len(scene.looked_at()) == 1
        (extent,) = scene.database.extents
        assert not extent.narrow
        await asyncio.sleep(10.0)
        assert device.heard() == []


async def test_a_row_that_only_it_was_shown_is_noted() -> None:
    """It may change back before the others are shown it."""
    async with recovering(audit_s=300.0) as scene:
        first = await beside(scene, NOTE)
        scene.database.write(NOTE)
        await asyncio.sleep(6.0)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard() == [*PAIR, "healed"]
        assert first.heard() == []
        shown = scene.recovery.shown.get(key_of(NOTE))
        assert shown is not None
        assert [step.connection for step in shown.steps] == ["c2"]


async def test_a_row_that_only_it_was_shown_is_missed_when_it_has_gone() -> None:
    async with recovering(audit_s=300.0) as scene:
        await beside(scene, NOTE)
        scene.database.write(OTHER)
        await asyncio.sleep(6.0)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard() == [*PAIR, *PAIR, "healed"]
        del scene.database.rows_by_id[OTHER]
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(6.0)
        assert device.heard() == ["note_deleted_sync", "healed"]


async def test_a_row_of_the_trash_that_only_it_was_shown_is_missed() -> None:
    """The event of its deletion came before, and the row was there still."""
    async with recovering(audit_s=300.0) as scene:
        await beside(scene, NOTE)
        scene.database.write(OTHER)
        await asyncio.sleep(6.0)
        scene.recovery.shown.deleted(key_of(OTHER))
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard()[-3:] == [*PAIR, "healed"]
        del scene.database.rows_by_id[OTHER]
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(6.0)
        assert device.heard() == ["note_deleted_sync", "healed"]


async def test_with_nothing_new_it_is_told_nothing() -> None:
    async with recovering() as scene:
        await beside(scene)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard() == []
        assert not scene.recovery._newcomers.waiting


async def test_until_its_replay_is_done_a_pong_has_no_cursor() -> None:
    async with recovering() as scene:
        await beside(scene, NOTE)
        device = scene.connect("c2")

        class Peer:
            connection_id, user_id, authenticated = "c2", "alice", True

        assert scene.recovery.pong_cursor(Peer()) is None
        await asyncio.sleep(SOON_S)
        assert scene.recovery.pong_cursor(Peer()) is not None
        assert device.heard()


async def test_a_row_is_sent_when_it_has_rested() -> None:
    async with recovering(quiet_s=1.0) as scene:
        await beside(scene)
        scene.database.write(NOTE)
        device = scene.connect("c2")
        began = scene.time()
        await asyncio.sleep(SOON_S + 0.5)
        scene.database.write(NOTE)
        await asyncio.sleep(1.0)
        assert device.heard() == [], "it has changed"
        await asyncio.sleep(1.0)
        assert titles(device) == [scene.database.copy[NOTE]]
        assert device.heard() == [*PAIR, "healed"]
        first, second = [at - began for at, _ in scene.database.reads]
        assert second - first == pytest.approx(1.0)


async def test_a_row_that_goes_before_it_has_rested_is_not_sent() -> None:
    async with recovering() as scene:
        await beside(scene)
        scene.database.write(NOTE)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        del scene.database.rows_by_id[NOTE]
        await asyncio.sleep(2.0)
        assert device.heard() == []
        assert not scene.recovery._newcomers.waiting


async def test_a_row_that_is_shown_while_it_is_read_is_read_again_soon() -> None:
    async with recovering(audit_s=300.0) as scene:
        await beside(scene, NOTE)
        device = scene.connect("c2")
        scene.database.takes_s = 1.0
        await asyncio.sleep(SOON_S)
        scene.database.write(NOTE)
        at = scene.database.copy[NOTE]
        scene.recovery.shown.updated(key_of(NOTE), b"{}", b"", at)
        await asyncio.sleep(1.0)
        assert device.heard() == []
        scene.database.takes_s = 0.0
        await asyncio.sleep(REREAD_S)
        assert titles(device) == [at]
        assert device.heard() == [*PAIR, "healed"]


async def test_more_rows_than_a_page_come_page_by_page() -> None:
    async with recovering(page_rows=1) as scene:
        await beside(scene, NOTE, OTHER)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard() == PAIR
        await asyncio.sleep(REREAD_S)
        assert device.heard() == [*PAIR, "healed"]
        (first, (one,)), (second, (two,)) = scene.database.looks
        assert second - first == pytest.approx(REREAD_S)
        assert (one.after, two.after) == (None, ("note", NOTE))


async def test_the_next_page_waits_for_the_device_to_read() -> None:
    async with recovering(page_rows=1) as scene:
        await beside(scene, NOTE, OTHER)
        device = scene.connect("c2")
        device.behind = True
        await asyncio.sleep(SOON_S + 10.0)
        assert device.heard() == PAIR, "by events it may have been sent much, too"
        device.behind = False
        await asyncio.sleep(RETRY_S)
        assert device.heard() == [*PAIR, "healed"]
        assert len(scene.database.looks) == 2


async def test_more_rows_that_do_not_rest_than_one_answer_holds_come_one_by_one() -> (
    None
):
    async with recovering(audit_s=300.0) as scene:
        await beside(scene)
        scene.database.most_rows = 1
        for row_id in (NOTE, OTHER):
            scene.database.write(row_id)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        scene.database.reads.clear()
        await asyncio.sleep(5.0)
        assert device.heard() == [*PAIR, *PAIR, "healed"]
        (first, both), (second, other) = scene.database.reads
        assert both == [key_of(NOTE), key_of(OTHER)]
        assert other == [key_of(OTHER)]
        assert second - first == pytest.approx(REREAD_S)


async def test_deletions_are_repeated_once_though_the_first_look_reads_in_parts() -> (
    None
):
    ids = [f"00000000-0000-4000-8000-00000000001{number}" for number in range(3)]
    async with recovering(audit_s=300.0) as scene:
        first = await beside(scene, NOTE, *ids)
        await asyncio.sleep(25.0)
        del scene.database.rows_by_id[NOTE]
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(6.0)
        scene.disconnect(first)
        scene.database.most_rows = 1
        device = scene.connect("c2")
        for row_id in ids:
            at = scene.database.copy[row_id]
            scene.recovery.shown.updated(key_of(row_id), b"{}", b"", at)
        await asyncio.sleep(6.0)
        assert len(scene.database.reads) >= len(ids)
        assert device.heard() == ["note_deleted_sync", *PAIR * 3, "healed"]


async def test_deletions_of_late_are_sent_once_more() -> None:
    async with recovering(page_rows=1) as scene:
        first = await beside(scene, NOTE, OTHER)
        gone = "00000000-0000-4000-8000-000000000009"
        scene.recovery.shown.deleted(key_of(gone))
        del scene.database.rows_by_id[NOTE]
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(6.0)
        assert "note_deleted_sync" in first.heard()
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S + 1.0)
        assert device.heard() == [*["note_deleted_sync"] * 2, *PAIR, "healed"]


async def test_a_deletion_alone_is_followed_by_healed() -> None:
    async with recovering() as scene:
        await beside(scene)
        scene.recovery.shown.deleted(key_of(NOTE))
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert device.heard() == ["note_deleted_sync", "healed"]


async def test_a_device_that_closes_is_sent_nothing() -> None:
    async with recovering() as scene:
        await beside(scene, NOTE)
        scene.recovery.shown.deleted(key_of(OTHER))
        device = scene.connect("c2")
        device.open = False
        await asyncio.sleep(SOON_S)
        assert device.heard() == []


async def test_without_postgres_it_is_tried_again() -> None:
    async with recovering() as scene:
        await beside(scene, NOTE)
        device = scene.connect("c2")
        scene.fail()
        await asyncio.sleep(SOON_S)
        assert scene.logged() == ["recovery_on"]
        await asyncio.sleep(1.5 * RETRY_S)
        scene.database.failure = None
        await asyncio.sleep(RETRY_S)
        assert device.heard() == [*PAIR, "healed"]
        times = [at for at, _ in scene.database.looks]
        assert times[1] - times[0] == pytest.approx(RETRY_S)


async def test_a_user_whose_rows_cannot_be_read_in_time_costs_no_other() -> None:
    async with recovering(audit_s=300.0) as scene:
        await beside(scene, NOTE)
        scene.connect("m1", "mallory")
        await asyncio.sleep(6.0)
        scene.database.heavy["mallory"] = 9.0
        mallory, alice = scene.connect("m2", "mallory"), scene.connect("c2")
        scene.looked_at()
        began = scene.time()
        await asyncio.sleep(40.0)
        assert alice.heard() == [*PAIR, "healed"]
        assert mallory.heard() == []
        tries = [at for at, users in scene.looked_at() if users == ["mallory"]]
        assert tries[0] - began < SOON_S + TIMEOUT_S + 0.1
        rests = [later - at for at, later in itertools.pairwise(tries)]
        assert min(rests) >= TIMEOUT_S * (1 + REST)
        scene.database.heavy.clear()
        await asyncio.sleep(TIMEOUT_S * (1 + REST))
        assert not scene.recovery._newcomers.waiting


@pytest.mark.parametrize(("count", "narrow"), [(NARROW_FROM, True), (2, False)])
async def test_very_many_at_once_are_read_narrowly(count: int, *, narrow: bool) -> None:
    async with recovering(replay_s=20.0) as scene:
        await beside(scene, NOTE)
        for number in range(count):
            scene.connect(f"d{number}")
        await asyncio.sleep(SOON_S)
        assert [one.narrow for one in scene.database.extents] == [narrow]
        ((_, some),) = scene.database.looks
        assert {one.since_s for one in some} == {20.0 if narrow else None}
        assert len(some) == count


async def test_before_a_whole_replay_is_known_rows_are_read_by_their_times_too() -> (
    None
):
    async with recovering(replay_s=20.0) as scene:
        scene.connect("c1")
        await asyncio.sleep(5.0)
        scene.looked_at()
        scene.connect("c2")
        await asyncio.sleep(SOON_S)
        ((_, (since,)),) = scene.database.looks
        assert since.since_s == 20.0
        assert since.horizon is not None


async def test_another_database_is_read_from_its_first_page() -> None:
    async with recovering(page_rows=1, audit_s=300.0) as scene:
        await beside(scene, NOTE, OTHER)
        device = scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert titles(device) == [scene.database.copy[NOTE]]
        scene.database.identity = "replica"
        scene.looked_at()
        await asyncio.sleep(REREAD_S + 0.05)
        assert "database_changed" in scene.logged(), "the replay itself found it"
        assert len(titles(device)) == 1
        await asyncio.sleep(10.0)
        afters = [since.after for _, some in scene.database.looks for since in some]
        assert None in afters[1:]
        assert not scene.recovery._newcomers.waiting


async def test_another_database_is_read_though_all_pages_had_been_read() -> None:
    """The row that has yet to rest may be another one there."""
    async with recovering(quiet_s=3.0, audit_s=300.0) as scene:
        await beside(scene)
        scene.database.write(NOTE)
        scene.connect("c2")
        await asyncio.sleep(SOON_S)
        assert scene.recovery._newcomers.waiting["c2"].listed
        scene.database.extents.clear()
        scene.database.identity = "replica"
        await asyncio.sleep(10.0)
        replays = [extent for extent in scene.database.extents if not extent.digest]
        assert len(replays) == 1
        assert not scene.recovery._newcomers.waiting
