"""Fails a cluster over, again and again, under hosts of the service that save all the while.

    python -m tests.trials.failover --kills 5 --seed 1

Brings up three members of etcd, three nodes of Patroni and PostgreSQL with quorum commit, and three
hosts of the service: two name all nodes, for one a HAProxy finds the primary. Guests and
applications save, read and count through the client library with its default settings. Meanwhile,
in an order that the seed gives, each of these happens `--kills` times:

postgres      the primary's PostgreSQL is killed
machine       the primary's PostgreSQL and Patroni are killed, and start again after the failover
freeze        both are stopped, and go on after the failover
switchover    the primary hands over to another node
cancel        statements of hosts are cancelled, and their backends terminated, at random
unreplicated  waits for frozen standbys are cancelled, then the primary is killed: commits are lost
etcd          one member of etcd is killed, or all for some seconds: nobody notices
isolated      all etcd are killed and a standby is frozen, until the primary gives up its place
cut           any host is cut off from the database for some seconds
restart       all hosts are restarted in turn

After each, and at the end, the database is held against what was acknowledged. Fails, with exit
code 1, on any broken promise: a save that was acknowledged and is not there, or is there twice; a
version of a name that was lost; a request id that was answered in two ways; a host that counts
other users than there are; a call that hangs; or a host that acknowledges its first save later than
`--within` after the new primary's first commit (behind HAProxy a second more, in which that looks).

Needs Debian's `etcd-server` and `haproxy`, and what `pip install '.[test,failover]'`
installs; what is missing is said. As root, the cluster runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import argparse
import random

from benchmarks.results.options import above_zero, add_directory, positive, words
from benchmarks.results.terminal import terminal
from tests.trials import report
from tests.trials.failover.parts import Parts, find_parts
from tests.trials.report import verdict

SCENARIOS = (
    *("postgres", "machine", "freeze", "switchover"),
    *("cancel", "unreplicated", "etcd", "isolated", "cut", "restart"),
)


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("failover", __doc__)
    add = parser.add_argument
    add("--kills", type=positive, default=1, metavar="N", help="of each (default: %(default)s)")
    add(
        "--scenarios",
        type=words(*SCENARIOS),
        default=list(SCENARIOS),
        metavar="SCENARIO,...",
        help="which (default: all)",
    )
    add(
        "--minutes",
        type=above_zero,
        default=30.0,
        help="after which no fault begins (default: %(default)s)",
    )
    add("--seed", type=int, default=1, help="of the order (default: %(default)s)")
    add(
        "--within",
        type=above_zero,
        default=1.0,
        metavar="SECONDS",
        help="how soon each host is to save again (default: %(default)s)",
    )
    add(
        "--saves",
        type=above_zero,
        default=200.0,
        metavar="N",
        help="a second, about, of all clients together (default: %(default)s)",
    )
    add(
        "--save-timeout-s",
        type=above_zero,
        metavar="SECONDS",
        help="a setting of the hosts, and clients wait longer than that (default: the defaults)",
    )
    add_directory(parser, "where all files go; others must be able to enter it")
    return parser


def run(options: argparse.Namespace, parts: Parts) -> bool:
    """Try one cluster; return whether every promise was kept."""
    from tests.trials.failover.trial import Plan, run_plan  # noqa: PLC0415 - it needs psycopg

    order = options.scenarios * options.kills
    random.Random(options.seed).shuffle(order)
    plan = Plan(
        order=order,
        seed=options.seed,
        seconds=options.minutes * 60,
        within_s=options.within,
        saves_per_s=options.saves,
        save_timeout_s=options.save_timeout_s,
    )
    tally = run_plan(plan, parts, options.directory, terminal())
    tally.summarize()
    return tally.whole


def main() -> None:
    """Try, and say what came of it with the exit code."""
    options = command_line().parse_args()
    with verdict():
        if not run(options, find_parts()):
            raise report.TrialFailed("promises were broken")


if __name__ == "__main__":
    main()
