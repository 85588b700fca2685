"""The table for people, and the JSON for programs."""

import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from .figure import Figure

__all__ = ["LEGEND", "MARKS", "PEERS", "PEER_MARKS", "as_json", "readme", "table"]

HEAD = ["work", "daemon", "baseline", "", "ratio", "target", "", "load", "robbed"]
LEGEND = """\
load: how busy the load generator was, at most
robbed: how long other programs kept a server off its core, at most; latencies and
  rates mean nothing while that is much
cores: how busy each core was while the daemon ran / while the baseline did; the
  server's first, then a second server's and those of the load, Redis and Postgres"""
LIBRARIES = ("websockets", "uvloop", "redis", "psycopg", "msgspec")


def table(figures: Iterable[Figure]) -> str:
    """Markdown, columns in line: median and, in brackets, the spread.

    The last column is there where something was measured for it.
    """
    head = [*HEAD, "cores"]
    lines = [head, *map(_cells, figures)]
    if not any(line[-1] for line in lines[1:]):
        lines = [line[:-1] for line in lines]
        head = lines[0]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


END = "<!-- end -->"
MARKS = "<!-- scripts/bench --readme -->", END
PEER_MARKS = "<!-- scripts/bench --centrifugo PATH --readme -->", END
PEERS = "peers"
"""The row of the figures beside other servers."""


def readme(text: str, figures: Sequence[Figure]) -> str:
    """The text with new tables between its marks: without the columns of the machine.

    Figures beside other servers have marks of their own; a table without a figure
    stays. Raises `ValueError` if the marks are not there.
    """
    peers = [figure for figure in figures if figure.row == PEERS]
    own = [figure for figure in figures if figure.row != PEERS]
    for marks, some in ((MARKS, own), (PEER_MARKS, peers)):
        if some:
            text = _between(text, marks, some)
    return text


def _between(text: str, marks: tuple[str, str], figures: Sequence[Figure]) -> str:
    begin, end = marks
    head, rest = text.split(begin, 1)
    _, tail = rest.split(end, 1)
    columns = len(HEAD) - 2
    lines = ["| " + " | ".join(HEAD[:columns]) + " |", "|---|--:|---|--:|--:|--:|---|"]
    lines += ["| " + " | ".join(_cells(f)[:columns]) + " |" for f in figures]
    return "".join([head, begin, "\n\n", "\n".join(lines), "\n\n", end, tail])


def _cells(figure: Figure) -> list[str]:
    theirs = _spread(figure.theirs, figure.unit) if figure.theirs else ""
    ratio = _spread(figure.ratios, "") if figure.ratios else ""
    target = ""
    if figure.target is not None:
        target = f"{'>=' if figure.at_least else '<='} {figure.target:g}"
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    shares = [f"{s:.0%}" if s else "" for s in figure.shares]
    ours = _spread(figure.ours, figure.unit)
    cores = " / ".join(" + ".join(f"{s:.0%}" for s in some) for some in figure.cores)
    numbers = [theirs, ratio, target, verdict, *shares, cores]
    return [figure.work, ours, figure.baseline, *numbers]


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
    if figure.ratios:
        yield "ratio", median(figure.ratios)
    yield "median", median(figure.ours)
    yield "met", figure.met
