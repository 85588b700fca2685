"""The gates of the soak see growth, and only growth."""

import pytest

from tests.soak.graph import graph
from tests.soak.measure import GATES, Sample, drifts


def samples(**growing: float) -> list[Sample]:
    """Sixty samples; the named figures grow by so much from one to the next."""
    return [
        Sample(at * 10.0, {name: 100 + at * growing.get(name, 0.0) for name in GATES})
        for at in range(60)
    ]


def test_what_stays_or_shrinks_is_no_drift() -> None:
    assert drifts(samples()) == []
    assert drifts(samples(memory_mb=-1.0, channels=-1.0)) == []


@pytest.mark.parametrize("name", GATES)
def test_each_figure_has_its_gate(name: str) -> None:
    (found,) = drifts(samples(**{name: 4.0}))
    assert found.startswith(GATES[name].label)


def test_the_warm_up_is_no_drift() -> None:
    found = samples()
    cold = [Sample(one.at, dict.fromkeys(GATES, 10.0)) for one in found[:20]]
    assert drifts(cold + found[20:]) == []


def test_too_few_samples_prove_nothing() -> None:
    assert drifts(samples()[:2]) == ["too few samples"]


def test_every_figure_is_drawn() -> None:
    drawn = graph(samples(memory_mb=1.0), "title", "under")
    assert drawn.startswith("<svg")
    assert drawn.count('class="ours"') == len(GATES)
