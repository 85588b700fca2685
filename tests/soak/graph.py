"""The samples of a soak as one SVG: a small curve for each figure."""

from collections.abc import Iterator, Sequence

from tests.bench.svg import Scale, document, line, path, text, ticks
from tests.soak.measure import GATES, Sample

__all__ = ["graph"]

WIDTH, ROW, LEFT, RIGHT, TOP = 920, 110, 84, 890, 84


def graph(samples: Sequence[Sample], title: str, under: str) -> str:
    """One row for each figure, all over the same time."""
    bottom = TOP + ROW * len(GATES)
    minutes = Scale(0, max(one.at for one in samples) / 60 or 1, LEFT, RIGHT)

    def body() -> Iterator[str]:
        for number, (name, gate) in enumerate(GATES.items()):
            top = TOP + ROW * number
            values = [one.figures[name] for one in samples]
            marks = ticks(max(*values, 1), 2)
            height = Scale(0, marks[-1], top + ROW - 28, top + 18)
            yield text(LEFT, top + 8, gate.label, "soft")
            for mark in marks:
                yield line(LEFT, height.at(mark), RIGHT, height.at(mark), "grid")
                yield text(LEFT - 8, height.at(mark) + 4, f"{mark:g}", "soft", "end")
            points = [
                (minutes.at(one.at / 60), height.at(value))
                for one, value in zip(samples, values, strict=True)
            ]
            yield path(points, "ours")
        for mark in ticks(minutes.high):
            if mark <= minutes.high:
                x = minutes.at(mark)
                yield text(x, bottom + 8, f"{mark:g} min", "soft", "middle")

    return document(WIDTH, bottom + 28, title, under, body())
