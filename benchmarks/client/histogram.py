"""Counts latencies in a fixed number of buckets whose width grows with the latency.

A list of latencies would grow with the speed of the server under test, and with it what the
generator costs; buckets cost the same at any speed, and those of several processes add up. The
buckets are those of HdrHistogram (hdrhistogram.org): a value is kept to its highest
`PRECISION_BITS + 1` bits, so what is read back is at most 1/128, or 0.8 %, above what was recorded.
The worst value is kept exactly. `generator.py` has `bucket_of` inline in its loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

PRECISION_BITS = 7
"""Each doubling of the latency is cut into 2**7 buckets."""

LATENCY_NS_BITS = 42
"""Latencies up to 2**42 ns, 73 minutes: far past every deadline of a run."""

BUCKETS = (LATENCY_NS_BITS - PRECISION_BITS + 1) << PRECISION_BITS


def bucket_of(latency_ns: int) -> int:
    """Return the bucket that counts `latency_ns`."""
    shift = (latency_ns | 1 << PRECISION_BITS).bit_length() - PRECISION_BITS - 1
    return (shift << PRECISION_BITS) + (latency_ns >> shift)


def highest_in(bucket: int) -> int:
    """Return the highest latency, in nanoseconds, that `bucket` counts."""
    shift = max((bucket >> PRECISION_BITS) - 1, 0)
    return ((bucket - (shift << PRECISION_BITS) + 1) << shift) - 1


@dataclass(slots=True)
class Histogram:
    """How often each bucket was hit, sparsely (`bucket: hits`), and the worst latency exactly."""

    hits: dict[int, int] = field(default_factory=dict)
    worst_ns: int = 0

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """Add up what several processes, or several rounds, recorded."""
        total = cls()
        for part in parts:
            total.worst_ns = max(total.worst_ns, part.worst_ns)
            for bucket, hits in part.hits.items():
                total.hits[bucket] = total.hits.get(bucket, 0) + hits
        return total

    def percentile_ns(self, percent: float) -> int:
        """Return the latency that `percent` of the requests did not exceed (nearest rank)."""
        rank = math.ceil(sum(self.hits.values()) * percent / 100)
        for bucket in sorted(self.hits):
            rank -= self.hits[bucket]
            if rank <= 0:
                return min(highest_in(bucket), self.worst_ns)
        return self.worst_ns
