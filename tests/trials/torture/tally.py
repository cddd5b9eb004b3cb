"""What a run has counted: faults, recoveries and findings; a line for each fault, and the summary.

Nothing here grows with the length of a run but the recovery times, eight bytes each.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from tests.trials.report import percentile, print_table
from tests.trials.torture.growth import SAMPLES_MIN, Sample, growth
from tests.trials.torture.inspection import KINDS
from tests.trials.torture.load import Counts, Source
from tests.trials.torture.promises import Promises


class Tally(Promises):
    """What has been counted so far."""

    def __init__(self, sources: Sequence[Source], console: Console) -> None:
        super().__init__(console)
        self.faults: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.kills = 0
        self.samples: list[Sample] = []
        self._recoveries: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._sources = sources

    def killed(self, what: str, signal_name: str) -> None:
        """Count a process that was killed, or all of them."""
        self.kills += 1
        self.signals[f"{what}, {signal_name}"] += 1

    def recovered(self, after: str, seconds: float) -> None:
        """Keep the time from a fault to the first reply."""
        self._recoveries[after].append(seconds)

    @property
    def counts(self) -> Counts:
        """What all sources together have seen."""
        each = [source.counts for source in self._sources]
        return Counts(
            sum(one.saved for one in each),
            sum(one.refused for one in each),
            sum(one.unknown for one in each),
            sum(one.read for one in each),
        )

    def line(self, kind: str, text: str, open_now: int) -> None:
        """Count a fault, and print its line."""
        self.faults[kind] += 1
        self._console.print(
            f"{self.seconds:8.1f} s  {text:<62} {self.faults.total():>6,} faults, "
            f"{self.kills:,} kills, {self.counts.saved:,} saved, lost {self.found['lost']}, "
            f"unknown {open_now}"
        )

    def say(self, text: str) -> None:
        """Print a line that is of no fault."""
        self._console.print(f"{self.seconds:8.1f} s  {text}")

    # --- The summary. ---

    @property
    def whole(self) -> bool:
        """Whether every promise was kept."""
        return super().whole and not self.growing

    @property
    def growing(self) -> list[str]:
        """What the service takes more and more of."""
        return [each.name for each in growth(self.samples) if each.verdict == "grows"]

    def summarize(self) -> None:
        """Print everything."""
        counts, found = self.counts, self.found
        show = partial(print_table, console=self._console)
        self._console.print()
        show(
            "Faults",
            ("what", "times"),
            [(kind, f"{number:,}") for kind, number in self.faults.most_common()],
        )
        show(
            "Kills",
            ("what, and how", "times"),
            [(kind, f"{number:,}") for kind, number in sorted(self.signals.items())],
        )
        show(
            "Seconds to the next reply",
            ("after", "times", "p50", "p99", "worst"),
            [_percentiles(after, times) for after, times in sorted(self._recoveries.items())],
        )
        show(
            f"What the service takes ({len(self.samples)} samples, {SAMPLES_MIN} needed)",
            ("what", "first quarter", "last quarter", "greatest", ""),
            [
                (
                    each.name,
                    *(f"{n:,.1f}" for n in (each.first, each.last, each.greatest)),
                    each.verdict,
                )
                for each in growth(self.samples)
            ],
        )
        self._console.print(
            f"{self.kills:,} kills, {self.faults.total():,} faults in {self.seconds:,.0f} s; "
            f"{counts.saved:,} changes acknowledged, {counts.refused:,} refused, "
            f"{counts.unknown:,} left open, {counts.read:,} answers read; "
            f"looked at the book {self.looks:,} times"
        )
        self._console.print(", ".join(f"{kind} {found[kind]}" for kind in KINDS))
        for text in self.broken:
            self._console.print(f"BROKEN  {text}")


def _percentiles(after: str, times: array[float]) -> tuple[str, ...]:
    shown = (percentile(times, part) for part in (0.5, 0.99, 1.0))
    return after, f"{len(times):,}", *(f"{seconds:.3f}" for seconds in shown)
