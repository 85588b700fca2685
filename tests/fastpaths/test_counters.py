"""Counters and histograms read as prometheus-client's own would."""

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from typelets_ws.telemetry.counters import Counter, Histogram

BUCKETS = (0.1, 1.0, 5.0)
VALUES = (0.05, 0.1, 0.5, 1.0, 7.0)


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return sorted(line for line in text.splitlines() if "_created" not in line)


def test_a_tally_reads_as_a_counter() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Counter("t", "Text.", ("a", "b"), ours)
    counter = prometheus_client.Counter("t", "Text.", ("a", "b"), registry=theirs)
    for values in (("x", "y"), ("x", "z"), ("x", "y")):
        tally.labels(*values).inc()
        counter.labels(*values).inc()
    tally.labels(b="z", a="x").inc(3)
    counter.labels(b="z", a="x").inc(3)
    assert lines(ours) == lines(theirs)


def test_without_labels_it_is_there_before_anything_was_counted() -> None:
    registry = CollectorRegistry()
    tally = Counter("t", "Text.", (), registry)
    assert registry.get_sample_value("t_total") == 0
    tally.inc(2)
    assert registry.get_sample_value("t_total") == 2


@pytest.mark.parametrize("labels", [(), ("a",)])
@pytest.mark.parametrize("buckets", [BUCKETS, (-1.0, *BUCKETS)])
def test_a_histogram_reads_as_prometheus_own(
    labels: tuple[str, ...], buckets: tuple[float, ...]
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histogram("h", "Text.", labels, ours, buckets)
    other = prometheus_client.Histogram(
        "h", "Text.", labels, registry=theirs, buckets=buckets
    )
    for value in VALUES:
        own.labels(*labels).observe(value)
        (other.labels(*labels) if labels else other).observe(value)
    assert lines(ours) == lines(theirs)


def test_a_wrong_number_of_labels_is_a_mistake() -> None:
    tally = Counter("t", "Text.", ("a",), CollectorRegistry())
    with pytest.raises(AssertionError):
        tally.labels("x", "y")
