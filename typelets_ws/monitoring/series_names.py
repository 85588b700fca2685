"""The names of series in PromQL, taken from the metrics themselves."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from ..telemetry.metrics import Metrics
from ..telemetry.process_metrics import ProcessMetrics

__all__ = ["SeriesNames"]

_REFERENCE: Final = re.compile(r"\$([a-z_]+(?:\.[a-z_]+)?)")
_SUFFIX: Final = {"counter": "_total", "histogram": "_bucket"}


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

    def resolve(self, template: str) -> str:
        """Put series in place of `$attribute` and `$process_name`.

        Raises `AttributeError` or `KeyError` for one that is not exported.
        """
        return _REFERENCE.sub(lambda found: self._series(found[1]), template)

    def _series(self, reference: str) -> str:
        if reference.startswith("process_"):
            return _name(self.families()[reference])
        (family,) = attrgetter(reference)(self.metrics).collect()
        return _name(family)


def _name(family: Metric) -> str:
    return family.name + _SUFFIX.get(family.type, "")
