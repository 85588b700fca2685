"""`process_*`, the series every Prometheus client exports for its own process.

prometheus_client's collector reads /proc/stat, which the shipped units hide
(`ProcSubset=pid`), and then exports nothing. This one needs /proc/self alone.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

__all__ = ["ProcessMetrics"]

_SELF: Final = Path("/proc/self")


class ProcessMetrics:
    """A collector; `started` is the wall clock at the start, seconds since 1970."""

    def __init__(self, registry: CollectorRegistry, started: float) -> None:
        self._started = started
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client. Outside Linux memory and descriptors are left out."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            value=usage.ru_utime + usage.ru_stime,
        )
        yield _gauge("start_time_seconds", "Start time since the epoch.", self._started)
        yield _gauge("max_fds", "Maximum number of open file descriptors.", limit)
        try:
            pages = (_SELF / "statm").read_text("ascii").split()
            descriptors = len(os.listdir(_SELF / "fd"))
        except OSError:
            return
        size = resource.getpagesize()
        yield _gauge("open_fds", "Number of open file descriptors.", descriptors)
        yield _gauge(
            "virtual_memory_bytes", "Virtual memory size.", int(pages[0]) * size
        )
        yield _gauge(
            "resident_memory_bytes", "Resident memory size.", int(pages[1]) * size
        )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"process_{name}", text, value=value)
