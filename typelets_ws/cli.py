"""The command line: `typelets-ws`.

Exit codes: 0 ok, 1 failed, 2 usage, 78 bad configuration (sysexits' EX_CONFIG).

While a unit restarts no process reads from the port, and two interpreters start and
end. So a command's module is imported when the command is used: the daemon's own take
0.4 s. The collector rests until then, which saves 0.05 s. `run` ends the process
without taking the interpreter apart, which takes 0.1 s.
"""

import gc
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Final, NoReturn

import click

from . import __version__

__all__ = ["main", "run"]

COMMANDS: Final[Mapping[str, str]] = {
    "alerts": "monitoring.commands",
    "check-config": "check_command",
    "client": "client.command",
    "dashboard": "monitoring.commands",
    "dev": "dev.command",
    "disconnect": "operator_commands",
    "publish": "operator_commands",
    "schema": "schema.command",
    "serve": "serve_command",
    "status": "operator_commands",
    "token": "dev.command",
}
"""The module of each command; the function in it is named `<command>_command`."""


class Commands(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name]}", __package__)
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command


def run() -> NoReturn:
    """Run `main` as the installed command does, and exit with its code."""
    code = 0
    # Imports leave no garbage; `process.serve` turns the collector on.
    gc.disable()
    try:
        main(prog_name="typelets-ws")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="typelets-ws")
def main() -> None:
    """Keep the notes on all of a person's devices in step.

    \b
    Try it:     typelets-ws dev
    Serve:      typelets-ws serve -c /etc/typelets-ws/config.toml
    """
