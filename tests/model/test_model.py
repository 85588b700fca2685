"""Convergence and recovery as a model: every interleaving, and every broken rule."""

import pytest

from tests.model.explorer import explore
from tests.model.rules import Broken
from tests.model.scenarios import scenarios

NAMES = sorted(scenarios(None))


@pytest.mark.parametrize("name", NAMES)
def test_every_interleaving_ends_with_the_row_on_every_device(name: str) -> None:
    found = explore(scenarios(None)[name])
    assert not found.wrong, "\n".join([found.wrong, *found.schedule])
    assert found.ends


@pytest.mark.parametrize("broken", Broken, ids=lambda broken: broken.name.lower())
def test_each_broken_rule_is_detected(broken: Broken) -> None:
    for scenario in scenarios(broken).values():
        if explore(scenario, broken).wrong:
            return
    pytest.fail(f"nothing shows that {broken}")
