"""Metrics and log as one argument: most parts that count something also log."""

from dataclasses import dataclass

from .log import FilteringBoundLogger
from .metrics import Metrics

__all__ = ["Telemetry"]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where figures and lines go. Never replaced while the daemon runs."""

    metrics: Metrics
    log: FilteringBoundLogger
