"""Compares the times of two kinds of questions that were asked in blocks, one of each kind.

What drifts (the processor's clock, other programs) is in both times of a block and drops out of
their difference. The differences have long tails of interruptions, in which a plain mean drowns. So
a trimmed mean sums them up (a fifth cut off at either end), with its standard error by Tukey and
McLaughlin (from the winsorized variance). It is in nanoseconds, unlike a test of ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean

CONFIDENCE = 0.99
TRIM = 0.2
"""Cut off at either end: Wilcox's advice for distributions with long tails (Introduction to Robust
Estimation and Hypothesis Testing, 3.3)."""


@dataclass(frozen=True)
class Comparison:
    """What the blocks say of a known name, here or elsewhere, and an unknown one; times in ns."""

    difference: float
    """How much longer the unknown name takes: the trimmed mean of the blocks' differences."""

    error: float
    """The half width of its confidence interval."""

    noise: float
    """The standard deviation of a block's difference, winsorized: what an attacker averages out."""

    known_slower: float
    """The share of blocks in which the known name was the slower one."""

    @classmethod
    def of(cls, known: list[int], unknown: list[int]) -> Comparison:
        """Compare the times of the blocks."""
        differences = [b - a for a, b in zip(known, unknown, strict=True)]
        slower = sum(each < 0 for each in differences) + sum(each == 0 for each in differences) / 2
        # With so many blocks Student's distribution is the normal one.
        quantile = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        mean, error = trimmed(differences)
        return cls(
            difference=mean,
            error=quantile * error,
            noise=winsorized_deviation(sorted(differences)),
            known_slower=slower / len(differences),
        )

    def verdict(self, bound: float) -> str:
        """Say whether the difference is within `bound`, beyond it, or unknown."""
        if abs(self.difference) + self.error <= bound:
            return "equal"
        return "different" if abs(self.difference) - self.error > bound else "undecided"

    @property
    def blocks_needed(self) -> int:
        """Return how many blocks an attacker must average to be right about a name 19 times in 20.

        Each is a question about that name and one about a name of which is known that nobody has
        it; half the difference must be 1.645 standard errors. The difference is taken to be the
        greatest that the interval allows, so there is no attacker who needs fewer.
        """
        greatest = abs(self.difference) + self.error
        return math.ceil((2 * NormalDist().inv_cdf(0.95) * self.noise / greatest) ** 2)


def trimmed(values: list[int]) -> tuple[float, float]:
    """Return the trimmed mean and its standard error."""
    ordered = sorted(values)
    cut = int(TRIM * len(ordered))
    mean = fmean(ordered[cut : len(ordered) - cut])
    return mean, winsorized_deviation(ordered) / ((1 - 2 * TRIM) * math.sqrt(len(ordered)))


def winsorized_deviation(ordered: list[int]) -> float:
    """Return the standard deviation, the ends replaced by what stands next to them."""
    cut = int(TRIM * len(ordered))
    middle = ordered[cut : len(ordered) - cut]
    whole = [middle[0]] * cut + middle + [middle[-1]] * cut
    mean = fmean(whole)
    return math.sqrt(fmean((value - mean) ** 2 for value in whole))
