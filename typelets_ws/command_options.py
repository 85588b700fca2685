"""The options by which every command finds the settings of the installed service.

Invariant: a command that talks to a daemon uses that daemon's settings. So without
`-c` the file of a running `typelets-ws dev` is used, else the installed one; and with
the installed one goes the environment file of its unit, whose variables win over the
caller's: a DATABASE_URL in an operator's shell is seldom the daemon's.
Tested by tests/unit/test_command_options.py.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from .config import load as settings
from .config.environment_file import parse_environment
from .config.model import Config, ConfigError
from .dev.data import DEFAULT_DATA

__all__ = ["EX_CONFIG", "Source", "refuse", "serving_options", "settings_options"]

EX_CONFIG: Final = 78
INSTALLED: Final = Path("/etc/typelets-ws/config.toml")
ENVIRONMENT: Final = Path("/etc/typelets-ws/environment")
ADMIN_PORT_OFFSET: Final = 10_000
"""typelets-ws@8771.service has its metrics on 18771."""

Command = Callable[..., Any]


def refuse(text: str, code: int = 1) -> NoReturn:
    """Print why, a line each, and exit with `code`."""
    for line in text.splitlines():
        click.echo(f"typelets-ws: {line}", err=True)
    raise SystemExit(code)


@dataclass(frozen=True)
class Source:
    """The source of a command's settings, from its options."""

    config: Path | None
    environment_file: Path | None
    instance: int | None = None

    def load(
        self, flags: Mapping[settings.Key, object] | None = None, **options: bool
    ) -> Config:
        """Read the settings, or exit with 78; `options` as in `settings.load`."""
        try:
            return self.read(flags, **options)
        except ConfigError as exc:
            refuse(str(exc), EX_CONFIG)

    def read(
        self, flags: Mapping[settings.Key, object] | None = None, **options: bool
    ) -> Config:
        """The same, but raises `ConfigError`."""
        flags = {**self._instance_flags(), **(flags or {})}
        return settings.load(self.config, self.environment(), flags, **options)

    def environment(self) -> Mapping[str, str]:
        """The variables that count. Raises `ConfigError`."""
        path = self.environment_file
        if path is None:
            return os.environ
        try:
            given = parse_environment(path.read_text("utf-8"))
        except PermissionError:
            raise ConfigError(f"{path}: cannot be read: try again with sudo") from None
        except (OSError, ValueError) as exc:
            why = (isinstance(exc, OSError) and exc.strerror) or exc
            raise ConfigError(f"{path}: cannot be read: {why}") from None
        keys = {settings.key_of(name) for name in given} - {None}
        rest = {n: v for n, v in os.environ.items() if settings.key_of(n) not in keys}
        return {**rest, **given}

    def _instance_flags(self) -> Mapping[settings.Key, object]:
        if self.instance is None:
            return {}
        return {
            ("server", "port"): self.instance,
            ("admin", "port"): self.instance + ADMIN_PORT_OFFSET,
        }


def serving_options(command: Command) -> Command:
    """As `settings_options`; skips the default environment file if it is unreadable.

    systemd reads that file as root, and the daemon it starts may not.
    """
    return settings_options(command, skip_unreadable=True)


def settings_options(command: Command, *, skip_unreadable: bool = False) -> Command:
    """Give a command the options; it is called with `source`, a `Source`."""

    def called(
        config: Path | None,
        environment_file: Path | None,
        instance: int | None,
        **rest: Any,
    ) -> Any:
        source = _source(config, environment_file, instance)
        unreadable = source.environment_file and not os.access(
            source.environment_file, os.R_OK
        )
        if skip_unreadable and unreadable and environment_file is None:
            source = replace(source, environment_file=None)
        return command(source=source, **rest)

    called.__doc__, called.__name__ = command.__doc__, command.__name__
    called.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--instance",
            type=click.IntRange(1024, 9999),
            help="Port of one of several processes: typelets-ws@PORT.service.",
        ),
        click.option(
            "--environment-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"Variables as in the unit. Default with {INSTALLED}: {ENVIRONMENT}.",
        ),
        click.option(
            "-c",
            "--config",
            type=click.Path(path_type=Path),
            help=f"TOML file. Default: that of a running dev, else {INSTALLED}.",
        ),
    ):
        called = option(called)
    return called


def _source(
    config: Path | None, environment_file: Path | None, instance: int | None
) -> Source:
    if config is None and instance is None:
        config = _if_there(DEFAULT_DATA / "config.toml")
    if config is None:
        config = _if_there(INSTALLED)
    if environment_file is None and config == INSTALLED:
        environment_file = _if_there(ENVIRONMENT)
    return Source(config, environment_file, instance)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None
