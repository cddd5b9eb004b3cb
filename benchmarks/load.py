"""The load test: requests from several client processes, checked, timed and compared.

Run `python benchmarks/load.py` for the default grid, which takes a few minutes on a service of its
own in a temporary directory; `--help` lists the rest. These runs answer the usual questions:

    python benchmarks/load.py --against baseline        how much better than the plain way
    python benchmarks/load.py --against null            whether the generator is in the way
    python benchmarks/load.py --against TREE            whether it is as fast as another commit:
                                                        git worktree add TREE COMMIT
    python benchmarks/load.py --loads save,named        what a name costs
    python benchmarks/load.py --loads count,get,verify,list --users 1000,1000000
                                                        what reading costs, and whether it is flat

This file is the command line and the order of a run. `campaign.py` decides what is measured when,
`clients.py` and `generator.py` make the load that `scripts.py` and `book.py` write, `replies.py`
checks it, `servers.py` runs what is measured and `subjects.py` keeps the account of it; `ratios.py`
compares, and `report.py` and `plot.py` show it. The run fails, with exit code 1 and a sentence, if
a reply is not the one the contract gives, if a server goes silent, or if a save that was
acknowledged is not counted after.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import report
import servers
from campaign import Plan, Result, run
from clients import Clients
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from subjects import Subject
from wire import BOOK_LOADS, LOADS, Address, BenchmarkFailed

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
OWN_RIVALS = ("baseline", "null")
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")
PREPARED_USERS = 1000

messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def words(*allowed: str) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated words out of `allowed`."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [word for word in found if word not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(allowed)}")
        return list(dict.fromkeys(found))

    return read


def address(text: str) -> Address:
    """Read `HOST:PORT`."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """Read a whole number from 1 up."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return int(text)


def duration(text: str) -> float:
    """Read a number of seconds above 0."""
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


def sizes(text: str) -> list[tuple[int, int]]:
    """Read `8,8x64` as 8 connections with 1 request in flight and 8 connections with 64 each."""
    found = []
    for size in text.split(","):
        connections, _, depth = size.partition("x")
        found.append((positive(connections), positive(depth or "1")))
    return list(dict.fromkeys(found))


def levels(text: str) -> list[int]:
    """Read comma-separated numbers of users."""
    if not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected numbers of users, got {text!r}")
    return list(dict.fromkeys(int(number) for number in text.split(",")))


def rivals(text: str) -> dict[str, Path | None]:
    """Read what else to measure: our own words, or source trees, by the name each goes by."""
    found: dict[str, Path | None] = {}
    for word in text.split(","):
        tree = None if word in OWN_RIVALS else Path(word).resolve()
        if tree and not (tree / "pwserver").is_dir():
            raise argparse.ArgumentTypeError(
                f"{word!r} is neither {' nor '.join(OWN_RIVALS)} nor a folder with pwserver in it"
            )
        name = tree.name if tree else word
        if name in ("pwserver", *found):
            raise argparse.ArgumentTypeError(f"two servers would be called {name!r}")
        found[name] = tree
    return found


def picture(text: str) -> Path:
    """Read the name of a file that a plot can be written to."""
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"expected FILE.png or FILE.svg, got {text!r}")
    return Path(text)


def command_line() -> argparse.ArgumentParser:
    """Describe the options; with the defaults alone a run takes a few minutes."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--connect",
        type=address,
        metavar="HOST:PORT",
        help="measure a service that runs already; nobody else may save there meanwhile, or the "
        "check of the number of users fails",
    )
    add(
        "--loads",
        type=words(*LOADS),
        metavar="LOAD,...",
        default="save,count,mixed",
        help="save, count; mixed, which is nine saves and a count in turn on each connection; on "
        "users drawn from all: named (a save of a user that is there), get, verify, list (a "
        "prefix that 50 users have); new, a save under a new name (default: %(default)s)",
    )
    add(
        "--points",
        type=sizes,
        default="1,8,64,256,8x64",
        metavar="N[xDEPTH],...",
        help="connections, with DEPTH requests in flight on each, 1 unless said; a list and not a "
        "grid, because deep pipelines on many connections say little new (default: %(default)s)",
    )
    add(
        "--users",
        type=levels,
        metavar="N[,N...]",
        help="save so many users first, on a server for each number; with names, if a load needs "
        f"names (default: {PREPARED_USERS} where a load works on users that are there, else 0)",
    )
    add(
        "--against",
        type=rivals,
        default={},
        metavar="baseline,null,TREE",
        help="measure baseline_pool.py, a server that answers constants, or the service of another "
        "source tree, such as a git worktree of an older commit, in the same run; each for the "
        "loads it knows; the baseline takes minutes to save a million users first",
    )
    add("--seconds", type=duration, default=2.0, help="measured time (default: %(default)s)")
    add("--warmup-seconds", type=duration, default=0.5, help="before it (default: %(default)s)")
    add("--rounds", type=positive, default=3, help="medians are of these (default: %(default)s)")
    add("--clients", type=positive, default=2, help="client processes (default: %(default)s)")
    add("--workers", type=positive, help="workers of the service (default: its own default)")
    add(
        "--serve",
        type=shlex.split,
        default=[],
        metavar="'OPTIONS'",
        help="more options for the service, such as '--list-users none'",
    )
    add(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the temporary databases go: on the disk to be measured (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="keep every round as JSON")
    add("--plot", type=picture, metavar="FILE.png|.svg", help="draw the results (matplotlib)")
    return parser


def targets(options: argparse.Namespace, directory: Path) -> Iterator[tuple[servers.Target, int]]:
    """Start one server after another; yield each with the number of users it is to have."""
    processes = 1 + max(connections for connections, _ in options.points)
    serve = ["--workers", str(options.workers)] if options.workers else []
    serve += options.serve
    for name, tree in {"pwserver": servers.PROJECT, **options.against}.items():
        for users in options.users:
            home = directory / f"{name}-{users}"
            home.mkdir()
            if name == "baseline":
                yield servers.start_baseline(home, processes), users
            elif name == "null":
                yield servers.start_null(home), users
            elif name == "pwserver" and options.connect:
                yield servers.Running(options.connect), users
            else:
                yield servers.start_pwserver(home, serve, name, tree), users


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show how far the run is; drawn between measurements only, so that it costs them nothing."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=messages, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        finished = itertools.count()

        def now_at(what: str) -> None:
            bar.update(task, completed=next(finished), description=what, refresh=True)

        yield now_at


def measure(
    options: argparse.Namespace, plan: Plan, directory: Path
) -> tuple[list[Result], list[Subject]]:
    """Start everything, measure, check, and stop everything, whatever happens."""
    with ExitStack() as stack:
        clients = stack.enter_context(Clients(options.clients))
        subjects = []
        for target, users in targets(options, directory):
            stack.enter_context(target)
            messages.print(target.banner + (f"; saving {users:,} users first" if users else ""))
            subjects.append(Subject.prepare(target, users, plan.loads, clients))
        results = plan.results(subjects)
        now_at = stack.enter_context(progress(len(results) * plan.rounds))
        run(plan, results, clients, now_at)
        return results, subjects


def run_and_report(options: argparse.Namespace) -> None:
    """Make the run that the command line asks for, then show and keep its results."""
    if options.plot:
        import plot  # noqa: PLC0415 - matplotlib is slow to load; but it should be missed now
    plan = Plan(
        options.loads, options.points, options.seconds, options.warmup_seconds, options.rounds
    )
    with tempfile.TemporaryDirectory(prefix="pwserver-load-", dir=options.directory) as name:
        directory = Path(name).resolve()
        if report.filesystem(directory) in MEMORY_FILESYSTEMS:
            messages.print(f"warning: {directory} is in memory; saves reach no disk")
        results, subjects = measure(options, plan, directory)
        report.show(results, subjects)
        if options.json:
            report.write_json(options.json, plan, results, subjects, directory)
    if options.plot:
        plot.draw(options.plot, results, subjects)


def main() -> None:
    """Read the command line, run, and turn what went wrong into a sentence and an exit code."""
    parser = command_line()
    options = parser.parse_args()
    on_users = {*options.loads} & {*BOOK_LOADS} - {"new"}
    if options.users is None:
        options.users = [PREPARED_USERS if on_users else 0]
    if on_users and 0 in options.users:
        parser.error(f"{', '.join(sorted(on_users))}: needs users, so --users must be above 0")
    if options.connect and len(options.users) > 1:
        parser.error("--connect measures one service, so --users takes one number with it")
    if options.connect and (options.workers or options.serve):
        parser.error("--workers and --serve are for a service that this run starts")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_and_report(options)
    except BenchmarkFailed as failure:
        messages.print(f"failed: {failure}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        messages.print("interrupted; the servers are stopped and their files removed")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
