"""What a look asks Postgres for."""

import asyncio

import pytest

from tests.unit.delivery.recovering import recovering
from tests.unit.delivery.table import key_of
from tests.unit.virtual_time import loop_factory
from typelets_ws.delivery import looks
from typelets_ws.delivery.healing import NEXT_PAGE_S
from typelets_ws.delivery.kept_ids import MOST_IDS
from typelets_ws.delivery.recovery import DIGESTS
from typelets_ws.recovery_ports import Extent

__all__ = ["loop_factory"]

IDS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(4)]


async def test_a_first_look_reads_by_the_rows_times_what_horizons_do_not_cover() -> (
    None
):
    async with recovering(replay_s=20.0, quiet_s=1.0) as scene:
        scene.connect("c1")
        await asyncio.sleep(5.0)
        (_, (early,)) = scene.database.looks[0]
        assert (early.user_id, early.horizon, early.since_s) == ("alice", 100, 20.0)
        assert (early.digest, early.packed, early.after) == (True, True, None)
        assert early.settled is None, "no horizon is a second old"
        extent = scene.database.extents[0]
        settings = scene.recovery._settings
        rows, size = settings.page_rows, settings.page_bytes
        assert extent == Extent(rows, size, digest=True, counts=True, packed=MOST_IDS)
        scene.database.newest += 7
        await asyncio.sleep(20.0)
        scene.looked_at()
        scene.connect("c1", "bob")
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(1.0)
        wanted = {one.user_id: one for _, some in scene.database.looks for one in some}
        bob, alice = wanted["bob"], wanted["alice"]
        assert (bob.horizon, bob.since_s, bob.packed) == (100, None, True)
        assert (alice.horizon, alice.since_s, alice.packed) == (100, None, False)
        assert alice.settled == 107


async def test_of_many_users_those_have_a_digest_whose_rows_may_have_gone() -> None:
    async with recovering() as scene:
        users = [f"user{number}" for number in range(DIGESTS + 1)]
        for user in users:
            scene.connect(user, user)
        await asyncio.sleep(6.0)
        scene.looked_at()
        state = scene.recovery.states.get("user3")
        assert state is not None
        state.recount = True
        scene.recovery.heal(users, "gap")
        await asyncio.sleep(0.1)
        (_, wanted), *_ = scene.database.looks
        assert [one.user_id for one in wanted if one.digest] == ["user3"]


@pytest.mark.parametrize(("asked", "read"), [(2, 100), (100, 2)])
async def test_rows_that_were_shown_are_read_by_id_unless_they_have_changed(
    monkeypatch: pytest.MonkeyPatch, asked: int, read: int
) -> None:
    monkeypatch.setattr(looks, "MOST_UNVERIFIED", asked)
    async with recovering(audit_s=300.0, quiet_s=1.0) as scene:
        scene.database.most_rows = read
        for row_id in IDS[:3]:
            scene.database.write(row_id)
        device = scene.connect("c1")
        await asyncio.sleep(6.0)
        scene.database.write(IDS[3])
        await asyncio.sleep(6.0)
        scene.database.reads.clear()
        for row_id in IDS:
            at = scene.database.copy[row_id]
            scene.recovery.shown.updated(key_of(row_id), b"{}", b"", at)
        device.heard()
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(0.5 * NEXT_PAGE_S)
        ((_, keys),) = scene.database.reads
        assert keys == [key_of(row_id) for row_id in IDS[: min(asked, 3)]]
        assert "healed" not in device.heard()
        assert device.resyncs == [("gap", 0.0)]
        await asyncio.sleep(NEXT_PAGE_S)
        assert scene.database.reads[1][1] == [key_of(IDS[2])]
        assert device.heard()[-1] == "healed"
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(0.5)
        assert len(scene.database.reads) == 2, "nothing is left to verify"


async def test_rows_that_were_shown_are_read_with_the_last_page() -> None:
    async with recovering(audit_s=300.0, page_rows=1) as scene:
        scene.database.write(IDS[0])
        scene.connect("c1")
        await asyncio.sleep(6.0)
        for row_id in IDS[1:]:
            scene.database.write(row_id)
        at = scene.database.copy[IDS[0]]
        scene.recovery.shown.updated(key_of(IDS[0]), b"{}", b"", at)
        await asyncio.sleep(6.0)
        scene.database.reads.clear()
        scene.looked_at()
        scene.recovery.heal(["alice"], "gap")
        await asyncio.sleep(3.0)
        last = [at for at, _ in scene.database.looks][2]
        assert [at for at, _ in scene.database.reads] == [last]
