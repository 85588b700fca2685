"""A short run of `scripts/chaos`; hours of it are run by hand."""

import os
import random

import pytest

from tests.chaos.faults import FAULTS, ScheduledFault, plan
from tests.chaos.play import Size, play

SEED = int(os.environ.get("TYPELETS_CHAOS_SEED", "11"))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_ten_seconds_of_faults_break_no_invariant() -> None:
    size = Size(devices=16, users=4, seconds=8.0)
    verdict = await play(SEED, size, plan(random.Random(SEED), size.seconds))
    assert not verdict.violations, "\n".join(verdict.violations)
    assert verdict.counts["note_update_success"] > 20
    assert verdict.counts["note_sync"] > 20
    assert verdict.counts["module edits"] > 5


def test_a_seed_is_one_schedule_and_each_kind_of_fault_occurs() -> None:
    one, again = (plan(random.Random(5), 300.0) for _ in range(2))
    assert one == again
    assert {entry.fault for entry in one} == set(FAULTS)
    assert [ScheduledFault.parse(str(entry)) for entry in one] == one
