"""The rule file and the dashboard: every series exists, and their programs agree."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from typelets_ws import known_series
from typelets_ws.cli import main
from typelets_ws.monitoring.alerts import alerts
from typelets_ws.monitoring.series_names import SeriesNames

SERIES = re.compile(r"\b(?:typelets_ws|process)_[a-z0-9_]+\b")
LABEL = re.compile(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"')


def printed(command: str) -> str:
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 0, result.output
    return result.stdout


def exported() -> dict[str, set[str]]:
    """Label values by "series label", of the series a daemon starts with."""
    names = SeriesNames()
    known_series.declare(names.metrics)
    found: dict[str, set[str]] = {name: set() for name in names.families()}
    for name, family in names.families().items():
        for sample in family.samples:
            for label, value in sample.labels.items():
                found.setdefault(f"{name} {label}", set()).add(value)
    return found


def test_every_series_of_a_rule_exists_and_so_do_its_labels() -> None:
    known = exported()
    for alert in alerts(SeriesNames()):
        named = SERIES.findall(alert.expr)
        assert named, alert.name
        for series in named:
            assert series in known, (alert.name, series)
        for series, labels in re.findall(r"(\w+)\{([^}]*)\}", alert.expr):
            for label, value in LABEL.findall(labels):
                assert value in known[f"{series} {label}"], (alert.name, label, value)
        assert alert.summary.endswith(".")
        assert alert.severity in {"page", "ticket"}


def test_every_metric_has_a_panel_and_every_panel_a_metric() -> None:
    board = json.loads(printed("dashboard"))
    exprs = [
        target["expr"]
        for panel in board["panels"]
        if panel["type"] != "row"
        for target in panel["targets"]
    ]
    named = {series for expr in exprs for series in SERIES.findall(expr)}
    assert named == set(SeriesNames().families())
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Clients", "Redis and events", "Postgres", "Process"]


def test_labels_of_counters_are_in_their_legends() -> None:
    board = json.loads(printed("dashboard"))
    (handshakes,) = (p for p in board["panels"] if p["title"] == "handshakes")
    (target,) = handshakes["targets"]
    assert target["expr"].startswith("sum by (instance, status) (rate(")
    assert target["legendFormat"] == "{{instance}} {{status}}"


def test_promtool_agrees(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("REQUIRE_PROMTOOL"):
            pytest.fail("promtool is not installed")
        pytest.skip("promtool is not installed")
    rules = tmp_path / "rules.yml"
    rules.write_text(printed("alerts"))
    done = subprocess.run(
        [promtool, "check", "rules", rules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts(SeriesNames()))} rules found" in done.stdout
