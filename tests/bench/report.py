"""The table for people, and the JSON for programs."""

import json
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from statistics import median
from typing import Any

from .bench import Figure

__all__ = ["as_json", "table"]

LIBRARIES = ("websockets", "uvloop", "redis", "psycopg", "msgspec")


def table(figures: Iterable[Figure]) -> str:
    """Markdown, columns in line: median and, in brackets, the spread.

    load: how busy the generator was at most; robbed: how long a server was kept off
    its core by other programs at most. Latencies mean nothing while that is much.
    """
    head = ["work", "daemon", "baseline", "", "ratio", "target", "", "load", "robbed"]
    lines = [head, *map(_cells, figures)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cells(figure: Figure) -> list[str]:
    theirs = ratio = target = ""
    if figure.theirs:
        theirs, ratio = _spread(figure.theirs, figure.unit), _spread(figure.ratios, "")
    if figure.target is not None:
        target = f"{'>=' if figure.at_least else '<='} {figure.target:g}"
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    shares = [f"{s:.0%}" if s else "" for s in figure.shares]
    ours = _spread(figure.ours, figure.unit)
    return [figure.work, ours, figure.baseline, theirs, ratio, target, verdict, *shares]


def _spread(values: list[float], unit: str) -> str:
    low, high = _short(min(values)), _short(max(values))
    middle = f"{_short(median(values))} {unit}".strip()
    return middle if low == high else f"{middle} [{low}..{high}]"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(figures: Iterable[Figure], *, quick: bool) -> str:
    """Every value of every round, and what it was measured with."""
    return json.dumps(
        {
            "quick": quick,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "libraries": {name: version(name) for name in LIBRARIES},
            "figures": list(map(_record, figures)),
        },
        indent=2,
    )


def _record(figure: Figure) -> dict[str, Any]:
    return dict(_fields(figure))


def _fields(figure: Figure) -> Iterator[tuple[str, Any]]:
    yield from vars(figure).items()
    if figure.theirs:
        yield "ratio", median(figure.ratios)
    yield "median", median(figure.ours)
    yield "met", figure.met
