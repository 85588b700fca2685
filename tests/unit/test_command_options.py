"""How a command finds the settings of the daemon it talks to."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from typelets_ws import command_options
from typelets_ws.cli import main
from typelets_ws.command_options import Source, settings_options
from typelets_ws.config.model import Config

KEY = "https://clerk.example/jwks"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of an installed service's files, which are not there yet."""
    monkeypatch.setattr(command_options, "INSTALLED", tmp_path / "config.toml")
    monkeypatch.setattr(command_options, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(command_options, "DEFAULT_DATA", tmp_path / "dev")
    for name in ("DATABASE_URL", "REDIS_URL", "CLERK_JWT_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def settings(*args: str, code: int = 0) -> Config:
    """The settings of a command with these options."""
    found = [Config()]

    @click.command
    @settings_options
    def show(source: Source) -> None:
        found.append(source.load())

    result = CliRunner().invoke(show, args)
    assert result.exit_code == code, result.output
    return found[-1]


def test_the_installed_files_are_used_where_they_are(installed: Path) -> None:
    (installed / "config.toml").write_text(
        f'[auth]\njwks_url = "{KEY}"\n[server]\nport = 9001\n'
    )
    (installed / "environment").write_text(
        "# of the unit\nREDIS_URL='redis://h:7/0'\nDATABASE_URL=postgresql://h/d\n"
    )
    found = settings()
    assert found.server.port == 9001
    assert found.redis.url == "redis://h:7/0"
    assert found.database.url == "postgresql://h/d"


def test_the_units_variables_win_over_those_of_the_shell(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / "config.toml").write_text(f'[auth]\njwks_url = "{KEY}"\n')
    (installed / "environment").write_text("DATABASE_URL=postgresql://daemon/d\n")
    monkeypatch.setenv("TYPELETS_WS_DATABASE_URL", "postgresql://operator/d")
    monkeypatch.setenv("REDIS_URL", "redis://shell:1/0")
    found = settings()
    assert found.database.url == "postgresql://daemon/d"
    assert found.redis.url == "redis://shell:1/0"


def test_other_files_are_used_alone(installed: Path, tmp_path: Path) -> None:
    (installed / "config.toml").write_text("broken")
    (installed / "environment").write_text("DATABASE_URL=broken\n")
    other = tmp_path / "other.toml"
    other.write_text(f'[auth]\njwks_url = "{KEY}"\n')
    variables = tmp_path / "variables"
    variables.write_text("REDIS_URL=redis://other:1/0\n")
    assert settings("-c", str(other)).redis == Config().redis
    found = settings("-c", str(other), "--environment-file", str(variables))
    assert found.redis.url == "redis://other:1/0"


def test_an_instance_has_the_ports_of_its_unit(installed: Path) -> None:
    (installed / "config.toml").write_text(f'[auth]\njwks_url = "{KEY}"\n')
    found = settings("--instance", "8771")
    assert (found.server.port, found.admin.port) == (8771, 18771)
    settings("--instance", "87710", code=2)


def test_a_running_dev_comes_before_the_installed_service(installed: Path) -> None:
    (installed / "config.toml").write_text("broken")
    (installed / "dev").mkdir()
    (installed / "dev" / "config.toml").write_text(f'[auth]\njwks_url = "{KEY}"\n')
    assert settings().auth.jwks_url == KEY


def test_an_environment_file_that_cannot_be_used_is_named(installed: Path) -> None:
    (installed / "config.toml").write_text(f'[auth]\njwks_url = "{KEY}"\n')
    path = installed / "environment"
    path.write_text("\nREDIS_URL redis://h\n")
    result = CliRunner().invoke(main, ["check-config"])
    assert result.exit_code == 78
    assert f"{path}: cannot be read: line 2: expected NAME=value" in result.stderr
    path.unlink()
    path.mkdir()
    result = CliRunner().invoke(main, ["check-config"])
    assert result.exit_code == 78
    assert f"{path}: cannot be read: Is a directory" in result.stderr


def test_status_that_reached_no_daemon_says_where_it_looked(installed: Path) -> None:
    (installed / "config.toml").write_text("[admin]\nport = 1\n")
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 1
    assert "no answer from http://127.0.0.1:1" in result.stderr
    assert str(installed / "config.toml") in result.stderr
    assert "--instance PORT" in result.stderr
