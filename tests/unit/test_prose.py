"""The language of docstrings, comments and test names: plain technical English.

The words below are odd, old or vague. The package may hold `CEILING` of them in 1,000
words; the test names every file that has some. Run this file to see the list.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import typelets_ws

PACKAGE = Path(typelets_ws.__file__).parent
TESTS = Path(__file__).parents[1]
CEILING = 1
NAMES_CEILING = 1
"""Never raise them."""
ODD = re.compile(
    r"\b(whoever|whatever|whomever|nobody|anew|likewise|need not|be it|is none|"
    r"to be had|at hand|made good|of ours|half-way|told|lest|thereof|shall|tell of)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z']+")


def prose(path: Path) -> str:
    """All docstrings and comments of a module."""
    text = path.read_text("utf-8")
    return "\n".join((*docstrings(text), *comments(text)))


def docstrings(text: str) -> Iterator[str]:
    """Those of modules, classes and functions, and the lines below a constant."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def comments(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_names(path: Path) -> str:
    names = re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    return "\n".join(name.replace("_", " ") for name in names)


test_names.__test__ = False  # type: ignore[attr-defined]


def hits(texts: dict[str, str]) -> tuple[float, str]:
    """Odd words in 1,000, and a line for each file that has some."""
    found = {name: ODD.findall(text.lower()) for name, text in texts.items()}
    words = sum(len(WORD.findall(text)) for text in texts.values())
    lines = [
        f"{len(odd):3} {name}: {', '.join(odd)}" for name, odd in found.items() if odd
    ]
    rate = 1000 * sum(map(len, found.values())) / words
    return rate, "\n".join(sorted(lines, reverse=True))


def test_the_package_has_few_odd_words() -> None:
    rate, lines = hits(
        {str(p.relative_to(PACKAGE)): prose(p) for p in PACKAGE.rglob("*.py")}
    )
    assert rate <= CEILING, f"{rate:.1f} odd words in 1,000:\n{lines}"


def test_names_of_tests_have_few_odd_words() -> None:
    rate, lines = hits(
        {str(p.relative_to(TESTS)): test_names(p) for p in TESTS.rglob("test_*.py")}
    )
    assert rate <= NAMES_CEILING, f"{rate:.1f} odd words in 1,000:\n{lines}"


if __name__ == "__main__":
    sources = {str(p.relative_to(PACKAGE)): prose(p) for p in PACKAGE.rglob("*.py")}
    print("{:.1f} in 1,000\n{}".format(*hits(sources)))
