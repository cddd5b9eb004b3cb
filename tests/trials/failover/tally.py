"""What a run has counted: a line for each fault, what was broken, and the summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console

from tests.trials.failover.watch import NOT_SAVED, OPEN, SAVED
from tests.trials.report import print_table
from tests.trials.torture.inspection import KINDS
from tests.trials.torture.promises import SHOWN_MAX, Promises


@dataclass
class Measured:
    """What faults of one kind have cost: seconds, and how changes were answered meanwhile.

    pauses_s    the longest pause between acknowledgements of each host
    resumed_s   from when saves could be acknowledged to the first of each host
    longest_s   the longest call of a client
    """

    times: int = 0
    pauses_s: list[float] = field(default_factory=list)
    resumed_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class Tally(Promises):
    """What has been counted so far."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.reasons: Counter[str] = Counter()
        self.acknowledged = 0
        self.measured: dict[str, Measured] = defaultdict(Measured)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(f"{self.seconds:7.1f} s  {text}")

    def line(self, kind: str, text: str, measured: Measured) -> None:
        """Count a fault, and print its line."""
        total = self.measured[kind]
        total.times += 1
        total.pauses_s += measured.pauses_s
        total.resumed_s += measured.resumed_s
        total.longest_s = max(total.longest_s, measured.longest_s)
        total.outcomes += measured.outcomes
        self.acknowledged += measured.outcomes[SAVED]
        self.say(
            f"{text}; first saves {_seconds(measured.resumed_s)} later, "
            f"pauses {_seconds(measured.pauses_s)}, longest call {measured.longest_s:.1f} s; "
            f"lost {self.found['lost']} of {self.acknowledged:,}"
        )

    def summarize(self) -> None:
        """Print everything."""
        rows = [
            (
                kind,
                f"{each.times}",
                *_two(each.pauses_s),
                *_two(each.resumed_s),
                f"{each.longest_s:.1f}",
                *(f"{each.outcomes[outcome]:,}" for outcome in (SAVED, NOT_SAVED, OPEN)),
            )
            for kind, each in self.measured.items()
        ]
        headings = [
            "fault",
            "times",
            "pause of\na host, s",
            "worst",
            "first save\nafter, s",
            "worst",
        ]
        answered = ["longest\ncall, s", "saved", "not\nsaved", "open"]
        self._console.print()
        print_table(
            "What hosts and clients noticed (medians)", headings + answered, rows, self._console
        )
        answers = [(why, f"{times:,}") for why, times in self.reasons.most_common(SHOWN_MAX)]
        print_table(
            "Changes that were not acknowledged", ["answer", "times"], answers, self._console
        )
        self._console.print(
            f"{self.acknowledged:,} changes acknowledged in {self.seconds:,.0f} s; "
            f"looked at the book {self.looks} times; "
            + ", ".join(f"{kind} {self.found[kind]}" for kind in KINDS)
        )
        for text in self.broken:
            self._console.print(f"BROKEN  {text}")


def _two(seconds: list[float]) -> tuple[str, str]:
    if not seconds:
        return "", ""
    return f"{median(seconds):.2f}", f"{max(seconds):.2f}"


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in values) + " s" if values else "none"
