"""`typelets-ws alerts` and `dashboard`: files for Prometheus and Grafana."""

import json

import click

from .. import known_series
from .alerts import as_rule_file
from .dashboard import dashboard
from .series_names import SeriesNames

__all__ = ["alerts_command", "dashboard_command"]


@click.command("alerts")
def alerts_command() -> None:
    """Print a rule file for Prometheus, made from the metric definitions.

    \b
    Example:    typelets-ws alerts > /etc/prometheus/rules/typelets-ws.yml
    """
    click.echo(as_rule_file(SeriesNames()), nl=False)


@click.command("dashboard")
def dashboard_command() -> None:
    """Print a dashboard for Grafana, made from the metric definitions.

    \b
    Example:    typelets-ws dashboard > typelets-ws.json
    """
    names = SeriesNames()
    # Labels are known by the series that exist from the start.
    known_series.declare(names.metrics)
    click.echo(json.dumps(dashboard(names), indent=2))
