"""The comparison: pwserver against what else one could take, at the same durability, in one run.

    python benchmarks/compare.py --json run.json --html run.html --results benchmarks/RESULTS.md

starts every contender that is installed, puts the same loads on them in turn, and takes about half
an hour; `--quick` takes five minutes, to see that everything works. What is not installed is named
and left out. Run `--sections throughput,once` for some of the sections, and `--from run.json` to
show a kept run again.

The figures are kept after each section, so that a late failure loses only its own section.

The run fails, with exit code 1 and a sentence, as the load test does: if a reply is wrong, a server
goes silent, or a save that was acknowledged is not counted after.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from benchmarks.client.clients import Clients
from benchmarks.client.wire import BenchmarkFailed
from benchmarks.comparison import kept, report
from benchmarks.comparison.alone import book, growth, idle, limit, start, steady
from benchmarks.comparison.bench import QUICK, Bench, Pace
from benchmarks.comparison.chapters import chapters
from benchmarks.comparison.contests import million, once, throughput, workers
from benchmarks.results import machine, terminal
from benchmarks.results.options import above_zero, add_directory, described, positive, words
from benchmarks.results.progress import failures_said, messages
from benchmarks.servers import contenders

SECTIONS = {
    "throughput": throughput,
    "once": once,
    "million": million,
    "book": book,
    "growth": growth,
    "workers": workers,
    "idle": idle,
    "steady": steady,
    "start": start,
    "limit": limit,
}


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add(
        "--sections",
        type=words(*SECTIONS),
        default=list(SECTIONS),
        metavar="SECTION,...",
        help=f"out of {', '.join(SECTIONS)} (default: all)",
    )
    add("--quick", action="store_true", help="everything in five minutes, to see that it works")
    add("--rounds", type=positive, help=f"medians are of these (default: {Pace.rounds})")
    add("--seconds", type=above_zero, help=f"measured time of each (default: {Pace.seconds})")
    add("--clients", type=positive, default=2, help="client processes (default: %(default)s)")
    add_directory(parser)
    add("--from", type=Path, metavar="FILE.json", help="show a kept run again; measure nothing")
    add("--json", type=Path, metavar="FILE", help="keep every round, after each section")
    add("--html", type=Path, metavar="FILE", help="write a page with charts (matplotlib)")
    add("--results", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser


def measure(options: argparse.Namespace, folder: Path) -> kept.Kept:
    """Measure the chosen sections, one after the other; keep each when it is done."""
    began_s = time.monotonic()
    run = kept.Kept(
        command=shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        began=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=machine.machine(folder),
        missing=contenders.missing(),
        quick=options.quick,
    )
    for name, why in run.missing.items():
        messages.print(f"left out: {name}: {why}")
    with Clients(options.clients) as clients:
        bench = Bench(clients, folder, pace(options), run)
        for section in options.sections:
            messages.print(f"{section}:")
            SECTIONS[section](bench)
            run.sections.append(section)
            run.took_s = time.monotonic() - began_s
            messages.print(f"  done after {run.took_s / 60:.1f} minutes")
            if options.json:
                run.write(options.json)
    return run


def pace(options: argparse.Namespace) -> Pace:
    """Return how much is measured."""
    chosen = QUICK if options.quick else Pace()
    return replace(
        chosen,
        rounds=options.rounds or chosen.rounds,
        seconds=options.seconds or chosen.seconds,
    )


def run_and_report(options: argparse.Namespace) -> None:
    """Make the run that the command line asks for, or read one, and show it."""
    if options.html:
        from benchmarks.comparison import page  # noqa: PLC0415 - matplotlib is slow to load; but it should be missed now
    if kept_in := getattr(options, "from"):
        run = kept.read(kept_in)
    else:
        with tempfile.TemporaryDirectory(prefix="pwserver-compare-", dir=options.directory) as name:
            run = measure(options, Path(name).resolve())
    terminal.show(chapters(run))
    if options.html:
        page.write(options.html, run)
    if options.results:
        report.write(options.results, run)


def main() -> None:
    """Read the command line, run, and turn what went wrong into a sentence and an exit code."""
    options = command_line().parse_args()
    with failures_said():
        try:
            run_and_report(options)
        except BenchmarkFailed:
            if options.json and options.json.exists():
                messages.print(f"the sections before are in {options.json}; show them with --from")
            raise


if __name__ == "__main__":
    main()
