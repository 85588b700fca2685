"""`typelets-ws serve`: the daemon with production settings, until it is stopped."""

import os
import time

import click

from .check_command import check_servers
from .command_options import EX_CONFIG, Source, refuse, serving_options
from .config.model import Config, ConfigError
from .config.validate import warnings
from .process import log_output, run, serve
from .systemd import Systemd

__all__ = ["serve_command"]


@click.command("serve")
@serving_options
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option(
    "--check", is_flag=True, help="First as `check-config --connect --allow-outage`."
)
def serve_command(
    source: Source, host: str | None, port: int | None, check: bool
) -> None:
    """Run the daemon with production settings.

    \b
    Example:    typelets-ws serve -c /etc/typelets-ws/config.toml --port 8765
    """
    flags = {("server", "host"): host, ("server", "port"): port}
    flags = {key: value for key, value in flags.items() if value is not None}
    config = source.load(flags, serving=True)
    if check:
        check_servers(config, allow_outage=True)
    output = log_output(config.log)
    log = output.logger()

    def reload() -> Config | None:
        try:
            return source.read(flags, serving=True)
        except ConfigError as exc:
            log.error("reload_refused", text=str(exc))
            return None

    for warning in warnings(config):
        log.warning("caution", text=warning)
    systemd = Systemd(os.environ, os.getpid(), time.monotonic)
    with output.attached():
        try:
            run(
                serve(
                    config,
                    output,
                    systemd=systemd,
                    reload=reload,
                    # The kernel closes what is still open.
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
