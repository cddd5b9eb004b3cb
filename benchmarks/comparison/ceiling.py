"""The section on the limit: what SQLite and the disk allow, beside what pwserver makes of it."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.comparison.bench import DEEP, USUAL, Bench, points, wanted_of
from benchmarks.comparison.kept import REFERENCE
from benchmarks.limit import BATCHES, Limit
from benchmarks.results.progress import progress
from benchmarks.servers.service import Service

SECTION = "limit"
APPENDED = "syncs of a file that grows"
OVERWRITTEN = "syncs of a file overwritten in place"


def limit(bench: Bench) -> None:
    """Measure both in turn."""
    pace = bench.pace
    rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    syncs = []
    with ExitStack() as stack:
        subject = bench.subject(stack, Service(REFERENCE, bench.home()))
        bare = stack.enter_context(Limit(bench.home()))
        results = wanted_of([(subject, points(["save"], [USUAL, DEEP]))])
        now_at = stack.enter_context(progress(len(results) * pace.rounds))
        for _ in range(pace.rounds):
            syncs.append(bare.syncs(pace.seconds / 2))
            for batch in BATCHES:
                rates[batch].append(bare.measure(batch, pace.seconds / 2))
            bench.measure(results, 1, pace.seconds, now_at)
        bench.keep_loads(SECTION, results, pace.seconds)
    for batch, figures in rates.items():
        bench.keep(SECTION, rows(batch), "rows/s", figures)
    bench.keep(SECTION, APPENDED, "syncs/s", [each.appended for each in syncs])
    bench.keep(SECTION, OVERWRITTEN, "syncs/s", [each.overwritten for each in syncs])


def rows(batch: int) -> str:
    """Return what a batch size is called in what is kept."""
    return f"rows, {batch:,} a commit"
