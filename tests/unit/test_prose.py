"""The language of the project: plain technical English.

The words below are odd, old or vague. Each kind of text may hold `CEILING` of them in
1,000 words; the test names every file that has some. Run this file to see the lists.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import typelets_ws

PACKAGE = Path(typelets_ws.__file__).parent
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CEILING = 1
"""Never raise it."""
ODD = re.compile(
    r"\b(whoever|whatever|whomever|nobody|anew|likewise|need not|be it|is none|"
    r"to be had|at hand|made good|of ours|half-way|told|lest|thereof|shall|tell of)\b",
    re.IGNORECASE,
)
VAGUE = re.compile(
    r"(?:^|[.:;]\s+)(?:#\s*)?(What|Who|Whatever|Whoever|Nobody)\b", re.MULTILINE
)
"""A sentence whose subject has no name in the code."""
WORD = re.compile(r"[A-Za-z']+")


def prose(path: Path) -> str:
    """All docstrings and comments of a module."""
    text = path.read_text("utf-8")
    return "\n".join((*docstrings(text), *comments(text)))


def docstrings(text: str) -> Iterator[str]:
    """Those of modules, classes and functions, and the lines below a constant."""
    for node in statements(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node; their expressions, of which there are many more, are not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from statements(child)


def comments(text: str) -> Iterator[str]:
    if "#" not in text:
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_names(path: Path) -> str:
    names = re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    return "\n".join(name.replace("_", " ") for name in names)


test_names.__test__ = False  # type: ignore[attr-defined]


def hits(texts: dict[str, str], pattern: re.Pattern[str] = ODD) -> tuple[float, str]:
    """Matches in 1,000 words, and a line for each file that has some."""
    found = {name: pattern.findall(text) for name, text in texts.items()}
    words = sum(len(WORD.findall(text)) for text in texts.values())
    lines = [
        f"{len(some):3} {name}: {', '.join(some)}"
        for name, some in found.items()
        if some
    ]
    rate = 1000 * sum(map(len, found.values())) / words
    return rate, "\n".join(sorted(lines, reverse=True))


def messages(path: Path) -> str:
    """The texts in the code that are sentences: errors, help, descriptions."""
    tree = ast.parse(path.read_text("utf-8"))
    beside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return "\n".join(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in beside
        if isinstance(node.value, str) and " " in node.value
    )


def whole(path: Path) -> str:
    return path.read_text("utf-8")


def files(folder: Path, pattern: str) -> list[Path]:
    found = (path for path in folder.rglob(pattern) if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


KINDS: dict[str, tuple[Callable[[Path], str], list[Path]]] = {
    "package": (prose, files(PACKAGE, "*.py")),
    "messages": (messages, files(PACKAGE, "*.py")),
    "scripts of pages": (whole, files(PACKAGE, "*.js")),
    "tests": (prose, files(TESTS, "*.py")),
    "names of tests": (test_names, files(TESTS, "test_*.py")),
    "documents": (whole, [ROOT / "README.md", ROOT / "CHANGELOG.md"]),
    "operation": (
        whole,
        [
            ROOT / "config.example.toml",
            *files(ROOT / "systemd", "*"),
            *files(ROOT / "scripts", "*"),
        ],
    ),
}


@cache
def texts_of(kind: str) -> dict[str, str]:
    reader, paths = KINDS[kind]
    here = Path(__file__)  # has the words themselves
    return {str(p.relative_to(p.parents[1])): reader(p) for p in paths if p != here}


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_few_odd_words(kind: str) -> None:
    rate, lines = hits(texts_of(kind))
    assert rate <= CEILING, f"{rate:.1f} odd words in 1,000:\n{lines}"


@pytest.mark.parametrize("kind", KINDS)
def test_subjects_have_names(kind: str) -> None:
    rate, lines = hits(texts_of(kind), VAGUE)
    assert rate <= CEILING, f"{rate:.1f} vague subjects in 1,000 words:\n{lines}"


if __name__ == "__main__":
    for each in KINDS:
        print("{}: {:.1f} in 1,000\n{}".format(each, *hits(texts_of(each))))
