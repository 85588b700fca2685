"""`typelets-ws check-config`: whether the settings are good, before they are used."""

import asyncio
from importlib import import_module

import click

from .command_options import EX_CONFIG, Source, refuse, settings_options
from .config import load as settings
from .config.model import Config, ConfigError
from .websocket.tls import certificate

__all__ = ["check_config_command", "check_servers"]


@click.command("check-config")
@settings_options
@click.option(
    "--connect", is_flag=True, help="Try the database, grants, Redis, ACL and keys too."
)
@click.option(
    "--allow-outage",
    is_flag=True,
    help="A server that does not answer is no failure: the daemon waits for it.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print what is wrong, no settings.")
def check_config_command(
    source: Source, connect: bool, allow_outage: bool, quiet: bool
) -> None:
    """Say whether the configuration is good, and what it amounts to.

    \b
    Example:    typelets-ws check-config -c config.toml
    For real:   typelets-ws check-config --connect
    """
    config = source.load(serving=True)
    if not quiet:
        for setting in settings.describe(config):
            mark = " " if setting.is_default else "*"
            click.echo(f"{mark} {setting.name} = {setting.shown}")
    try:
        certificate(config.server)
    except ConfigError as exc:
        refuse(str(exc), EX_CONFIG)
    if connect:
        check_servers(config, allow_outage=allow_outage)
    if not quiet:
        click.echo("ok: (* differs from the default)")


def check_servers(config: Config, *, allow_outage: bool) -> None:
    """Try the servers, print a line each, and exit with 1 for what fails."""
    # Drivers and libraries take 0.2 s to import, and a plain check needs none.
    checks = import_module(".checks.connect", __package__)
    finding = import_module(".checks.finding", __package__)
    bad = {finding.FindingKind.WRONG} | (
        set() if allow_outage else {finding.FindingKind.AWAY}
    )
    failed = False
    for each in asyncio.run(checks.connect(config)):
        failed |= each.kind in bad
        click.echo(f"{each.kind:<6}{each.subject}: {each.text}", err=each.kind in bad)
    if failed:
        refuse("the servers do not give what the daemon needs")
