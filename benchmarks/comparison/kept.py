"""What a run of the comparison keeps: the figures of every round, and where they were taken.

All tables, charts and texts are made from it, so that a run can be shown again without measuring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.client.wire import LOADS, BenchmarkFailed, Point
from benchmarks.results.campaign import Measurement, Result, Round
from benchmarks.results.spread import Spread

REFERENCE = "pwserver"
"""Who is held against the others: every ratio is its figure divided by theirs."""


@dataclass(frozen=True)
class Measured(Measurement):
    """A load that was put on a contender, round by round."""

    section: str
    contender: str
    users: int
    """How many it had at first."""

    point: Point
    seconds: float
    """How long each round was measured."""

    rounds: list[Round]

    @classmethod
    def of(cls, section: str, result: Result, seconds: float) -> Measured:
        """Keep what came out of a measurement."""
        subject = result.subject
        return cls(
            section, subject.target.name, subject.users, result.point, seconds, result.rounds
        )


@dataclass(frozen=True)
class Figure:
    """A figure that is no load: how long a start takes, how large a file is."""

    section: str
    contender: str
    name: str
    unit: str
    values: list[float]

    @property
    def spread(self) -> Spread:
        """The figure, as often as it was taken."""
        return Spread(tuple(self.values))


@dataclass
class Kept:
    """A run: what was measured so far, with what, and on which machine."""

    command: str
    began: str
    """When, as ISO 8601 in UTC."""

    machine: dict[str, str]
    missing: dict[str, str]
    """Contenders that were left out, and why."""

    quick: bool
    """Whether it was made only to see that everything works."""

    took_s: float = 0.0
    sections: list[str] = field(default_factory=list)
    """Those that were finished."""

    measured: list[Measured] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def of(self, section: str) -> list[Measured]:
        """Return what was measured in a section, load by load."""
        found = [each for each in self.measured if each.section == section]
        return sorted(found, key=lambda each: LOADS.index(each.point.load))  # else as it was

    def find(
        self, section: str, contender: str, point: Point, users: int | None = None
    ) -> Measured | None:
        """Return a load of a section, if it was measured."""
        for each in self.of(section):
            same = (each.contender, each.point) == (contender, point)
            if same and users in (None, each.users):
                return each
        return None

    def compared(self, section: str, point: Point, *whom: tuple[str, int | None]) -> Spread | None:
        """Return how many requests one contender, with users, did for each one of another."""
        this, that = (self.find(section, name, point, users) for name, users in whom)
        return this.against(that) if this and that else None

    def ratio(
        self, section: str, point: Point, rival: str, users: int | None = None
    ) -> Spread | None:
        """Return how many requests pwserver did for each one that a rival did."""
        return self.compared(section, point, (REFERENCE, users), (rival, users))

    def figure(self, section: str, name: str, contender: str = REFERENCE) -> Spread | None:
        """Return a single figure of a section, if it was taken."""
        for each in self.figures:
            if (each.section, each.contender, each.name) == (section, contender, name):
                return each.spread
        return None

    def write(self, path: Path) -> None:
        """Write all of it as JSON, in place of what was there."""
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        unfinished.rename(path)


def read(path: Path) -> Kept:
    """Return the run that a file holds."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except OSError as error:
        raise BenchmarkFailed(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BenchmarkFailed(f"{path} is not the JSON of a comparison: {error}") from error
