"""The task of recovery: what it does, when, and in which order."""

import asyncio
import itertools

import pytest

from tests.unit.delivery.recovering import NOTE, OTHER, TIMEOUT_S, recovering
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery.healing import MOST_FAILED, REST, RETRY_S
from typelets_ws.delivery.recovery import (
    AWAY_S,
    BATCH,
    HORIZON_S,
    SIGN_IN_S,
    UNSUPPORTED_S,
)
from typelets_ws.delivery.sign_ins import SYNCING_S
from typelets_ws.protocol.client_messages import Sync
from typelets_ws.recovery_ports import RowKey, RowKind

__all__ = ["loop_factory"]


async def test_a_sign_in_is_looked_at_in_time_and_with_those_beside_it() -> None:
    async with recovering() as scene:
        await asyncio.sleep(10.0)
        scene.looked_at()
        began = scene.time()
        scene.connect("c1")
        scene.connect("c2", "bob")
        await asyncio.sleep(SIGN_IN_S - 0.05)
        assert scene.looked_at() == []
        await asyncio.sleep(0.2)
        ((at, users),) = scene.looked_at()
        assert SIGN_IN_S <= at - began <= SIGN_IN_S + 0.11
        assert sorted(users) == ["alice", "bob"]


async def test_while_it_is_off_devices_are_told_to_load_again() -> None:
    async with recovering(unsupported="no_grant") as scene:
        assert scene.figure("recovery_up") == 0
        device = scene.connect("c1")
        scene.recovery.heal(["alice"], "gap", 2.0)
        scene.recovery.resync(["alice"], "requested")
        assert device.resyncs == [("gap", 2.0), ("requested", 0.0)]
        await asyncio.sleep(2 * UNSUPPORTED_S)
        assert scene.looked_at() == []
        assert scene.logged() == ["recovery_off"]
        assert scene.recovery.cursor is None
        scene.database.unsupported = None
        await asyncio.sleep(UNSUPPORTED_S)
        assert scene.logged() == ["recovery_off", "recovery_on"]
        assert scene.figure("recovery_up") == 1
        assert next(users for _, users in scene.looked_at()) == ["alice"]
        assert scene.recovery.cursor is not None


async def test_horizons_reach_back_as_far_as_the_replay() -> None:
    async with recovering(replay_s=20.0) as scene:
        for _ in range(60):
            await asyncio.sleep(1.0)
            scene.database.newest += 1
        _, age = scene.recovery.horizons.oldest(20.0, scene.time()) or (0, 0.0)
        assert 20.0 <= age <= 25.0


@pytest.mark.parametrize("beside", [True, False])
async def test_a_device_that_syncs_for_long_is_not_looked_at_meanwhile(
    *, beside: bool
) -> None:
    """Nor while it has pages to ask for; see `newcomers` and `sign_ins`."""
    async with recovering(page_rows=1, audit_s=300.0) as scene:
        if beside:
            scene.connect("c1")
            await asyncio.sleep(5.0)
        scene.database.write(NOTE)
        scene.database.write(OTHER)
        device = scene.connect("c2")
        scene.looked_at()
        scene.database.takes_s = 0.6 * SYNCING_S
        page = await scene.recovery.sync("alice", "c2", Sync())
        assert [len(page.notes), page.more] == [1, True]
        await asyncio.sleep(0.9 * SYNCING_S)
        page = await scene.recovery.sync("alice", "c2", Sync(cursor=page.cursor))
        assert [len(page.notes), page.more] == [1, False]
        await asyncio.sleep(5.0)
        assert len(scene.looked_at()) == 2
        assert device.heard() == []


async def test_the_last_device_of_a_user_leaves_nothing_behind() -> None:
    async with recovering() as scene:
        one, two = scene.connect("c1"), scene.connect("c2")
        await asyncio.sleep(2.0)
        scene.disconnect(one)
        assert len(scene.recovery.states) == 1
        scene.disconnect(two)
        assert len(scene.recovery.states) == 0
        assert not scene.recovery._newcomers.waiting
        scene.looked_at()
        await asyncio.sleep(100.0)
        assert scene.looked_at() == []


async def test_a_step_that_fails_is_logged_and_work_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with recovering() as scene:
        scene.connect("c1")
        with monkeypatch.context() as patch:
            patch.setattr(scene.recovery.states, "take_due", lambda *_: 1 / 0)
            scene.recovery.heal(["alice"], "gap")
            await asyncio.sleep(0.01)
        assert scene.logged()[-1] == "recovery_step_failed"
        scene.looked_at()
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(AWAY_S + 0.05)
        assert scene.looked_at()[0][1] == ["alice"]


async def test_a_horizon_that_fails_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with recovering() as scene:
        scene.connect("c1")
        await asyncio.sleep(AWAY_S)
        with monkeypatch.context() as patch:
            patch.setattr(scene.database, "horizon", lambda: 1 / 0)
            await asyncio.sleep(HORIZON_S)
        assert "horizon_failed" in scene.logged()
        scene.database.identity = "promoted"
        await asyncio.sleep(AWAY_S + 0.05)
        assert scene.logged()[-1] == "database_changed"


async def test_what_another_database_holds_is_compared_with_all_that_was_shown() -> (
    None
):
    """A primary's last writes may be missing on the replica that was promoted."""
    async with recovering() as scene:
        database = scene.database
        device = scene.connect("c1")
        deleted = OTHER
        database.write(NOTE)
        database.write(deleted)
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(2.0)
        version = database.rows_by_id.pop(deleted)
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(5.0)
        assert device.heard()[-2:] == ["note_deleted_sync", "healed"]
        # The replica has never had the first row, and never lost the second.
        database.identity = "replica"
        del database.rows_by_id[NOTE]
        database.rows_by_id[deleted] = version
        await asyncio.sleep(10.0)
        assert "database_changed" in scene.logged()
        gone = [
            m["noteId"] for m in device.messages if m["type"] == "note_deleted_sync"
        ]
        assert NOTE in gone
        synced = [m["noteId"] for m in device.messages if m["type"] == "note_sync"]
        assert synced == [deleted]
        assert device.messages[-1]["type"] == "healed"
        assert device.messages[-1]["reason"] == "database_changed"


async def test_a_row_that_another_database_holds_as_it_was_is_sent() -> None:
    async with recovering() as scene:
        database = scene.database
        database.write(NOTE)
        device = scene.connect("c1")
        database.write(OTHER)
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(5.0)
        database.write(OTHER)
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(5.0)
        device.heard()
        # Older than any horizon: not among the changes.
        database.identity, database.rows_by_id[OTHER] = "replica", (1, "t101")
        await asyncio.sleep(10.0)
        sent = [one for one in device.messages if one["type"] == "note_sync"]
        assert [one["updatedNote"]["updatedAt"] for one in sent] == ["t101"]


async def test_many_users_are_looked_at_in_batches_one_after_another() -> None:
    async with recovering() as scene:
        users = [f"user{number}" for number in range(2 * BATCH + 1)]
        for user in users:
            scene.connect(user, user)
        await asyncio.sleep(2.0)
        looks = scene.looked_at()
        assert [len(some) for _, some in looks] == [BATCH, BATCH, 1]
        assert len({at for at, _ in looks}) == 1
        scene.database.takes_s = 0.2
        scene.recovery.heal(users, "gap")
        await asyncio.sleep(2.0)
        times = [at for at, _ in scene.looked_at()]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert gaps == pytest.approx([0.4, 0.4]), "it rests as long as it took"


async def test_the_audit_takes_no_more_than_its_share() -> None:
    """And looks at each user again and again."""
    async with recovering(audit_s=1.0, audit_share=0.1) as scene:
        scene.connect("c1")
        await asyncio.sleep(5.0)
        scene.database.takes_s = 1.0
        scene.looked_at()
        await asyncio.sleep(60.0)
        times = [at for at, _ in scene.looked_at()]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert 10.0 <= min(gaps) <= max(gaps) <= 11.5


async def test_an_unpublished_change_is_found_by_the_audit() -> None:
    async with recovering(audit_s=5.0) as scene:
        device = scene.connect("c1")
        await asyncio.sleep(2.0)
        device.heard()
        scene.database.write(NOTE)
        await asyncio.sleep(10.0)
        assert device.heard() == ["note_created_sync", "note_sync", "healed"]
        assert scene.figure("unannounced_changes_total", table="notes") == 1
        assert 0.0 < scene.figure("audit_round_seconds") <= 6.0


@pytest.mark.parametrize("busy", ["conflicts", "looks"])
async def test_users_who_always_have_work_keep_no_one_waiting(busy: str) -> None:
    async with recovering(audit_s=30.0, page_rows=1) as scene:
        mallory = scene.connect("c1", "mallory")
        await asyncio.sleep(10.0)
        crowd = [f"crowd{number}" for number in range(BATCH)]
        for user in crowd:
            scene.connect(user, user)
        await asyncio.sleep(10.0)

        async def keep_busy() -> None:
            while True:
                if busy == "conflicts":
                    key = RowKey("mallory", RowKind.NOTE, NOTE)
                    scene.recovery.conflicts.add(key)
                else:
                    scene.recovery.heal(crowd, "gap")
                await asyncio.sleep(0.001)

        scene.database.takes_s = 0.01
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(keep_busy())
            phone = scene.connect("c2")
            await asyncio.sleep(5.0)
            scene.looked_at()
            scene.database.write(NOTE)
            laptop = scene.connect("c3")
            await asyncio.sleep(35.0)
            task.cancel()
        assert mallory.open
        assert "healed" in laptop.heard(), "replayed"
        assert "note_sync" in phone.heard(), "audited"


@pytest.mark.parametrize("work", ["heal", "audit"])
async def test_a_user_whose_rows_cannot_be_read_in_time_costs_no_other(
    work: str,
) -> None:
    async with recovering(audit_s=10.0) as scene:
        devices = [scene.connect(user, user) for user in ("mallory", "alice")]
        await asyncio.sleep(6.0)
        scene.database.heavy["mallory"] = 9.0
        scene.database.write(NOTE)
        if work == "heal":
            scene.recovery.heal(["mallory", "alice"], "gap")
        await asyncio.sleep(20.0)
        mallory, alice = devices
        assert alice.heard() == ["note_created_sync", "note_sync", "healed"]
        assert "healed" not in mallory.heard()
        assert [reason for reason, _ in mallory.resyncs] == ["gap"] * (work == "heal")
        scene.looked_at()
        await asyncio.sleep(50.0)
        assert min(scene.rests_of("mallory")) >= TIMEOUT_S * (1 + REST)
        scene.database.heavy.clear()
        scene.recovery.heal(["mallory"], "gap")
        await asyncio.sleep(TIMEOUT_S * (1 + REST) + 1.0)
        assert mallory.heard()[-1] == "healed"
        state = scene.recovery.states.get("mallory")
        assert state is not None
        assert state.rests_until is None, "it is looked at with others again"


async def test_looks_one_by_one_end_with_another_database() -> None:
    """A horizon means nothing there."""
    async with recovering(audit_s=300.0) as scene:
        for user in ("mallory", "alice", "bob"):
            scene.connect(user, user)
        await asyncio.sleep(6.0)
        scene.database.heavy["mallory"] = 9.0
        scene.looked_at()
        scene.recovery.heal(["mallory", "alice", "bob"], "gap")
        await asyncio.sleep(1.0)
        scene.database.identity = "replica"
        scene.database.newest += 50
        scene.database.heavy.clear()
        await asyncio.sleep(5.0)
        _, *alone = scene.database.looks
        assert alone
        assert all(since.horizon != 100 for _, some in alone for since in some)


async def test_a_look_that_takes_long_is_followed_by_a_rest() -> None:
    async with recovering(audit_s=300.0) as scene:
        scene.connect("c1", "mallory")
        await asyncio.sleep(6.0)
        scene.database.heavy["mallory"] = 1.5
        scene.looked_at()
        for _ in range(200):
            scene.recovery.heal(["mallory"], "gap")
            await asyncio.sleep(0.1)
        times = [at for at, _ in scene.looked_at()]
        for one, other in itertools.pairwise(times):
            assert other - one == pytest.approx(2 * 1.5, abs=0.2)


async def test_with_postgres_slow_for_all_few_are_looked_at_alone() -> None:
    async with recovering(audit_s=300.0) as scene:
        users = [f"user{number}" for number in range(10)]
        devices = [scene.connect(user, user) for user in users]
        scene.database.heavy = dict.fromkeys(users, 0.1)
        await asyncio.sleep(6.0)
        scene.database.heavy = dict.fromkeys(users, 9.0)
        scene.looked_at()
        scene.recovery.heal(users, "gap")
        await asyncio.sleep(0.5 + (1 + MOST_FAILED) * TIMEOUT_S)
        alone = [users for _, users in scene.looked_at() if len(users) == 1]
        assert len(alone) == MOST_FAILED
        scene.database.heavy.clear()
        await asyncio.sleep(RETRY_S)
        healed = [device for device in devices if device.heard() == ["healed"]]
        assert len(healed) == len(users) - MOST_FAILED, "the others rest"
