"""Pictures of the rows that are sooner seen than read: each is made of its figures."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from .figure import Figure
from .svg import Scale, box, document, dot, line, path, text, ticks

__all__ = ["charts"]

LIMIT_AT_MOST = 3.0
ROW = 44
WIDTH = 920
LEFT = 84
Curves = dict[str, list[tuple[float, float]]]


def charts(figures: Sequence[Figure]) -> dict[str, str]:
    """SVG by name; a row that was not measured has no chart."""
    result = {}
    judged = [figure for figure in figures if figure.target is not None]
    if judged:
        result["targets"] = targets(judged)
    for row, draw in DRAWN.items():
        # The first figure of a row is the one with everything in it.
        figure = next((each for each in figures if each.row == row), None)
        if figure:
            result[row] = draw(figure)
    return result


def targets(figures: Sequence[Figure]) -> str:
    """How far each row is from its limit, all of them on one axis."""
    left, right, top = 372, 730, 92
    bottom = top + ROW * len(figures)
    high = max(1.5, *(min(_strain(f, f.judged), LIMIT_AT_MOST) for f in figures))
    marks = ticks(high * 1.04)
    scale = Scale(0, marks[-1], left, right)

    def body() -> Iterator[str]:
        for mark in marks:
            yield line(scale.at(mark), top, scale.at(mark), bottom, "grid")
            yield text(scale.at(mark), bottom + 18, f"{mark:g}", "soft", "middle")
        for number, figure in enumerate(figures):
            yield from _row(figure, top + ROW * number, scale)
        yield line(left, top, left, bottom, "axis")
        yield line(scale.at(1), top - 8, scale.at(1), bottom, "limit")
        yield text(scale.at(1), top - 13, "limit", "", "middle")
        yield text(left, bottom + 38, "median, as a multiple of the limit", "soft")

    return document(
        WIDTH,
        bottom + 56,
        "Targets",
        "A bar that ends before the line meets its target. Thin line: spread of the "
        "rounds.",
        body(),
    )


def _row(figure: Figure, top: float, scale: Scale) -> Iterator[str]:
    middle = top + ROW / 2
    end = scale.at(_strain(figure, figure.judged))
    left = scale.start - 14
    yield text(left, middle - 2, figure.work, "", "end")
    against = f"against {figure.baseline}" if figure.baseline else ""
    yield text(left, middle + 13, against, "soft", "end")
    kind = "ours" if figure.met else "bad"
    yield box(scale.start, middle - 9, end - scale.start, 18, kind)
    values = [_strain(figure, value) for value in figure.ratios or figure.ours]
    yield line(scale.at(min(values)), middle, scale.at(max(values)), middle, "spread")
    if _strain(figure, figure.judged) > scale.high:
        yield text(end - 6, middle + 4, "»", "over", "end")
    words = "at least" if figure.at_least else "at most"
    unit = "×" if figure.ratios else figure.unit
    judged = f"{figure.judged:.3g} {unit}, {words} {figure.target:g}"
    yield text(scale.end + 16, middle + 4, judged)


def _strain(figure: Figure, value: float) -> float:
    """The part of what the target allows; over 1: missed."""
    assert figure.target is not None
    if figure.at_least:
        return figure.target / max(value, 1e-9)
    return max(value, 0.0) / figure.target


def growth(figure: Figure) -> str:
    """The cost of an event, the more users are connected."""
    curves = figure.curves
    counts = [x for x, _ in next(iter(curves.values()))]
    # Its first point is labelled too, clear of the numbers of the axis.
    across = Scale(counts[0], counts[-1], LEFT + 40, 730, log=True)
    return document(
        WIDTH,
        420,
        "CPU per event, by connected users",
        "Server CPU, µs, for one event to one of the users; medians.",
        _plot(curves, across, counts, "connected users", lambda y: f"{y:.3g} µs"),
    )


def storm(figure: Figure) -> str:
    """How many devices are authenticated again, from the moment of the loss."""
    curves = figure.curves
    marks = ticks(max(x for some in curves.values() for x, _ in some), 6)
    across = Scale(0, marks[-1], LEFT, WIDTH - 40)
    return document(
        WIDTH,
        420,
        figure.work.split(",", maxsplit=1)[0],
        "Devices authenticated, by seconds since all connections were lost; a line for "
        "each round.",
        _plot(curves, across, marks, "seconds", None),
    )


def _plot(
    curves: Curves,
    across: Scale,
    marks: Sequence[float],
    unit: str,
    label: Callable[[float], str] | None,
) -> Iterator[str]:
    """Curves over one axis; named at their ends where their points are labelled."""
    top, bottom = 80, 352
    room = 1.12 if label else 1.0
    heights = ticks(max(y for some in curves.values() for _, y in some) * room)
    up = Scale(0, heights[-1], bottom, top)
    for height in heights:
        yield line(LEFT, up.at(height), across.end, up.at(height), "grid")
        words = f"{height:,g}" if height >= 1000 else f"{height:g}"
        yield text(LEFT - 10, up.at(height) + 4, words, "soft", "end")
    for mark in marks:
        at = across.at(mark)
        yield line(at, bottom, at, bottom + 5, "axis")
        yield text(at, bottom + 20, f"{mark:,g}", "soft", "middle")
    yield line(LEFT, bottom, across.end, bottom, "axis")
    yield text(across.end, bottom + 42, unit, "soft", "end")
    for number, (name, some) in enumerate(curves.items()):
        points = [(across.at(x), up.at(y)) for x, y in some]
        if label is None:
            yield path(points, "ours faint")
            continue
        kind = "other" if number else "ours"
        yield path(points, kind)
        yield text(points[-1][0] + 14, points[-1][1] + 4, name)
        for (x, y), (_, value) in zip(points, some, strict=True):
            yield dot(x, y, kind)
            yield text(x, y - 11, label(value), "soft", "middle")


def idle(figure: Figure) -> str:
    """Memory of a connection."""
    bars = [("daemon", median(figure.ours), "ours")]
    bars.append((figure.baseline, median(figure.theirs), "other"))
    marks = ticks(max(value for _, value, _ in bars) / 1000)
    scale = Scale(0, marks[-1] * 1000, 150, 730)
    bottom = 168

    def body() -> Iterator[str]:
        for mark in marks:
            at = scale.at(mark * 1000)
            yield line(at, 76, at, bottom, "grid")
            yield text(at, bottom + 18, f"{mark:g}", "soft", "middle")
        for number, (name, value, kind) in enumerate(bars):
            top = 86 + 40 * number
            yield text(scale.start - 12, top + 18, name, "", "end")
            yield box(scale.start, top, scale.at(value) - scale.start, 26, kind)
            yield text(scale.at(value) + 10, top + 18, f"{value / 1000:.1f} kB")
        yield line(scale.start, 76, scale.start, bottom, "axis")
        yield text(scale.end, bottom + 38, "kB (1000 bytes)", "soft", "end")

    return document(
        WIDTH,
        bottom + 54,
        "Memory per idle connection",
        "Resident bytes that the server grows by, for each of 10 000 connections.",
        body(),
    )


DRAWN: dict[str, Callable[[Figure], str]] = {
    "growth": growth,
    "idle": idle,
    "storm": storm,
}
