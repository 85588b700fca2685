"""A machine with systemd: a copy of this system, booted by systemd-nspawn.

The copy is an overlay over this machine's root: what a package does to /etc, /opt and
the users stays there. The network is this machine's own, so that tests reach the ports.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.supervisor import wait_until
from tests.node import missing
from tests.programs import program
from tests.within import PATIENCE_S

__all__ = ["Machine", "booted"]

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
HIERARCHIES = (CGROUPS, CGROUPS / "systemd", CGROUPS / "unified")
"""The second version has one; before it systemd has its own."""
BOOT = """set -e
for each in {cgroups}; do mkdir $each; echo $$ >$each/cgroup.procs; done
mount --make-rprivate /
cd {place}
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
: >etc/machine-id
rm -rf etc/systemd/system/*.wants
exec {nspawn} -q -D . --register=no --keep-unit --boot --console=pipe \
  --machine={name} {binds} systemd.unit=multi-user.target
"""


class Machine:
    """A booted machine; `pid` is its systemd, seen from here."""

    def __init__(self, place: Path, pid: int) -> None:
        self.place = place
        self._pid = pid

    def run(self, line: str, code: int = 0, given: bytes | None = None) -> str:
        """Run a shell line as root; returns what it said on both streams."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-p", "-C", "--",
             "bash", "-c", line],
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root",
                 "DEBIAN_FRONTEND": "noninteractive"},
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said = done.stdout.decode()
        assert done.returncode == code, f"{line}: {done.returncode}\n{said}"
        return said

    def state(self) -> str:
        """The state of systemd: `running` once all is started."""
        return self.run("systemctl is-system-running 2>/dev/null || true").strip()

    def write(self, path: str, text: str | bytes) -> None:
        given = text.encode() if isinstance(text, str) else text
        self.run(f"mkdir -p $(dirname {path}) && cat >{path}", given=given)

    def kill(self) -> None:
        """Kill systemd, and with it all processes of the machine."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def journal(self, unit: str) -> str:
        """All that the unit has written so far."""
        self.run("journalctl --sync")
        return self.run(f"journalctl --no-pager -o cat -u {shlex.quote(unit)}")


@contextmanager
def booted(binds: Mapping[Path, str]) -> Iterator[Machine]:
    """Boot the machine; `binds`: directories of this one by their place in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a copy of the system")
    nspawn = program("systemd-nspawn")
    program("nsenter")
    place = Path(tempfile.mkdtemp(prefix="typelets-machine-"))
    for part in ("upper", "work", "root"):
        (place / part).mkdir()
    name = f"typelets-{os.getpid()}"  # a host's name: no underscore
    cgroups = [each / name for each in HIERARCHIES if (each / "cgroup.procs").exists()]
    bound = [f"--bind={each}:{there}" for each, there in binds.items()]
    script = BOOT.format(
        place=place,
        nspawn=nspawn,
        name=name,
        binds=shlex.join(bound),
        cgroups=shlex.join(map(str, cgroups)),
    )
    log = place / "boot.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    machine = None
    try:
        wait_until(lambda: _init_of(process.pid) or process.poll() is not None)
        if process.poll() is not None:
            missing(f"systemd cannot be booted here: {log.read_text()[-300:]}")
        machine = Machine(place, _init_of(process.pid))
        wait_until(lambda: machine.state() in {"running", "degraded"})
        yield machine
    finally:
        if machine is not None:
            machine.kill()
        process.terminate()
        process.wait(PATIENCE_S)
        for each in cgroups:
            for below, _, _ in os.walk(each, topdown=False):
                os.rmdir(below)
        shutil.rmtree(place, ignore_errors=True)


def _init_of(nspawn: int) -> int:
    """The machine's systemd, or 0 while there is none."""
    children = Path(f"/proc/{nspawn}/task/{nspawn}/children")
    try:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
    except OSError:
        pass
    return 0
