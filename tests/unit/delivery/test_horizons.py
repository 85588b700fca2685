"""Horizons by the time they were taken."""

import pytest

from typelets_ws.delivery.cursors import HORIZON_XIDS
from typelets_ws.delivery.horizons import OVERLAP_XIDS, Horizons
from typelets_ws.recovery_ports import Snapshot


def taken(horizons: Horizons, at: float, horizon: int, identity: str = "a") -> None:
    horizons.observe(Snapshot(identity, horizon, horizon), at)


def test_horizons_by_their_age() -> None:
    horizons = Horizons(100)
    assert (horizons.newest, horizons.oldest(5, 0), horizons.before(5, 0)) == (
        None, None, None,
    )  # fmt: skip
    for at in range(0, 60, 2):
        taken(horizons, at, 100 + at)
    assert horizons.newest == 158
    assert horizons.before(5, 58) == horizons.before(6, 58) == 152
    assert horizons.before(59, 58) is None
    assert horizons.oldest(5, 58) == (152, 6)
    assert horizons.oldest(1000, 58) == (100, 58)


def test_old_ones_are_dropped_but_the_one_that_covers_the_time() -> None:
    horizons = Horizons(10)
    for at in range(0, 60, 2):
        taken(horizons, at, 100 + at)
    assert horizons.oldest(10, 58) == (148, 10)
    assert horizons.oldest(1000, 58) == (148, 10)


def test_one_a_second_is_enough() -> None:
    horizons = Horizons(10)
    for number in range(100):
        taken(horizons, number / 100, number)
    assert horizons.newest == 0
    assert horizons.cursor is not None


def test_a_second_is_enough_between_two() -> None:
    horizons = Horizons(10)
    for at in (50.0, 50.75, 51.0):
        taken(horizons, at, int(100 * at))
    assert horizons.newest == 5100
    assert horizons.oldest(0.25, 51.0) == (5000, 1.0)


@pytest.mark.parametrize(
    ("ahead", "same"),
    [
        (HORIZON_XIDS, True), (HORIZON_XIDS + 1, False),
        (-OVERLAP_XIDS, True), (-OVERLAP_XIDS - 1, False),
    ],
)  # fmt: skip
def test_so_far_ids_go_on_in_one_database(ahead: int, same: bool) -> None:
    horizons = Horizons(60.0)
    taken(horizons, 0.0, 2**40)
    taken(horizons, 1.0, 2**40 + ahead)
    assert (horizons.generation == 1) == same


@pytest.mark.parametrize(
    ("behind", "at", "kept"),
    [
        (0, 9.0, True), (-1, 9.0, False), (1, 10.0, True), (1, 12.0, True),
        (HORIZON_XIDS, 9.0, True), (HORIZON_XIDS + 1, 9.0, False),
    ],
)  # fmt: skip
def test_a_horizon_of_another_process_is_older(
    behind: int, at: float, kept: bool
) -> None:
    """By its transaction id: the clocks of two hosts may disagree."""
    horizons = Horizons(60.0)
    taken(horizons, 10.0, 2**40)
    horizons.recall(2**40 - behind, at)
    assert horizons.oldest(60.0, 10.0) == (
        (2**40 - behind, max(10.0 - at, 0.0)) if kept else (2**40, 0.0)
    )


def test_another_database_begins_anew() -> None:
    horizons = Horizons(10)
    taken(horizons, 0, 500)
    first, generation = horizons.cursor, horizons.generation
    taken(horizons, 5, 7, "b")
    assert horizons.newest == 7
    assert horizons.generation == generation + 1
    assert horizons.cursor != first
    assert horizons.before(3, 5) is None


def test_those_of_other_processes_come_before_ours() -> None:
    horizons = Horizons(100)
    horizons.recall(1, 0)
    assert horizons.newest is None, "of which database?"
    taken(horizons, 50, 500)
    for horizon, at in ((600, 55), (400, 40), (300, 30)):
        horizons.recall(horizon, at)
    assert horizons.oldest(15, 50) == (300, 20)
    assert horizons.newest == 500


def test_ids_set_far_ahead_or_back_are_those_of_another_database() -> None:
    for newest in (2**31 + 2**22, 2**33, 100):
        horizons = Horizons(60.0)
        horizons.observe(Snapshot("db", 2**22, 2**22), 0.0)
        horizons.observe(Snapshot("db", newest - 50, newest), 10.0)
        assert horizons.generation == 2, newest
        assert horizons.oldest(60.0, 10.0) == (newest - 50, 0.0)


def test_snapshots_noted_in_the_wrong_order_are_of_one_database() -> None:
    horizons = Horizons(60.0)
    horizons.observe(Snapshot("db", 5_000, 5_010), 1.0)
    horizons.observe(Snapshot("db", 4_000, 4_010), 0.5)
    assert horizons.generation == 1


def test_horizons_too_old_for_the_ids_of_rows_are_not_recalled() -> None:
    horizons = Horizons(60.0)
    horizons.observe(Snapshot("db", 2**33, 2**33), 10.0)
    horizons.recall(2**33 - 100, 9.0)
    horizons.recall(2**33 - 2**31, 8.0)
    horizons.recall(2**33 + 1, 7.0)
    assert horizons.oldest(60.0, 10.0) == (2**33 - 100, 1.0)
