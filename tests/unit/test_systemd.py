"""sd_notify and sd_listen_fds, by the environment alone."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.within import PATIENCE_S
from typelets_ws.systemd import STATUS_S, Systemd

PID = os.getpid()


@pytest.fixture
def place() -> Iterator[Path]:
    # Not pytest's directory: the path of a socket has 108 bytes at most.
    with tempfile.TemporaryDirectory(prefix="typelets-") as name:
        yield Path(name) / "notify"


def supervisor(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.settimeout(PATIENCE_S)
    return made


def systemd(**environ: str) -> Systemd:
    return Systemd(environ, PID, lambda: 12.5)


def test_notifications_are_one_datagram_of_lines(place: Path) -> None:
    with supervisor(str(place)) as listening:
        systemd(NOTIFY_SOCKET=str(place)).notify("WATCHDOG=1", "STATUS=fine")
        assert listening.recv(1000) == b"WATCHDOG=1\nSTATUS=fine"


def test_an_abstract_address_begins_with_an_at() -> None:
    name = f"typelets-test-{PID}-{os.urandom(4).hex()}"
    with supervisor(f"\0{name}") as listening:
        systemd(NOTIFY_SOCKET=f"@{name}").notify("READY=1")
        assert listening.recv(1000) == b"READY=1"


def test_an_at_inside_a_path_is_part_of_the_path(place: Path) -> None:
    path = place.with_name("typelets-ws@8771.notify")
    with supervisor(str(path)) as listening:
        systemd(NOTIFY_SOCKET=str(path)).notify("READY=1")
        assert listening.recv(1000) == b"READY=1"


def test_a_supervisor_that_is_gone_is_no_error(place: Path) -> None:
    systemd(NOTIFY_SOCKET=str(place)).notify("READY=1")
    systemd().notify("READY=1")


def test_a_supervisor_that_does_not_listen_never_stops_us(place: Path) -> None:
    with supervisor(str(place)):
        notifier = systemd(NOTIFY_SOCKET=str(place))
        for _ in range(2_000):
            notifier.notify("WATCHDOG=1")


def test_a_reload_before_the_start_is_over_says_nothing(place: Path) -> None:
    with supervisor(str(place)) as listening:
        notifier = systemd(NOTIFY_SOCKET=str(place))
        notifier.reloading()
        notifier.reloaded()
        notifier.ready()
        notifier.reloading()
        notifier.reloaded()
        heard = [listening.recv(1000) for _ in range(3)]
    assert heard == [b"READY=1", b"RELOADING=1\nMONOTONIC_USEC=12500000", b"READY=1"]


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, STATUS_S),
        ({"WATCHDOG_USEC": "30000000"}, STATUS_S),
        ({"WATCHDOG_USEC": "4000000"}, 2.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(PID)}, 2.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(PID + 1)}, STATUS_S),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    environ: dict[str, str], interval: float
) -> None:
    assert systemd(**environ).interval_s == interval


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert systemd(LISTEN_FDS="1", LISTEN_PID=str(PID + 1)).sockets() == []
    assert systemd(LISTEN_FDS="1").sockets() == []
    assert systemd().sockets() == []
