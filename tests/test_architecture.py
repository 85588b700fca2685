"""The map in the package's docstring, checked against every import.

`ROOMS` says which packages (or single modules) each package may import. A new module
in a package needs no entry; a new package, and a new module at the root, needs one.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import typelets_ws

PACKAGE = Path(typelets_ws.__file__).parent


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROOMS = {
    "telemetry": names(""),
    "config": names("telemetry.redact fastpaths"),
    "ports": names(""),
    "fastpaths": names(""),
    "recovery_ports": names(""),
    "protocol": names(""),
    "wire": names("protocol.errors"),
    "delivery": names("protocol wire ports recovery_ports config telemetry"),
    "session": names("protocol delivery ports recovery_ports config telemetry"),
    "websocket": names(
        "session delivery wire protocol ports config telemetry fastpaths"
    ),
    "redis": names("ports config telemetry"),
    "bus": names("redis ports config telemetry"),
    "postgres": names("ports recovery_ports config telemetry fastpaths"),
    "clerk": names("ports config telemetry fastpaths"),
    "schema": names("protocol"),
    "monitoring": names("telemetry known_series"),
    "checks": names("postgres clerk config telemetry redis _publisher"),
    # Imported by a Python REST service: no server, no database, no keys.
    "publisher": names("_publisher"),
    "_publisher": names("protocol config.redis_address redis.dialled"),
}
ROOT = names(
    """app daemon health process systemd cli status operator_commands check_command
    serve_command command_options known_series __main__"""
)
"""The composition: these may import every package."""
DOORS = names("process dev command_options")
"""Only these import `app`, which builds the daemon, or what is beside it."""
BESIDE = names("dev testing")
"""Packages beside the daemon; no part of it imports them but the command line."""

PURE = names(
    """protocol wire config ports telemetry.log telemetry.redact telemetry.metrics
    telemetry.counters session.session session.signing
    session.nonces session.json_stringify session.rate_limit delivery.hub
    delivery.versions delivery.revocations websocket.memory
    websocket.timers websocket.timer_wheel
    websocket.limiter"""
)
"""No clock, no I/O: time and bytes are arguments."""
NO_DRIVERS = names("delivery session")
"""They know Redis, Postgres, Clerk and sockets by `ports` alone."""

CLOCKS_AND_IO = names(
    """asyncio time random secrets uuid os sys io pathlib shutil tempfile socket ssl
    select selectors signal threading multiprocessing concurrent subprocess logging
    sched http urllib"""
)
DRIVERS = names("psycopg psycopg_pool redis hiredis websockets uvloop click")
EXCEPTIONS = {
    ("config.validate", "urllib"): "urllib.parse splits an address, no more",
    ("config.database_url", "urllib"): "urllib.parse splits an address, no more",
    ("config.redis_address", "urllib"): "urllib.parse splits an address, no more",
    ("config.load", "pathlib"): "it reads the configuration file",
    ("telemetry.redact", "pathlib"): "PurePath shortens a name, it opens nothing",
    ("telemetry.log", "logging"): "lines of the standard library arrive there",
    ("telemetry.log", "sys"): "sys.exc_info is what exc_info=True means",
    ("telemetry.log", "threading"): "lines of two threads must not mix",
    ("wire.assembler", "websockets"): "the library's Sans-I/O frames: bytes in and out",
    ("wire.frames", "websockets"): "the library's Sans-I/O frames: bytes in and out",
    ("wire.reader", "websockets"): "the library's Sans-I/O protocol: bytes in and out",
    ("wire.request", "websockets"): "the library's HTTP parser: bytes in and out",
    ("wire.upgrade", "websockets"): "one hash of the library's: text in and out",
}
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})

MAX_LINES = 300
MAX_FUNCTION_LINES = 60
LONGER: dict[str, int] = {}


class Module(NamedTuple):
    name: str
    """Dotted, below the package: ``bus.probe``."""
    path: Path

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path)

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    def is_in(self, rooms: frozenset[str]) -> bool:
        return self.name in rooms or self.room in rooms


@cache
def parsed(path: Path) -> ast.Module:
    """Not at import, which every worker does."""
    return ast.parse(path.read_text("utf-8"))


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__":
            found.append(Module(".".join(parts), path))
    return found


MODULES = modules()
NAMES = {module.name for module in MODULES}


def name_of(module: Module) -> str:
    return str(module.path.relative_to(PACKAGE))


every_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


def inside(rooms: frozenset[str]) -> pytest.MarkDecorator:
    chosen = [module for module in MODULES if module.is_in(rooms)]
    return pytest.mark.parametrize("module", chosen, ids=name_of)


def own_imports(module: Module) -> Iterator[str]:
    """The package's modules that `module` imports, for types only or not."""
    folder = module.path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder[: len(folder) + 1 - node.level]
        parts = (*base, *(node.module.split(".") if node.module else ()))
        for alias in node.names:
            whole = ".".join((*parts, alias.name))
            target = whole if whole in NAMES else ".".join(parts)
            if target:
                yield target


def foreign_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@every_module
def test_imports_are_allowed(module: Module) -> None:
    for target in own_imports(module):
        room = target.partition(".")[0]
        if room == module.room:
            continue
        if room == "app":
            assert module.room in DOORS, f"{module.name} imports app"
        if room in BESIDE:
            assert module.room in DOORS, f"{module.name} imports {target}"
        if module.room in ROOT | DOORS:
            continue
        assert module.room in ROOMS, (
            f"{name_of(module)} has no entry: add {module.room!r} to ROOMS "
            f"(or ROOT) in {Path(__file__).name}"
        )
        assert {room, target} & ROOMS[module.room], f"{module.name} imports {target}"


def test_every_permission_is_used() -> None:
    used: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        for target in own_imports(module):
            used[module.room] |= {target, target.partition(".")[0]}
    unused = {room: allowed - used[room] for room, allowed in ROOMS.items()}
    assert not any(unused.values()), unused


def test_no_circles() -> None:
    arrows = {module.name: set(own_imports(module)) for module in MODULES}
    done: set[str] = set()

    def walk(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, f"circle: {' -> '.join((*road, name))}"
        if name not in done:
            for target in arrows.get(name, ()):
                walk(target, (*road, name))
            done.add(name)

    for name in arrows:
        walk(name, ())


def test_rooms_have_no_circle() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        if module.room in ROOMS:
            arrows[module.room] |= {
                target.partition(".")[0] for target in own_imports(module)
            } - {module.room}

    def walk(room: str, road: tuple[str, ...]) -> None:
        assert room not in road, f"circle: {' -> '.join((*road, room))}"
        for target in arrows.get(room, ()):
            walk(target, (*road, room))

    for room in tuple(arrows):
        walk(room, ())


@every_module
def test_own_imports_are_relative(module: Module) -> None:
    assert "typelets_ws" not in set(foreign_imports(module))


@inside(PURE)
def test_pure_modules_have_no_clock_and_no_io(module: Module) -> None:
    for name in foreign_imports(module):
        if name in CLOCKS_AND_IO | DRIVERS:
            assert (module.name, name) in EXCEPTIONS, f"{module.name} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in CLOCK_CALLS, (
                f"line {node.lineno} reads a clock"
            )


@inside(NO_DRIVERS)
def test_sessions_and_delivery_know_no_driver(module: Module) -> None:
    assert not set(foreign_imports(module)) & (DRIVERS | {"socket", "time", "random"})


def test_exceptions_are_all_needed() -> None:
    used = {
        (module.name, name) for module in MODULES for name in foreign_imports(module)
    }
    assert set(EXCEPTIONS) <= used, set(EXCEPTIONS) - used


def test_hub_never_waits() -> None:
    tree = ast.parse((PACKAGE / "delivery" / "hub.py").read_text("utf-8"))
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)]


@every_module
def test_size(module: Module) -> None:
    lines = len(module.path.read_text("utf-8").splitlines())
    assert lines <= LONGER.get(name_of(module), MAX_LINES), (
        f"{lines} lines; split it where a second subject begins"
    )
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = LONGER.get(node.name, MAX_FUNCTION_LINES)
            assert length <= limit, f"{node.name} has {length} lines"


@every_module
def test_opens_with_its_invariants(module: Module) -> None:
    text = ast.get_docstring(module.tree)
    assert text
    named = re.findall(r"tests/[\w/]+\.py", text)
    assert all((PACKAGE.parent / name).exists() for name in named), named
    if re.search(r"[Ii]nvariant|^- \*\*", text, re.MULTILINE):
        assert named, "name the test of the invariants"


MAX_ARGUMENTS = 7


def constructor_arguments(node: ast.ClassDef) -> int:
    """Arguments of `__init__`, or the fields of a dataclass that have no default."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            found = method.args
            return len([*found.posonlyargs, *found.args, *found.kwonlyargs]) - 1
    if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return 0
    fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
    return sum(field.value is None for field in fields)


@every_module
def test_constructors_have_few_arguments(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            assert constructor_arguments(node) <= MAX_ARGUMENTS, node.name


@every_module
def test_no_method_is_left_to_subclasses(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Raise):
            assert "NotImplementedError" not in ast.dump(node), f"line {node.lineno}"


def test_the_composition_needs_no_lambda() -> None:
    tree = ast.parse((PACKAGE / "app.py").read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]


CONTRACTS = names("ports recovery_ports")
"""A contract here may share its name with the one class that fulfils it."""


def collisions() -> dict[str, list[str]]:
    """The names that mean more than one thing, and the modules that define them.

    Counted are classes, also nested ones, and the aliases of types.
    """
    homes: dict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module.name)
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
                homes[ast.unparse(node.targets[0])].append(module.name)
    return {name: where for name, where in homes.items() if not is_one_idea(where)}


def is_one_idea(where: list[str]) -> bool:
    return len(where) == 1 or (len(where) == 2 and bool(CONTRACTS & set(where)))


def test_a_name_has_one_meaning() -> None:
    assert not collisions()


def test_packages_import_nothing_by_themselves() -> None:
    for init in PACKAGE.rglob("__init__.py"):
        if init.parent != PACKAGE:
            assert not init.read_text("utf-8").strip(), f"{init} is not empty"


def test_the_readme_names_functions_that_exist() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    answers = re.findall(r"`([\w/]+\.py)` `(\w+)`", readme)
    assert len(answers) >= 15
    for path, function in answers:
        code = (PACKAGE / path).read_text("utf-8")
        assert re.search(rf"def {function}\b", code), f"{path} has no {function}"


WAIT = re.compile(
    r"(?:asyncio\.timeout\(|settimeout\(|patience=|\.wait\(|(?<!\w)timeout=)([1-9]\d*(?:\.\d+)?)"
)
BY_HAND = {"bench", "chaos", "hostile", "soak"}
"""Parts of programs that are run by hand, with limits of their own."""


def test_tests_wait_as_long_as_it_takes() -> None:
    """A wait for what comes at last has `within.PATIENCE_S`, not a time of its own."""
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        if BY_HAND & set(path.relative_to(tests).parts):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            found = WAIT.search(line)
            assert found is None, f"{path}:{number}: {line}"
