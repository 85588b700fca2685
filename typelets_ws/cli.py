"""The command line: `typelets-ws`.

Exit codes: 0 ok, 1 failed, 2 usage, 78 bad configuration (sysexits' EX_CONFIG).
"""

import os
import sys
import time
from importlib.resources import files

import click

from . import __version__
from .check_command import check_config_command
from .command_options import EX_CONFIG, Source, refuse, serving_options
from .config.model import Config, ConfigError
from .dev.command import dev_command, token_command
from .monitoring.commands import alerts_command, dashboard_command
from .operator_commands import disconnect_command, publish_command, status_command
from .process import run, serve
from .schema.command import schema_command
from .systemd import Systemd
from .telemetry.log import Output

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="typelets-ws")
def main() -> None:
    """Keep the notes on all of a person's devices in step.

    \b
    Try it:     typelets-ws dev
    Serve:      typelets-ws serve -c /etc/typelets-ws/config.toml
    """


@main.command("serve")
@serving_options
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
def serve_command(source: Source, host: str | None, port: int | None) -> None:
    """Run the daemon with production settings.

    \b
    Example:    typelets-ws serve -c /etc/typelets-ws/config.toml --port 8765
    """
    flags = {("server", "host"): host, ("server", "port"): port}
    flags = {key: value for key, value in flags.items() if value is not None}
    config = source.load(flags, serving=True)
    output = Output(config.log, sys.stderr, time.time)
    log = output.logger()

    def reload() -> Config | None:
        try:
            return source.read(flags, serving=True)
        except ConfigError as exc:
            log.error("reload_refused", text=str(exc))
            return None

    systemd = Systemd(os.environ, os.getpid(), time.monotonic)
    with output.attached():
        try:
            run(
                serve(
                    config,
                    log=log,
                    systemd=systemd,
                    reload=reload,
                    output=output,
                    # Nothing of ours is left to be closed: the kernel does it.
                    exit_now=lambda: os._exit(0),
                )
            )
        except ConfigError as exc:
            refuse(str(exc), EX_CONFIG)
        except OSError as exc:
            refuse(str(exc))
        except Exception as exc:
            # Not left to Python, whose traceback may quote anything.
            log.critical("crashed", exc_info=exc)
            raise SystemExit(1) from None


@main.command("client")
@click.option("--types", is_flag=True, help="The TypeScript declarations instead.")
def client_command(types: bool) -> None:
    """Print the JavaScript client, one module without dependencies.

    \b
    Example:    typelets-ws client > typelets-client.mjs
                typelets-ws client --types > typelets-client.d.mts
    """
    name = "typelets-client.d.ts" if types else "typelets-client.js"
    path = files(__package__) / "client" / name
    click.echo(path.read_text("utf-8"), nl=False)


for command in (
    alerts_command,
    check_config_command,
    dashboard_command,
    dev_command,
    disconnect_command,
    publish_command,
    schema_command,
    status_command,
    token_command,
):
    main.add_command(command)
