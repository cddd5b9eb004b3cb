"""Whether what was acknowledged is there after a power loss, at whatever moment it comes.

    python -m tests.trials.powerloss --images 100000

Records a real service under strace while clients use it: every write, sync, truncation and change
of a name, and the moment each reply leaves. From that it rebuilds the folder as it could be found
after a power loss between any two of these events, what was not synced kept, dropped, out of order
or torn (`disk.py` says what a disk may do, `images.py` how images are chosen), and
opens each as the service does at its start. Every save that was acknowledged by then must be there
and open with the key, every other one be whole or absent, and nothing be there that nobody sent.

With `--synchronous-off` the service that is recorded does not sync, and losses must be found: a run
that finds none fails. The seed of a run is printed. What clients ask and which images are chosen
follows from it; when the processes of the service are let run does not.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import secrets
import time
from pathlib import Path
from random import Random

from benchmarks.results.options import add_directory, positive, words
from benchmarks.results.progress import progress
from tests.trials import report
from tests.trials.powerloss.disk import Names
from tests.trials.powerloss.opening import Audit
from tests.trials.powerloss.promises import Kind
from tests.trials.powerloss.scenarios import SCENARIOS, record
from tests.trials.powerloss.traced import SERVICE, UNSYNCED
from tests.trials.powerloss.trial import PARTS, Tally, Trial, run
from tests.trials.report import TrialFailed


def try_all(options: argparse.Namespace) -> Tally:
    """Record and try all scenarios, printing a line for each; return what came of all."""
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    total = Tally()
    with progress(len(scenarios) * PARTS) as now_at:
        for at, scenario in enumerate(scenarios):
            began = time.monotonic()
            images = math.ceil((options.images - total.images) / (len(scenarios) - at))
            random = Random(f"{options.seed} {scenario.name}")
            program = UNSYNCED if options.synchronous_off else SERVICE
            recorded = record(scenario, random, options.directory, program)
            trial = Trial.of(recorded, images, options.names, options.seed, options.keep)
            tally = run(trial, options.processes, functools.partial(now_at, scenario.name))
            print(
                f"{scenario.name:<10} {len(recorded.record.events):>6,} events, "
                f"{trial.promises.acknowledged:>5,} changes acknowledged, {summary(tally)}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            for text in tally.shown:
                print(f"    {text}")
            total.add(tally)
    return total


def summary(tally: Tally) -> str:
    """Return what came of images, in one line."""
    broken = ", ".join(f"{kind} {tally.broken[kind]:,}" for kind in Kind)
    return f"{tally.images:,} images of {tally.moments:,} moments, {broken}"


def show(total: Tally, seconds: float) -> None:
    """Print what came of all scenarios."""
    print(f"{'all':<10} {summary(total)}, {seconds:.0f} s; {total.opened:,} folders were opened")
    found = ", ".join(f"{said} {total.audit[said]:,}" for said in Audit)
    print(f"audit records, which are not synced: {found}")


def verdict(total: Tally, *, must_lose: bool) -> None:
    """Raise where the run found what it must not find, or did not find what it must."""
    if must_lose:
        if not total.broken[Kind.LOST]:
            raise TrialFailed("a service that does not sync lost nothing: nothing was tried")
    elif total.broken:
        raise TrialFailed("promises were broken")


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("powerloss", __doc__)
    names = [scenario.name for scenario in SCENARIOS]
    add = parser.add_argument
    add("--images", type=positive, default=10_000, help="in all scenarios (default: %(default)s)")
    add(
        "--seed",
        default=secrets.token_hex(4),
        help="of what is asked and chosen (default: a new one)",
    )
    add(
        "--scenarios",
        type=words(*names),
        default=names,
        metavar="SCENARIO,...",
        help=f"what is recorded: {', '.join(names)} (default: all)",
    )
    add(
        "--names",
        type=Names,
        choices=list(Names),
        default=Names.POSIX,
        help="when a changed name is certain: once the folder was synced (posix), or with the next "
        "sync of any file, and in order (journalled) (default: %(default)s)",
    )
    add(
        "--synchronous-off",
        action="store_true",
        help="record a service that does not sync; fails if nothing is lost",
    )
    add("--keep", type=Path, metavar="FOLDER", help="keep images in which something is broken")
    add(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        help="that open images (default: one for each processor)",
    )
    add_directory(parser, "where the recorded service has its files")
    return parser


def main() -> None:
    """Record, try and print, or say why not."""
    options = command_line().parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    success = "losses were found, as they must be" if options.synchronous_off else report.KEPT
    with report.verdict(success):
        total = try_all(options)
        show(total, time.monotonic() - began)
        verdict(total, must_lose=options.synchronous_off)


if __name__ == "__main__":
    main()
