"""Whether the service grows: its processes, descriptors and memory, looked at through a run.

A run that is long enough is cut in four, and the medians of the first and the last quarter are
compared. Memory is PSS, as `Usage` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from tests.support.processes import Usage
from tests.trials.restarted import RestartedService

LOG = "write-ahead log, MiB"
NAMES = ("processes", "descriptors", "memory, MiB", LOG)

SAMPLES_MIN = 40
"""So many there must be for a verdict."""

GROWTH_MAX = 1.25
"""Medians of quarters that are flat differ by less: how much is under way at a moment varies."""

MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """What the service takes at a moment, in the order of `NAMES`."""

    processes: int
    descriptors: int
    memory_mib: float
    log_mib: float

    @classmethod
    def of(cls, service: RestartedService) -> Sample:
        """Look at a service."""
        pids = service.processes()
        try:
            usage = Usage.of(pids)
        except PermissionError:  # only root is shown that
            usage = Usage(0, 0)
        log = Path(f"{service.database}-wal")
        log_bytes = log.stat().st_size if log.exists() else 0
        return cls(len(pids), usage.descriptors, usage.memory_bytes / MIB, log_bytes / MIB)


@dataclass(frozen=True)
class Growth:
    """How one figure went through a run."""

    name: str
    first: float
    last: float
    greatest: float
    samples: int

    @property
    def verdict(self) -> str:
        """Say whether it is flat; the log is that of many books, each from its beginning."""
        if self.name == LOG:
            return ""
        if self.samples < SAMPLES_MIN:
            return "too short a run to tell"
        return "flat" if self.last <= self.first * GROWTH_MAX else "grows"


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Return how each figure went."""
    quarter = max(len(samples) // 4, 1)
    found = []
    for name, values in zip(NAMES, zip(*map(astuple, samples), strict=True), strict=False):
        first, last = median(values[:quarter]), median(values[-quarter:])
        found.append(Growth(name, first, last, max(values), len(samples)))
    return found
