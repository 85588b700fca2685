"""The rule file and the dashboard: every series exists, and their programs agree."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.programs import program
from tests.readme import table
from typelets_ws import known_series
from typelets_ws.cli import main
from typelets_ws.monitoring.alerts import ALERTS, expressions
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
    for alert, expr in expressions(SeriesNames()):
        named = SERIES.findall(expr)
        assert named, alert.name
        assert "$" not in expr, alert.name
        for series in named:
            assert series in known, (alert.name, series)
        for series, labels in re.findall(r"(\w+)\{([^}]*)\}", expr):
            for label, value in LABEL.findall(labels):
                assert value in known[f"{series} {label}"], (alert.name, label, value)
        assert alert.summary.endswith(".")


def test_a_metric_that_is_not_exported_breaks_its_rule() -> None:
    names = SeriesNames()
    for unknown in ("$no_such_metric > 0", "$process_no_such > 0"):
        with pytest.raises((AttributeError, KeyError)):
            names.resolve(unknown)


def test_each_metric_that_the_readme_alerts_on_has_a_rule() -> None:
    told = {re.findall(r"\w+", row[0])[0] for row in table("**Alert on:**")}
    rules = " ".join(expr for _, expr in expressions(SeriesNames()))
    assert told
    assert {name for name in told if name not in rules} == set()


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
    rules = tmp_path / "rules.yml"
    rules.write_text(printed("alerts"))
    done = subprocess.run(
        [program("promtool"), "check", "rules", rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout
