"""Devices end equal to the table, after any faults; in simulated time."""

import pytest

from tests.unit.delivery.simulation import differences


@pytest.mark.parametrize("base", range(10))
def test_every_device_ends_with_what_the_table_holds(base: int) -> None:
    for seed in range(base * 20, base * 20 + 20):
        assert differences(seed) == [], seed
