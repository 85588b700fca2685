"""The figures by which the code is judged: sizes, types, names, prose.

``python -m tests.figures`` prints them. The limits are tests of their own
(`test_architecture`, `unit/test_prose`); this shows where the code stands.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import typelets_ws
from tests.test_architecture import (
    MODULES,
    collisions,
    constructor_arguments,
    own_imports,
)
from tests.unit.test_prose import KINDS, VAGUE, WORD, hits, texts_of

PACKAGE = Path(typelets_ws.__file__).parent
TESTS = Path(__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp,
    ast.BoolOp, ast.comprehension, ast.match_case,
)  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def functions() -> Iterator[Function]:
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield node


def is_typed(node: Function) -> bool:
    own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given = [each for each in own if each.arg not in {"self", "cls"}]
    return node.returns is not None and all(each.annotation for each in given)


def lines_of(folder: Path) -> int:
    return sum(len(p.read_text("utf-8").splitlines()) for p in folder.rglob("*.py"))


def sizes() -> Iterator[tuple[str, object]]:
    modules = [len(m.path.read_text("utf-8").splitlines()) for m in MODULES]
    found = list(functions())
    length = [(f.end_lineno or f.lineno) - f.lineno + 1 for f in found]
    branches = [sum(isinstance(n, BRANCHES) for n in ast.walk(f)) for f in found]
    source, tests = lines_of(PACKAGE), lines_of(TESTS)
    yield "modules", len(modules)
    yield "lines", source
    yield "module median / max", f"{median(modules):.0f} / {max(modules)}"
    yield (
        "function median / p95 / max",
        (f"{median(length):.0f} / {percentile(length, 0.95)} / {max(length)}"),
    )
    yield "branches p95 / max", f"{percentile(branches, 0.95)} / {max(branches)}"
    yield "functions of more than 10", sum(count > 10 for count in branches)
    yield "typed functions", f"{100 * sum(map(is_typed, found)) / len(found):.0f} %"
    yield "test : source", f"{tests / source:.2f}"


def composition() -> Iterator[tuple[str, object]]:
    arguments, abstract, reconfigure = [], 0, 0
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                arguments.append(constructor_arguments(node))
            if isinstance(node, Function) and node.name == "reconfigure":
                reconfigure += 1
            if isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node):
                abstract += 1
    (app,) = (module for module in MODULES if module.name == "app")
    lambdas = sum(isinstance(node, ast.Lambda) for node in ast.walk(app.tree))
    packages = {init.parent.name for init in PACKAGE.glob("*/__init__.py")}
    arrows = {
        (module.room, target.partition(".")[0])
        for module in MODULES
        for target in own_imports(module)
    }
    yield "names with two meanings", len(collisions())
    yield "most constructor arguments", max(arguments)
    yield "constructors with more than 7", sum(count > 7 for count in arguments)
    yield "raise NotImplementedError", abstract
    yield "lambdas in app.py", lambdas
    yield "reconfigure methods", reconfigure
    between = {(a, b) for a, b in arrows if a != b and {a, b} <= packages}
    beside = {"dev", "checks", "monitoring", "schema", "_publisher"}
    yield "packages", len(packages)
    yield "arrows between packages", len(between)
    yield "  between those of the daemon", sum(not beside & {a, b} for a, b in between)
    yield (
        "lambdas in the package",
        sum(isinstance(node, ast.Lambda) for m in MODULES for node in ast.walk(m.tree)),
    )


def language() -> Iterator[tuple[str, object]]:
    for kind in KINDS:
        texts = texts_of(kind)
        words = sum(len(WORD.findall(text)) for text in texts.values())
        yield f"{kind}: words", words
        yield "  odd ones per 1,000", f"{hits(texts)[0]:.1f}"
        yield "  subjects what or who, per 1,000", f"{hits(texts, VAGUE)[0]:.1f}"


def main() -> None:
    for name, value in (*sizes(), *composition(), *language()):
        sys.stdout.write(f"{name:40} {value}\n")


if __name__ == "__main__":
    main()
