"""An exception at one user's rows: other users' devices do not notice.

The time is simulated: sleeping takes none.
"""

import asyncio

import pytest

from tests.unit.delivery.recovering import NOTE, Scene, recovering
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery.healing import RETRY_S
from typelets_ws.delivery.judging import Judge, Verdict
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

__all__ = ["loop_factory"]

PAIR = ["note_created_sync", "note_sync"]


@pytest.mark.parametrize("work", ["heal", "audit"])
async def test_a_statement_that_fails_for_one_user_costs_no_other_a_look(
    work: str,
) -> None:
    async with recovering(audit_s=10.0) as scene:
        mallory, alice = (scene.connect(user, user) for user in ("mallory", "alice"))
        await asyncio.sleep(6.0)
        scene.database.faulty.add("mallory")
        scene.database.write(NOTE)
        if work == "heal":
            scene.recovery.heal(["mallory", "alice"], "gap")
        await asyncio.sleep(20.0)
        assert alice.heard() == [*PAIR, "healed"]
        assert [reason for reason, _ in mallory.resyncs] == ["gap"] * (work == "heal")
        assert "look_failed" in scene.logged()
        assert "recovery_step_failed" not in scene.logged()
        scene.looked_at()
        await asyncio.sleep(50.0)
        assert min(scene.rests_of("mallory")) >= RETRY_S
        scene.database.faulty.clear()
        scene.recovery.heal(["mallory"], "gap")
        await asyncio.sleep(2 * RETRY_S)
        assert mallory.heard()[-1] == "healed"


async def test_a_row_that_cannot_be_judged_costs_no_other_user_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judge(_judge: Judge, row: StoredRow, **_options: object) -> Verdict:
        raise RuntimeError(row.version)

    async with recovering(audit_s=300.0) as scene:
        alice, bob = (scene.connect(user, user) for user in ("alice", "bob"))
        await asyncio.sleep(6.0)
        scene.database.write(NOTE)
        with monkeypatch.context() as patch:
            patch.setattr(Judge, "judge", judge)
            scene.recovery.heal(["alice", "bob"], "gap")
            await asyncio.sleep(RETRY_S / 2)
        assert bob.heard() == ["healed"]
        assert scene.logged() == ["recovery_on", "look_failed"]
        assert scene.log.lines[-1]["user"] == "alice"
        await asyncio.sleep(6.0)
        assert alice.heard() == [*PAIR, "healed"]


async def test_a_replay_that_fails_for_one_user_costs_no_other_the_replay() -> None:
    async with recovering(audit_s=300.0) as scene:
        await asyncio.sleep(25.0)
        scene.database.write(NOTE)
        for user in ("mallory", "alice"):
            scene.connect(user, user)
        await asyncio.sleep(6.0)
        scene.database.faulty.add("mallory")
        mallory, alice = (
            scene.connect(f"second of {user}", user) for user in ("mallory", "alice")
        )
        await asyncio.sleep(10.0)
        assert alice.heard() == [*PAIR, "healed"]
        assert scene.recovery._newcomers.waiting.keys() == {mallory.connection_id}
        assert set(scene.logged()) == {"recovery_on", "look_failed"}
        scene.database.faulty.clear()
        await asyncio.sleep(2 * RETRY_S)
        assert not scene.recovery._newcomers.waiting


async def test_conflicts_that_cannot_be_read_leave_their_users_to_a_heal() -> None:
    async with recovering(audit_s=300.0) as scene:
        mallory, alice = (scene.connect(user, user) for user in ("mallory", "alice"))
        await asyncio.sleep(6.0)
        scene.database.faulty.add("mallory")
        add_conflict(scene, "mallory")
        add_conflict(scene, "alice")
        await asyncio.sleep(6.0)
        assert not scene.recovery.conflicts.waiting
        assert alice.heard() == ["healed"]
        assert [reason for reason, _ in mallory.resyncs] == ["conflict"]
        assert {"recovery_step_failed", "look_failed"} <= set(scene.logged())


def add_conflict(scene: Scene, user_id: str) -> None:
    scene.recovery.conflicts.add(RowKey(user_id, RowKind.NOTE, NOTE))
