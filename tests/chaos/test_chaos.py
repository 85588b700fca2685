"""A short run of `scripts/chaos`; hours of it are run by hand."""

import os
import random
import re
from collections.abc import Sequence
from importlib.resources import files

import pytest

from tests.chaos.faults import FAULTS, ScheduledFault, plan
from tests.chaos.module import PAUSE_S, SPEED
from tests.chaos.play import Size, play
from tests.chaos.shortest import shortest
from tests.chaos.stretches import stretches
from tests.chaos.world import Redirect

SEED = int(os.environ.get("TYPELETS_CHAOS_SEED", "25"))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_faults_between_two_rests_break_no_invariant() -> None:
    size = Size(devices=12, users=4, seconds=6.0, rest_every_s=4.0)
    result = await play(SEED, size, plan(random.Random(SEED), size.seconds))
    assert not result.violations, "\n".join(result.violations)
    assert result.rests == 2
    for kind in ("note_update_success", "note_sync", "module edits"):
        assert result.counts[kind] > 0, kind


def test_a_schedule_is_cut_at_its_rests() -> None:
    schedule = [ScheduledFault(at, "cut_link", 1) for at in (0.5, 19.9, 20.0, 61.0)]
    found = stretches(schedule, 50.0, 20.0)
    assert [each.begin_s for each in found] == [0.0, 20.0, 40.0]
    assert [each.seconds for each in found] == [20.0, 20.0, 10.0]
    times = [[entry.at for entry in each.faults] for each in found]
    assert times == [[0.5, 19.9], [0.0], [21.0]]
    assert len(stretches(schedule, 50.0, 60.0)) == 1


def test_a_seed_is_one_schedule_and_each_kind_of_fault_occurs() -> None:
    one, again = (plan(random.Random(5), 300.0) for _ in range(2))
    assert one == again
    assert {entry.fault for entry in one} == set(FAULTS)
    assert [ScheduledFault.parse(str(entry)) for entry in one] == one


def test_a_daemon_uses_its_links_to_the_servers_that_others_name() -> None:
    redirect = Redirect()
    redirect.ports = {b"10241": b"30001"}
    for text in (
        b"redis+cluster://127.0.0.1:%s,127.0.0.1:10242",
        b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%s\r\n",  # SENTINEL GET-MASTER-ADDR-BY-NAME
        b"*3\r\n$9\r\n127.0.0.1\r\n:%s\r\n$40\r\n",  # CLUSTER SLOTS
        b"-MOVED 7 127.0.0.1:%s\r\n",
        b"notes 127.0.0.1 10242 127.0.0.1 %s",  # +switch-master
    ):
        assert redirect(text % b"10241") == text % b"30001"
    assert redirect(b'{"title":"10241"}') == b'{"title":"10241"}'


def test_the_longest_pause_of_a_device_is_that_of_the_module() -> None:
    source = (files("typelets_ws") / "client" / "typelets-client.js").read_text()
    found = re.search(r"const PAUSE = { least: (\S+), base: \S+, cap: (\S+) }", source)
    assert found is not None
    assert sum(map(int, found.groups())) / 1000 / SPEED == PAUSE_S


def test_a_failing_schedule_is_reduced_to_the_faults_it_needs() -> None:
    runs = list[list[int]]()

    def fails(rest: Sequence[int]) -> bool:
        runs.append(list(rest))
        return {3, 17} <= set(rest)

    assert shortest(range(20), fails, 40) == [3, 17]
    assert len(runs) <= 40


def test_a_reduction_ends_with_its_runs_and_still_fails() -> None:
    found = shortest(range(64), lambda rest: {3, 17, 40} <= set(rest), 9)
    assert {3, 17, 40} <= set(found)
    assert len(found) < 64
    assert shortest([1], lambda _: True, 5) == [1]
