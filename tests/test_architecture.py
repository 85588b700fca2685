"""The map in the package's docstring, kept true by reading every import.

A new module is added to `FLOORS` on the lowest floor that has what it needs. The
two halves of floor 3 are two entries with the same number: they never import each
other, directly or through anything below.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import typelets_ws

PACKAGE = Path(typelets_ws.__file__).parent


class Floor(NamedTuple):
    number: int
    modules: frozenset[str]


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def floor(number: int, modules: str) -> Floor:
    return Floor(number, names(modules))


FLOORS = {
    "words": floor(
        0,
        """addresses protocol errors messages events metrics pool_metrics tally ports
        recovery_ports config config_kinds config_rules database_url settings
        log log_guard recent_lines""",
    ),
    "rules": floor(
        1,
        """session signing nonces javascript limits deadlines liveness convergence
        fields frames assembly upgrade""",
    ),
    "behaviour": floor(2, "hub handlers admission"),
    "sockets": floor(
        3,
        """connection entrance wire conversation outbox house listener tls endpoints
        relay""",
    ),
    "outside": floor(
        3,
        """store store_pool store_link store_turns store_sql store_statements postgres
        bus shared_limits clerk claims keys jwks happy_eyeballs subscriber redis
        redis_link redis_commands redis_upkeep publishing probe subscriptions
        bus_health redis_acquire""",
    ),
    "assembly": floor(
        4,
        """app daemon service systemd known_series process_metrics
        schema schema_asyncapi schema_typescript""",
    ),
    "doors": floor(
        5,
        """cli check_command command_options environment_file operator_commands status
        dev schema_command __main__""",
    ),
}
BESIDE = {
    # What a Python REST service imports must not pull the daemon in.
    "publisher": names("_publisher_events _publisher_redis _publisher_unsent"),
    "_publisher_events": names(
        """events messages errors protocol publisher_data _publisher_rows
        _publisher_unsent"""
    ),
    "_publisher_redis": frozenset(),
    "_publisher_rows": frozenset(),
    "_publisher_unsent": frozenset(),
    "publisher_data": frozenset(),
}

CLOCKS_AND_IO = names(
    """asyncio time random secrets uuid os sys io pathlib shutil tempfile socket ssl
    select selectors signal threading multiprocessing concurrent subprocess logging
    sched http urllib"""
)
DRIVERS = names("psycopg psycopg_pool redis hiredis websockets uvloop click")
EXCEPTIONS = {
    ("config_rules", "urllib"): "urllib.parse takes an address apart, no more",
    ("database_url", "urllib"): "urllib.parse takes an address apart, no more",
    ("log_guard", "pathlib"): "PurePath shortens a name, it opens nothing",
    ("log", "logging"): "it is where the standard library's lines come in",
    ("log", "sys"): "sys.exc_info is what exc_info=True means",
    ("log", "threading"): "lines of two threads must not mix",
    ("settings", "pathlib"): "it reads the configuration file",
    ("assembly", "websockets"): "the library's Sans-I/O frames: bytes in, bytes out",
    ("frames", "websockets"): "the library's Sans-I/O frames: bytes in, bytes out",
    ("upgrade", "websockets"): "one hash of the library's: text in, text out",
}
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})

MOST_LINES = 300
MOST_FUNCTION_LINES = 60


class Module(NamedTuple):
    name: str
    """As in `FLOORS`: the first part below the package."""
    path: Path
    tree: ast.Module


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            found.append(Module(parts[0], path, ast.parse(path.read_text("utf-8"))))
    return found


MODULES = modules()


def name_of(module: Module) -> str:
    return str(module.path.relative_to(PACKAGE))


def on_floors(*numbers: int) -> list[Module]:
    wanted = {
        name for number, each in FLOORS.values() if number in numbers for name in each
    }
    return [module for module in MODULES if module.name in wanted]


every_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


def floor_of(name: str) -> tuple[str, int]:
    for title, (number, names) in FLOORS.items():
        if name in names:
            return title, number
    pytest.fail(
        f"typelets_ws/{name}.py stands on no floor: add {name!r} to FLOORS (or BESIDE) "
        f"in {Path(__file__).name}, on the lowest floor that has what it imports"
    )


def own_imports(module: Module) -> Iterator[str]:
    """The package's modules that `module` imports, for types only or not."""
    inside = module.path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = inside[: len(inside) + 1 - node.level]
        names = [alias.name for alias in node.names]
        for target in [node.module] if node.module else names:
            first = (*base, *target.split("."))[0]
            if first != "__version__":
                yield first


def foreign_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@every_module
def test_imports_point_down(module: Module) -> None:
    if module.name in BESIDE:
        assert set(own_imports(module)) <= BESIDE[module.name]
        return
    title, number = floor_of(module.name)
    for name in own_imports(module):
        if name == module.name:
            continue
        assert name not in BESIDE, f"{module.name} imports {name}, which stands beside"
        other, below = floor_of(name)
        assert below <= number, (
            f"{module.name} ({title}) imports {name} ({other}) above"
        )
        assert below < number or other == title, (
            f"{module.name} ({title}) imports {name} ({other}): "
            "the two halves of a floor never see each other"
        )


def test_no_circles() -> None:
    arrows: dict[str, set[str]] = {}
    for module in MODULES:
        targets = set(own_imports(module)) - {module.name}
        arrows.setdefault(module.name, set()).update(targets)

    def walk(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, f"circle: {' -> '.join((*road, name))}"
        for target in arrows.get(name, ()):
            walk(target, (*road, name))

    for name in arrows:
        walk(name, ())


@every_module
def test_own_imports_are_relative(module: Module) -> None:
    assert "typelets_ws" not in set(foreign_imports(module))


@pytest.mark.parametrize("module", on_floors(0, 1), ids=name_of)
def test_words_and_rules_have_no_clock_and_no_io(module: Module) -> None:
    for name in foreign_imports(module):
        if name in CLOCKS_AND_IO | DRIVERS:
            assert (module.name, name) in EXCEPTIONS, f"{module.name} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in CLOCK_CALLS, (
                f"line {node.lineno} reads a clock"
            )


@pytest.mark.parametrize("module", on_floors(2), ids=name_of)
def test_behaviour_knows_no_driver(module: Module) -> None:
    assert not set(foreign_imports(module)) & (DRIVERS | {"socket", "time", "random"})


def test_exceptions_are_all_needed() -> None:
    used = {
        (module.name, name) for module in MODULES for name in foreign_imports(module)
    }
    assert set(EXCEPTIONS) <= used


def test_hub_never_waits() -> None:
    tree = ast.parse((PACKAGE / "hub.py").read_text("utf-8"))
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)]


@every_module
def test_size(module: Module) -> None:
    lines = len(module.path.read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, f"{lines} lines; split it where the story splits"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"


@every_module
def test_opens_with_its_law(module: Module) -> None:
    assert ast.get_docstring(module.tree)
