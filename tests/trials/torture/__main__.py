"""Tortures the service: applications at work, while it is killed, stopped, starved and rearranged.

    python -m tests.trials.torture --minutes 10 --seed 1

A service of its own, with several applications at work in it. Several times a second something is
done to it, drawn by the seed: workers, the checker, the console, the listener, the fork server or
all at once are killed or stopped; the disk fills and empties; the database is removed,
backed up and restored; keys and tokens are rotated, and a rotation is killed. A model of what was
acknowledged is held against the book after every restart of the whole service, and at the end
against all of it.

Prints a line a fault. Fails, with exit code 1, on any broken promise: a save that was acknowledged
and is not there; a row that does not open; a user or a version that nobody saved, or not so; a
wrong number of users; an answer that takes longer than a second; a password, token or key in the
clear in anything that was written; or growth. The seed repeats the order of the faults; the load is
threads, and which requests a fault meets is chance. To fill the disk the right to mount is needed;
without it that fault is left out, and said to be.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.results.options import above_zero, add_directory, words
from benchmarks.results.terminal import terminal
from tests.trials import report
from tests.trials.report import verdict
from tests.trials.restarted import RestartedService
from tests.trials.torture.faults import FAULTS, FaultInjector
from tests.trials.torture.trial import Plan, Trial

FILL = "fill"
DISK_BYTES = 512 << 20
"""Room for an hour's book and record, and still filled in a moment."""

LISTED = "20"
"""Users that the console lists, of books that are counted all the time."""


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("torture", __doc__)
    add = parser.add_argument
    add("--minutes", type=above_zero, default=1.0, help="how long (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the order of faults (default: %(default)s)")
    add(
        "--every",
        type=above_zero,
        default=0.2,
        metavar="SECONDS",
        help="between a recovery and the next fault, about (default: %(default)s)",
    )
    add(
        "--faults",
        type=words(*FAULTS),
        default=",".join(FAULTS),
        metavar="FAULT,...",
        help="which (default: all, %(default)s); without `fill` the files are on the disk of "
        "--directory, else on one in memory that is made for them",
    )
    add(
        "--within",
        type=above_zero,
        default=1.0,
        metavar="SECONDS",
        help="how soon it is to answer again (default: %(default)s)",
    )
    add(
        "--saves",
        type=above_zero,
        default=400.0,
        metavar="N",
        help="a second, about, of all sources together (default: %(default)s)",
    )
    add(
        "--hang",
        type=above_zero,
        default=1.0,
        metavar="SECONDS",
        help="the service's own --hang-timeout-s (default: %(default)s)",
    )
    add_directory(parser, "where the service's files go")
    return parser


def run(options: argparse.Namespace) -> bool:
    """Torture a service; return whether it kept every promise."""
    console = terminal()
    plan = Plan(
        seed=options.seed,
        seconds=options.minutes * 60,
        every_s=options.every,
        within_s=options.within,
        saves_per_s=options.saves,
        hang_s=options.hang,
    )
    chosen = list(options.faults)
    with tempfile.TemporaryDirectory(prefix="pwserver-torture-", dir=options.directory) as home:
        serve = ["--hang-timeout-s", str(plan.hang_s), "--list-users", LISTED]
        service = RestartedService(Path(home), serve, DISK_BYTES if FILL in chosen else 0)
        if FILL in chosen and not service.mounted:
            console.print("the disk is not filled: no file system may be mounted here")
            chosen.remove(FILL)
        console.print(f"seed {plan.seed}, {', '.join(chosen)}")
        trial = Trial(plan, service, console)
        try:
            trial.run(FaultInjector(chosen))
        finally:
            service.clear()
        trial.tally.summarize()
        return trial.tally.whole


def main() -> None:
    """Torture, and say what came of it with the exit code."""
    options = command_line().parse_args()
    with verdict():
        if not run(options):
            raise report.TrialFailed("promises were broken")


if __name__ == "__main__":
    main()
