"""The units: what systemd's own tools say of them, and that they fit the daemon."""

import configparser
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.e2e.supervisor import COMMAND
from tests.programs import program
from tests.within import PATIENCE_S
from typelets_ws.config.model import Config
from typelets_ws.daemon import DRAIN_S, HANDLING_S
from typelets_ws.process import OTHER_FILES

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ["typelets-ws.service", "typelets-ws@.service"]
MOST_EXPOSURE = 1.5
PROGRAM = "/opt/typelets-ws/bin/typelets-ws"


@pytest.fixture(autouse=True)
def _analyze() -> None:
    program("systemd-analyze")


def unit(name: str) -> configparser.ConfigParser:
    """A unit's sections; of a key that is there twice the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def analyze(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        # Units installed on this machine are not read.
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )


def installed(place: Path) -> None:
    """The units where systemd would find them, with a program that exists."""
    program = place / "typelets-ws"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for each in UNITS.iterdir():
        text = each.read_text()
        (place / each.name).write_text(text.replace(PROGRAM, str(program)))


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("typelets-ws.service", "typelets-ws.service"),
        ("typelets-ws.socket", "typelets-ws.socket"),
        ("typelets-ws@.service", "typelets-ws@8771.service"),
    ],
)
def test_systemd_has_nothing_to_say_about_a_unit(
    tmp_path: Path, name: str, instance: str
) -> None:
    assert (UNITS / name).exists()
    installed(tmp_path)
    found = analyze("verify", "--man=no", tmp_path / instance)
    told = [line for line in found.stderr.splitlines() if "typelets" in line]
    assert not told
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_little_exposed(name: str) -> None:
    limit = int(MOST_EXPOSURE * 10)
    found = analyze("security", "--offline=true", f"--threshold={limit}", UNITS / name)
    assert found.returncode == 0, found.stdout + found.stderr
    level = re.search(r"Overall exposure level.*: ([0-9.]+)", found.stdout)
    assert level
    assert float(level[1]) <= MOST_EXPOSURE


@pytest.mark.parametrize("name", SERVICES)
def test_times_and_limits_fit_the_daemon_s_defaults(name: str) -> None:
    service, config = unit(name)["Service"], Config()
    longest = (
        DRAIN_S
        + 2 * HANDLING_S
        + config.limits.abort_s
        + config.redis.command_timeout_s
        + 5  # the pool's own patience
    )
    assert float(service["TimeoutStopSec"]) > longest
    limits = config.limits
    sockets = limits.connections + limits.unauthenticated + 2 * limits.handshakes
    assert int(service["LimitNOFILE"]) >= sockets + OTHER_FILES
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["RestartPreventExitStatus"] == "78"


def test_the_socket_holds_the_port_that_the_service_would_open() -> None:
    server = Config().server
    single = unit("typelets-ws.socket")["Socket"]
    assert single["ListenStream"] == f"{server.host}:{server.port}"
    assert single["Accept"] == "no"
    assert single["Backlog"] == str(server.backlog)
    assert unit("typelets-ws.service")["Unit"]["Requires"] == "typelets-ws.socket"
    # One of several closes its own port, so that a proxy goes to the next.
    assert "Requires" not in unit("typelets-ws@.service")["Unit"]


def test_many_processes_differ_from_one_in_names_and_ports_only() -> None:
    one, many = (unit(name)["Service"] for name in SERVICES)
    assert many.pop("Environment") == "TYPELETS_WS_ADMIN_PORT=1%i"
    assert many["ExecStart"] == f"{one['ExecStart']} --port %i"
    del one["ExecStart"], many["ExecStart"]
    assert dict(one) == dict(many)


@pytest.mark.parametrize("name", SERVICES)
def test_the_command_of_a_service_is_one_that_the_program_understands(
    name: str,
) -> None:
    service = unit(name)["Service"]
    # RestartPreventExitStatus= does not count the exit status of an ExecStartPre=.
    assert "ExecStartPre" not in service
    assert " --check " in service["ExecStart"]
    # systemd runs the check before it asks the daemon to reload.
    reloads = re.findall(r"^ExecReload=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
    assert reloads[1:] == ["kill -HUP $MAINPID"]
    for line in (service["ExecStart"], reloads[0]):
        program, *args = line.split()
        assert program == PROGRAM
        args = [arg.replace("%i", "8771") for arg in args]
        found = subprocess.run(
            [COMMAND, *args, "--help"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert found.returncode == 0
