"""Convergence and recovery as a model: every interleaving, and every broken rule."""

import importlib

import pytest

from tests.model import steps
from tests.model.explorer import Scenario, explore
from tests.model.locations import LOCATIONS, OUTSIDE
from tests.model.rules import Broken
from tests.model.scenarios import scenarios


def size(scenario: Scenario) -> int:
    """Steps of its actors: small scenarios are explored first."""
    return sum(map(len, scenario.actors.values()))


NAMES = sorted(scenarios(None))


@pytest.mark.parametrize("name", NAMES)
def test_every_interleaving_ends_with_the_row_on_every_device(name: str) -> None:
    found = explore(scenarios(None)[name])
    assert not found.wrong, "\n".join([found.wrong, *found.schedule])
    assert found.ends


@pytest.mark.parametrize("broken", Broken, ids=lambda broken: broken.name.lower())
def test_each_broken_rule_is_detected(broken: Broken) -> None:
    for scenario in sorted(scenarios(broken).values(), key=size):
        if explore(scenario, broken).wrong:
            return
    pytest.fail(f"nothing shows that {broken}")


def test_each_step_names_the_code_that_implements_it() -> None:
    others = {"environment", "replace"}
    public = {
        name
        for name, value in vars(steps).items()
        if callable(value) and name.islower() and not name.startswith("_")
    }
    assert public - others == LOCATIONS.keys() | OUTSIDE


@pytest.mark.parametrize(
    "location", sorted({place for places in LOCATIONS.values() for place in places})
)
def test_each_location_exists(location: str) -> None:
    module, cls, method = location.rsplit(".", 2)
    found = getattr(importlib.import_module(f"typelets_ws.{module}"), cls)
    assert callable(getattr(found, method))
