"""`scripts/capacity`: its table is the README's, and more devices never need less."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def capacity(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "capacity"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows(*arguments: str) -> list[list[float]]:
    """The numbers of the table's rows."""
    lines = capacity("--table", *arguments).splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return [[float(c.split()[0].replace(",", "")) for c in line] for line in cells]


def test_the_readme_has_the_table() -> None:
    assert capacity("--table") in (ROOT / "README.md").read_text()


def test_more_devices_never_need_less() -> None:
    small, medium, large = rows()
    for fewer, more in ((small, medium), (medium, large)):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


def test_a_longer_audit_needs_less_of_postgres() -> None:
    assert rows("--audit-s", "600")[2][5] < rows()[2][5]


def test_use_that_is_impossible_is_refused() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "capacity"), "--devices", "0"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
