"""The figures: whole, with Prometheus' names, and each daemon its own."""

from prometheus_client import generate_latest

from typelets_ws.telemetry.metrics import Metrics


def test_each_daemon_has_its_own_figures() -> None:
    one, other = Metrics(), Metrics()
    one.closes.labels("1013", "stalled").inc()
    labels = {"code": "1013", "reason": "stalled"}
    name = "typelets_ws_closes_total"
    assert one.registry.get_sample_value(name, labels) == 1
    assert other.registry.get_sample_value(name, labels) is None


def test_every_series_is_ours_and_explained() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) > 25
    for family in families:
        assert family.name.startswith("typelets_ws_")
        assert family.documentation.endswith(".")
    assert b"# HELP typelets_ws_connections " in generate_latest(Metrics().registry)
