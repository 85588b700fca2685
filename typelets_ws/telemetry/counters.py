"""Counters and histograms without a lock, for one thread. Pure.

prometheus-client's own take a lock and two dictionary look-ups per count: 10 % of a
ping (row `ping` of scripts/bench). These are read only by a scrape.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

__all__ = ["Counter", "Histogram"]


class Counter:
    """A counter with labels; one without labels has `inc` itself."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], CounterChild] = {}
        if not labels:
            self.inc = self.labels().inc
        registry.register(self)

    def labels(self, *values: str, **named: str) -> "CounterChild":
        """The count of these values, one per label."""
        if named:
            values = tuple(named[label] for label in self._labels)
        try:
            return self._counts[values]
        except KeyError:
            assert len(values) == len(self._labels), "one value per label"
            return self._counts.setdefault(tuple(map(str, values)), CounterChild())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus-client."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count.value)
        yield family


class CounterChild:
    """One number of a `Counter`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        """Add `by`."""
        self.value += by


class Histogram:
    """A histogram with labels; one without labels has `observe` itself."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        buckets: Sequence[float],
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._buckets = buckets
        self._spreads: dict[tuple[str, ...], HistogramChild] = {}
        if not labels:
            self.observe = self.labels().observe
        registry.register(self)

    def labels(self, *values: str) -> "HistogramChild":
        """The distribution of these values, one per label."""
        try:
            return self._spreads[values]
        except KeyError:
            assert len(values) == len(self._labels), "one value per label"
            return self._spreads.setdefault(
                tuple(map(str, values)), HistogramChild(self._buckets)
            )

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See prometheus-client."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        for values, spread in list(self._spreads.items()):
            counts = accumulate(spread.counts)
            # A sum that can decrease is not exported.
            total = spread.total if self._buckets[0] >= 0 else None
            family.add_metric(values, list(zip(bounds, counts, strict=True)), total)
            if total is None:
                # prometheus_client omits the count with the sum, so it is added here.
                labels = dict(zip(self._labels, values, strict=True))
                family.add_sample(f"{self._name}_count", labels, sum(spread.counts))
        yield family


class HistogramChild:
    """One distribution of a `Histogram`."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value
