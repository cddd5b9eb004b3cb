"""What every long trial counts: looks at the book, what they found, and broken promises."""

import time
from collections import Counter

from rich.console import Console

from tests.trials.torture.inspection import Findings

SHOWN_MAX = 20
"""Broken promises that are said in words; all are counted."""


class Promises:
    """What looks at the book have found, and the promises that were broken."""

    def __init__(self, console: Console) -> None:
        self.looks = 0
        self.found: Counter[str] = Counter()
        self.broken: list[str] = []
        self.broken_count = 0
        self._console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has gone on."""
        return time.monotonic() - self._began

    @property
    def whole(self) -> bool:
        """Whether every promise was kept."""
        return not (self.broken_count or self.found.total())

    def looked(self, findings: Findings) -> None:
        """Count what was wrong with the book."""
        self.looks += 1
        self.found += findings.count
        for text in findings.texts:
            self.breach(text)

    def breach(self, text: str) -> None:
        """Count a broken promise, and say which."""
        self.broken_count += 1
        if len(self.broken) < SHOWN_MAX:
            self.broken.append(text)
        self._console.print(f"BROKEN  {text}")
