"""`typelets-ws dashboard`: a Grafana dashboard, made from the metric definitions.

Each metric has one panel, with its own help as description: counters as rates,
histograms as two quantiles, gauges as they are. A new metric needs no change here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.metrics_core import Metric

from .series_names import SeriesNames

__all__ = ["dashboard"]

ROWS: Final = {
    "Postgres": ("typelets_ws_postgres_", "typelets_ws_query_"),
    "Redis and events": (
        "typelets_ws_redis_",
        "typelets_ws_shared_",
        "typelets_ws_publish_",
        "typelets_ws_event",
        "typelets_ws_gaps",
        "typelets_ws_resyncs",
        "typelets_ws_deliveries",
        "typelets_ws_order_",
    ),
    "Process": (
        "process_",
        "typelets_ws_build_",
        "typelets_ws_config_",
        "typelets_ws_event_loop_",
    ),
    "Clients": ("typelets_ws_",),
}
"""Rows by the beginning of a name; the longest beginning that fits counts."""
ORDER: Final = ("Clients", "Redis and events", "Postgres", "Process")
WIDTH, HEIGHT, COLUMNS = 8, 7, 3
SELECTED: Final = '{instance=~"$instance"}'


def dashboard(names: SeriesNames) -> Mapping[str, Any]:
    """The dashboard as Grafana imports it."""
    by_row: dict[str, list[tuple[str, Metric]]] = {row: [] for row in ORDER}
    for name, family in names.families().items():
        by_row[_row_of(name)].append((name, family))
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in by_row.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH * COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        for index, (name, family) in enumerate(members):
            x = index % COLUMNS * WIDTH
            place = {
                "h": HEIGHT,
                "w": WIDTH,
                "x": x,
                "y": y + index // COLUMNS * HEIGHT,
            }
            panels.append(_panel(len(panels) + 1, name, family, place))
        y += -(-len(members) // COLUMNS) * HEIGHT
    return {
        "title": "Typelets WS",
        "uid": "typelets-ws",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "tags": ["typelets-ws"],
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _row_of(name: str) -> str:
    fitting = [
        (len(beginning), row)
        for row, beginnings in ROWS.items()
        for beginning in beginnings
        if name.startswith(beginning)
    ]
    return max(fitting)[1]


def _panel(
    number: int, name: str, family: Metric, place: Mapping[str, int]
) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
        for index, (expr, legend) in enumerate(_queries(name, family))
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": family.name.removeprefix("typelets_ws_").replace("_", " "),
        "description": family.documentation,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": _unit(family), "min": 0}, "overrides": []},
        "targets": targets,
    }


def _queries(name: str, family: Metric) -> Iterable[tuple[str, str]]:
    rate = f"rate({name}{SELECTED}[$__rate_interval])"
    if family.type == "histogram":
        for share in (0.5, 0.99):
            summed = f"sum by (instance, le) ({rate})"
            yield f"histogram_quantile({share}, {summed})", f"p{share} {{{{instance}}}}"
        return
    labels = sorted({key for sample in family.samples for key in sample.labels})
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *labels))
    if family.type == "counter":
        yield f"sum by ({', '.join(('instance', *labels))}) ({rate})", legend
    else:
        yield f"{name}{SELECTED}", legend


def _unit(family: Metric) -> str:
    if family.name.endswith("timestamp_seconds"):
        return "dateTimeAsIso"
    rate = family.type == "counter"
    if family.name.endswith("_bytes"):
        return "Bps" if rate else "bytes"
    if family.name.endswith("_seconds"):
        return "percentunit" if rate else "s"
    return "cps" if rate else "short"


def _variables() -> list[dict[str, Any]]:
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
        },
        {
            "name": "instance",
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": "label_values(typelets_ws_build_info, instance)",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
