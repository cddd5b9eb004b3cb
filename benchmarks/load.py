"""The load test: requests from several client processes, checked, timed and compared.

Run `python benchmarks/load.py` for the default grid, which takes a few minutes on a service of its
own in a temporary directory; `--help` lists the rest. These runs answer the usual questions:

    python benchmarks/load.py --against baseline        how much better than the plain way
    python benchmarks/load.py --against null            whether the generator is in the way
    python benchmarks/load.py --against redis           how it compares with another program
    python benchmarks/load.py --against TREE            whether it is as fast as another commit:
                                                        git worktree add TREE COMMIT
    python benchmarks/load.py --against token,tls       what a token costs, and what TLS does
    python benchmarks/load.py --against on-postgres,postgres
                                                        what a book on PostgreSQL costs, and what
                                                        clients get of the same PostgreSQL
    python benchmarks/load.py --loads save,named        what a name costs
    python benchmarks/load.py --loads count,get,verify,list --users 1000,1000000
                                                        what reading costs, and whether it is flat

The basic contract's loads are those of a guest, who has no token, and the book's those of an
application with a book of its own. The run fails, with exit code 1 and a sentence, if a reply is
not the one the contract gives, if a server goes silent, or if a save that was acknowledged is not
counted after.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from benchmarks.client.clients import Clients
from benchmarks.client.wire import BOOK_LOADS, TLS, TOKEN, BenchmarkFailed, points
from benchmarks.results import report
from benchmarks.results.campaign import Plan, Result, results_of, run
from benchmarks.results.machine import filesystem
from benchmarks.results.options import ON_POSTGRES, PREPARED_USERS, command_line
from benchmarks.results.progress import failures_said, messages, progress
from benchmarks.results.subjects import Subject
from benchmarks.servers import servers
from benchmarks.servers.contenders import STARTERS
from benchmarks.servers.service import (
    Service,
    ServiceOnPostgres,
    ServiceOverTls,
    ServiceWithToken,
    check_tree,
)

MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")
SERVICES: dict[str, type[Service]] = {
    TOKEN: ServiceWithToken,
    TLS: ServiceOverTls,
    ON_POSTGRES: ServiceOnPostgres,
}


def targets(options: argparse.Namespace, directory: Path) -> Iterator[tuple[servers.Target, int]]:
    """Start one server after another; yield each with the number of users it is to have."""
    processes = 1 + max(connections for connections, *_ in options.points)
    serve = ["--workers", str(options.workers)] if options.workers else []
    serve += options.serve
    for name, tree in {"pwserver": None, **options.against}.items():
        for users in options.users:
            home = directory / f"{name}-{users}"
            home.mkdir()
            if name == "baseline":
                yield servers.Baseline(home, processes, users), users
            elif name == "null":
                yield servers.start_null(home), users
            elif name in STARTERS:
                yield STARTERS[name](home, users), users
            elif name == "pwserver" and options.connect:
                yield servers.Running(options.connect, token_in(options.token_file)), users
            elif tree:
                check_tree(tree)
                yield Service(name, home, serve, tree=tree), users
            else:
                yield SERVICES.get(name, Service)(name, home, serve), users


def token_in(file: Path | None) -> str:
    """Return the token in a file, if there is one."""
    try:
        return "" if file is None else file.read_text().strip()
    except OSError as error:
        raise BenchmarkFailed(f"{file} cannot be read: {error.strerror}") from error


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
            subjects.append(Subject.prepare(target, users, options.loads, clients))
        wanted = points(options.loads, options.points)
        results = results_of([(subject, wanted) for subject in subjects])
        now_at = stack.enter_context(progress(len(results) * plan.rounds))
        run(plan, results, clients, now_at)
        return results, subjects


def run_and_report(options: argparse.Namespace) -> None:
    """Make the run that the command line asks for, then show and keep its results."""
    if options.plot:
        from benchmarks.results import plot  # noqa: PLC0415 - matplotlib is slow to load; but it should be missed now
    usage = options.connect is None  # the processes of a service that runs already are not known
    plan = Plan(options.seconds, options.warmup_seconds, options.rounds, usage=usage)
    with tempfile.TemporaryDirectory(prefix="pwserver-load-", dir=options.directory) as name:
        directory = Path(name).resolve()
        if filesystem(directory) in MEMORY_FILESYSTEMS:
            messages.print(f"warning: {directory} is in memory; saves reach no disk")
        results, subjects = measure(options, plan, directory)
        report.show(results, subjects)
        if options.json:
            report.write_json(options.json, plan, results, subjects, directory)
    if options.plot:
        plot.draw(options.plot, results, subjects)


def main() -> None:
    """Read the command line, run, and turn what went wrong into a sentence and an exit code."""
    parser = command_line(__doc__)
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
    if options.token_file and not options.connect:
        parser.error("--token-file is for --connect; a service of this run gets its own")
    with failures_said():
        run_and_report(options)


if __name__ == "__main__":
    main()
