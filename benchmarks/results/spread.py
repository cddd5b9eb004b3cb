"""A figure as several rounds gave it: its median and its range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The values of the rounds, one or more, in the order in which they were measured."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of some values, or None where there are none."""
        found = tuple(values)
        return cls(found) if found else None

    def over(self, unit: float) -> Spread:
        """Return the same in a larger unit, which is so much."""
        return Spread(tuple(value / unit for value in self.values))

    @property
    def median(self) -> float:
        """The value that as many rounds lie above as below."""
        return median(self.values)

    @property
    def lowest(self) -> float:
        """The least of the rounds."""
        return min(self.values)

    @property
    def highest(self) -> float:
        """The greatest of the rounds."""
        return max(self.values)

    @property
    def shown(self) -> tuple[float, float, float]:
        """The median, the least and the greatest, as tables have them."""
        return self.median, self.lowest, self.highest
