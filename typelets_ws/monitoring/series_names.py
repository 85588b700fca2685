"""The names of series in PromQL, taken from the metrics themselves."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from ..telemetry.metrics import Metrics
from ..telemetry.process_metrics import ProcessMetrics

__all__ = ["SeriesNames"]

_SUFFIX: Final = {"counter": "_total", "histogram": "_bucket"}


class _Collector(Protocol):
    def collect(self) -> Iterable[Metric]: ...


class SeriesNames:
    """Names of the figures of `metrics`, which is never counted in."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._process = CollectorRegistry()
        ProcessMetrics(self._process, 0.0)

    def families(self) -> Mapping[str, Metric]:
        """Every metric by its name in PromQL."""
        registries = (self.metrics.registry, self._process)
        return {
            _name(family): family
            for registry in registries
            for family in registry.collect()
        }

    def of(self, figure: _Collector) -> str:
        """The series of one figure: a counter's with `_total`, and so on."""
        (family,) = figure.collect()
        return _name(family)

    def process(self, name: str) -> str:
        """The series `process_<name>`. Raises `KeyError` when it is not exported."""
        return _name(self.families()[f"process_{name}"])

    def rate(self, figure: _Collector, window: str = "5m") -> str:
        """Counts a second of each process."""
        return f"sum by (instance) (rate({self.of(figure)}[{window}]))"

    def quantile(self, share: float, figure: _Collector, window: str = "5m") -> str:
        """A quantile of each process's histogram."""
        rate = f"rate({self.of(figure)}[{window}])"
        return f"histogram_quantile({share}, sum by (instance, le) ({rate}))"


def _name(family: Metric) -> str:
    return family.name + _SUFFIX.get(family.type, "")
