"""Each program of `scripts` explains itself, and refuses what would prove nothing."""

import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

from tests.command_line import above_zero, at_least
from tests.readme import ROOT

PROGRAMS = [
    one.name
    for one in sorted((ROOT / "scripts").iterdir())
    if one.is_file() and os.access(one, os.X_OK)
]
BY_HAND = [
    "tests.integration.delivery.recovery_seeds",
    "tests.unit.delivery.simulation",
    "tests.e2e.healing_picture",
]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_has_an_example(name: str) -> None:
    shown = run(f"scripts/{name}", "--help")
    assert shown.returncode == 0, shown.stderr
    assert re.search(rf"^ +scripts/{name}\b", shown.stdout, re.M), shown.stdout


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_run_by_hand_has_an_example(name: str) -> None:
    shown = run(sys.executable, "-m", name, "--help")
    assert f"  python -m {name}" in shown.stdout


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("chaos --fault 0", "--fault"),
        ("chaos --devices 0", "--devices"),
        ("chaos --schedule 1.0:kill_daemon", "TIME:FAULT:SEED"),
        ("chaos --schedule 1.0:kill_demon:7", "kill_daemon"),
        ("soak --seconds 0", "--seconds"),
        ("drills --only nothing", "Cluster: "),
        ("attack unheard", "pongs"),
        ("attack --seconds 0 pongs", "--seconds"),
        ("fuzz --count 0", "--count"),
        ("mutate typelets_ws/nothing.py", "nothing.py"),
        ("bench nothing", "nothing"),
    ],
)
def test_what_would_prove_nothing_is_refused_by_name(command: str, named: str) -> None:
    program, *arguments = command.split()
    refused = run(f"scripts/{program}", *arguments)
    assert refused.returncode == 2, refused.stdout
    assert named in refused.stderr


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_what_is_not_above_zero(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=re.escape(repr(text))):
        above_zero(text)


@pytest.mark.parametrize("text", ["0", "1.5", "x", ""])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=re.escape(repr(text))):
        at_least(1)(text)


def test_numbers_are_read() -> None:
    assert above_zero("0.5") == 0.5
    assert at_least(1)("1") == 1
