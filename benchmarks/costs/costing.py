"""How a cost is measured: the parts of `costs.py` have this in common."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Cost = tuple[str, float]
"""What was measured, and what it takes in microseconds."""

REPETITIONS = 7


def per_call(call: Callable[[], object], calls: int, units: int = 1) -> float:
    """Return what one of `units` in a call takes, in microseconds: the median of repetitions."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls / units)
    return statistics.median(times) * 1e6
