"""A figure of a row: values of some rounds, those of a baseline, and a target."""

from dataclasses import dataclass, field
from statistics import median

__all__ = ["Figure"]


@dataclass
class Figure:
    """One line of the table. `theirs` empty: the figure is held against `target`.

    The ratio is taken round by round; `at_least` turns the target round.
    `divided` is false where a ratio says nothing, as of two differences about zero.
    `cores` is how busy the server's core and the others were, while ours ran and
    while theirs did. `curves` are what a chart draws: points by the name of a line.
    """

    row: str
    work: str
    unit: str
    ours: list[float]
    baseline: str = ""
    theirs: list[float] = field(default_factory=list)
    target: float | None = None
    at_least: bool = False
    shares: tuple[float, float] = (0.0, 0.0)
    divided: bool = True
    cores: list[list[float]] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, by round; empty where there is nothing to divide."""
        if not self.theirs or not self.divided:
            return []
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def judged(self) -> float:
        """The value that is compared with the target."""
        return median(self.ratios or self.ours)

    @property
    def met(self) -> bool | None:
        """None where nothing is promised."""
        if self.target is None:
            return None
        return (self.judged >= self.target) is self.at_least or (
            self.judged == self.target
        )
