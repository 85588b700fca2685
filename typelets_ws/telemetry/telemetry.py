"""Metrics and log as one argument: most parts that count something also log."""

from dataclasses import dataclass

from .log import FilteringBoundLogger
from .metrics import Metrics

__all__ = ["Telemetry"]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The daemon's metrics and log. Never replaced while it runs."""

    metrics: Metrics
    log: FilteringBoundLogger
