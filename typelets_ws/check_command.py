"""`typelets-ws check-config`: whether the settings are good, before they are used."""

import click

from .command_options import EX_CONFIG, Source, refuse, settings_options
from .config import load as settings
from .config.model import ConfigError
from .websocket.tls import certificate

__all__ = ["check_config_command"]


@click.command("check-config")
@settings_options
def check_config_command(source: Source) -> None:
    """Say whether the configuration is good, and what it amounts to.

    \b
    Example:    typelets-ws check-config -c config.toml
    """
    config = source.load(serving=True)
    for setting in settings.describe(config):
        mark = " " if setting.is_default else "*"
        click.echo(f"{mark} {setting.name} = {setting.shown}")
    try:
        certificate(config.server)
    except ConfigError as exc:
        refuse(str(exc), EX_CONFIG)
    click.echo("ok: (* differs from the default)")
