"""The release builds, has all its files, and runs where nothing else is installed."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.readme import ROOT
from typelets_ws import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATA = {
    "py.typed", "client/typelets-client.js", "client/typelets-client.d.ts",
    "dev/schema.sql", "dev/grants.sql", "dev/page/index.html",
}  # fmt: skip


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The output; a failure says what the command said."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE"))
    }
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *arguments: str | Path) -> str:
    """This environment's pip, at work in another one."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments)


def environment(place: Path, *packages: str | Path) -> Path:
    """An environment with these packages and nothing else; returns its Python.

    Modules are compiled when they are imported, and pip itself is left out.
    """
    venv.create(place)
    python = place / "bin" / "python"
    pip(python, "install", "-q", "--no-compile", *packages)
    return python


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the build backend, away from the project's own."""
    place = tmp_path_factory.mktemp("workshop")
    environment(place, "hatchling>=1.25")
    return place


@pytest.fixture(scope="module")
def built(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist of the project as it is."""
    place = tmp_path_factory.mktemp("dist")
    hatchling = workshop / "bin" / "hatchling"
    run(hatchling, "build", "-d", place, cwd=ROOT)
    return place


def only(place: Path, pattern: str) -> Path:
    (found,) = place.glob(pattern)
    return found


def inside(names: Sequence[str]) -> set[str]:
    return {name.partition("typelets_ws/")[2] for name in names if "/" in name}


def test_the_changelog_begins_with_this_version_and_its_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, date = re.findall(r"^## (\S+)(.*)$", changelog, re.MULTILINE)[0]
    assert version == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", date)


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    wheel = only(built, "*.whl")
    assert wheel.name == f"typelets_ws-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "typelets_ws",
        f"typelets_ws-{__version__}.dist-info",
    }
    sources = {
        str(path.relative_to(ROOT / "typelets_ws"))
        for path in (ROOT / "typelets_ws").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources >= DATA
    assert inside(names) - {""} == sources


def test_the_sdist_builds_the_same_wheel(
    built: Path, workshop: Path, tmp_path: Path
) -> None:
    archive = only(built, "*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = sdist.getnames()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    root = only(tmp_path, "*")
    for name in ("README.md", "LICENSE", "config.example.toml", "scripts/test"):
        assert f"{root.name}/{name}" in names
    assert not [name for name in names if "node_modules" in name or ".venv" in name]
    run(
        workshop / "bin" / "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=root
    )
    again = zipfile.ZipFile(only(tmp_path, "*.whl")).namelist()
    assert again == zipfile.ZipFile(only(built, "*.whl")).namelist()


def test_an_empty_environment_is_enough(built: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", only(built, "*.whl"))
    command = python.with_name("typelets-ws")
    assert run(command, "--version") == f"typelets-ws, version {__version__}\n"
    assert "ok:" in run("env", "CLERK_SECRET_KEY=sk_test_x", command, "check-config")
    assert '"asyncapi": "3.0.0"' in run(command, "schema")
    # The REST service's part stands alone: no server, no database, no keys.
    loaded = run(
        python, "-c",
        "import sys, typelets_ws.publisher;"
        "print(*sorted(n for n in sys.modules if n.startswith('typelets_ws')))",
    )  # fmt: skip
    rooms = {name.split(".")[1] for name in loaded.split() if "." in name}
    assert rooms <= {"_publisher", "config", "protocol", "publisher", "redis"}


def test_the_publisher_alone_needs_redis_and_msgspec(
    workshop: Path, tmp_path: Path
) -> None:
    hatchling = workshop / "bin" / "hatchling"
    source = ROOT / "scripts" / "publisher"
    run(hatchling, "build", "-t", "wheel", "-d", tmp_path, cwd=source)
    wheel = only(tmp_path, "*.whl")
    assert wheel.name == f"typelets_ws_publisher-{__version__}-py3-none-any.whl"
    python = environment(tmp_path / "venv", wheel)
    run(python, "-c", "from typelets_ws.publisher import AsyncPublisher, Publisher")
    listed = pip(python, "list", "--format", "freeze").split()
    names = {line.partition("==")[0] for line in listed}
    assert names >= {"redis", "msgspec"}
    assert not names & {"websockets", "psycopg", "structlog", "click", "PyJWT"}


def test_the_publishers_bounds_are_the_daemons() -> None:
    def bounds(path: Path) -> set[str]:
        with path.open("rb") as file:
            found: list[str] = tomllib.load(file)["project"]["dependencies"]
        return {line.replace("[hiredis]", "") for line in found}

    ours = bounds(ROOT / "scripts" / "publisher" / "pyproject.toml")
    assert ours <= bounds(ROOT / "pyproject.toml")


def test_the_constraints_hold_every_dependency_and_fit_the_bounds() -> None:
    text = (ROOT / "scripts" / "constraints.txt").read_text()
    pinned = {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    }
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    for line in (*project["dependencies"], *extras["dev"], *extras["test"]):
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line)
        if found is not None:
            assert numbers(pinned[found[1]]) >= numbers(found[2]), line


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
