"""Pieces of SVG: small pure functions, each of which gives one element as text.

The colours follow the reader's light or dark mode, on a ground of their own: a page
may be dark where the reader's system is not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Scale", "box", "document", "dot", "line", "path", "text", "ticks"]

STYLE = """
svg { --paper: #fff; --ink: #1f2328; --soft: #5d6670; --grid: #e4e7eb;
  --ours: #2563c9; --other: #8a94a0; --bad: #cc6a0a; }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6edf3;
  --soft: #9aa4af; --grid: #2a313b; --ours: #6ca6ff; --other: #7d8794;
  --bad: #f0a04b; } }
text { font-family: system-ui, "Segoe UI", "Liberation Sans", sans-serif;
  font-size: 12px; fill: var(--ink); }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: var(--soft); font-size: 11px; }
.over { fill: var(--paper); font-weight: 700; }
.paper { fill: var(--paper); }
.grid { stroke: var(--grid); stroke-width: 1; fill: none; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.limit { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
.spread { stroke: var(--ink); stroke-width: 1; opacity: 0.65; }
rect.ours, circle.ours { fill: var(--ours); }
rect.other, circle.other { fill: var(--other); }
rect.bad { fill: var(--bad); }
path.ours, path.other { fill: none; stroke-width: 2; stroke-linejoin: round; }
path.ours { stroke: var(--ours); }
path.other { stroke: var(--other); }
.faint { opacity: 0.55; }
"""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where it is; what is outside comes to the nearer end."""
        low, high, value = (
            map(math.log10, (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        part = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.start + part * (self.end - self.start)


def ticks(high: float, about: int = 5) -> list[float]:
    """Round numbers from 0 up to the first that is not below `high`."""
    rough = max(high, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= rough * 0.999)
    return [round(n * step, 9) for n in range(math.ceil(high / step - 1e-9) + 1)]


def document(
    width: int, height: int, title: str, under: str, body: Iterable[str]
) -> str:
    """A picture with a title, and what is to be known below it."""
    size = f'width="{width}" height="{height}"'
    name = 'xmlns="http://www.w3.org/2000/svg" role="img"'
    parts = (
        f'<svg {name} {size} viewBox="0 0 {width} {height}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" {size} rx="6"/>',
        text(24, 34, title, "title"),
        text(24, 54, under, "soft"),
        *body,
        "</svg>\n",
    )
    return "\n".join(parts)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a point; `anchor` says which end of them is there."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" '
        f'x2="{x2:.1f}" y2="{y2:.1f}"/>'
    )


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A bar."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{max(width, 1):.1f}" height="{height:.1f}" rx="2"/>'
    )


def dot(x: float, y: float, kind: str) -> str:
    """A point on a line."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through these points."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}"/>'
