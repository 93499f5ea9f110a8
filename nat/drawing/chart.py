"""What a figure shows, as plain data: `nat.drawing.charts` draws it, a report's figures.json holds it."""

from __future__ import annotations

from dataclasses import dataclass

MOST_TOGETHER = 12  # systems in one plot


@dataclass(frozen=True)
class Series:
    """A system's points. number: its row in the table, from 1; a run's: that of its first system. family: systems of
    one method. points: (x, y). notes: of each point, for example how many sentences it stands for."""

    number: int
    name: str
    family: str
    points: list[tuple[float, float]]
    notes: list[str]


@dataclass(frozen=True)
class Guide:
    """A line that is no system's."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """x, y: labels of the axes. x_base, y_base: the base of a logarithmic axis; None: a linear one. joined: a line
    through the points of each series; else the first point is the system, and a thin line shows its spread."""

    name: str
    title: str
    caption: str
    x: str
    y: str
    series: list[Series]
    x_base: int | None = None
    y_base: int | None = None
    joined: bool = True
    guide: Guide | None = None

    @property
    def crowded(self) -> bool:
        """More systems than one plot can tell apart: they are told apart by family, and each family has its plot."""
        return len(self.series) > MOST_TOGETHER

    @property
    def families(self) -> dict[str, list[Series]]:
        """The systems of each family, in order."""
        families: dict[str, list[Series]] = {}
        for series in self.series:
            families.setdefault(series.family, []).append(series)
        return families
