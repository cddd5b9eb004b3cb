"""Whether the time of `verify_password` tells a name that is there from one that is not.

    python benchmarks/verify_timing.py

Starts a service of its own and asks it as an application, over one connection, one question after
another, each of six kinds in turn: a wrong password of a user that is there, or of a name that
nobody has, or of one in the book of another application; chosen names, or generated ones. A *block*
is one question of each kind, in random order; names are drawn from many, and those that are not
there lie between those that are. All questions have the same length and the same reply. The clock
is the client's, as an attacker's on the same machine. The limit on wrong guesses is off
(`unlimited.py`); with it this would take hours.

`paired.py` compares, within each block, the time of a name that nobody has and that of a known one,
which is there or in the other book. The share of blocks in which the known name was slower assumes
nothing about the distribution; it is 50 % if time says nothing.

The verdict, with the confidence given below: the difference is less than the bound ("equal"), more
("different", exit code 1), or the machine was too noisy (exit code 3: take more samples). A wrong
answer or a service that fails is exit code 4. The bound is not zero, because no two paths through a
program take the same time.
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from rich.progress import track

from benchmarks.client import book
from benchmarks.client.dialects import save_line
from benchmarks.client.wire import CONTROL_TIMEOUT_S, Access, BenchmarkFailed, Control
from benchmarks.results.options import above_zero, described, positive
from benchmarks.results.paired import CONFIDENCE, Comparison, trimmed
from benchmarks.results.progress import messages
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet, terminal
from benchmarks.servers.service import Service
from workers.auth.throttle import NAME

EXIT_DIFFERENT = 1
EXIT_UNDECIDED = 3
EXIT_FAILED = 4

KINDS = (
    *("known name", "another's name", "unknown name"),
    *("known, generated", "another's, generated", "unknown, generated"),
)
PAIRS = ((0, 2), (1, 2), (3, 5), (4, 5))
"""Which kinds are compared: one that is there, or elsewhere, with one that nobody has."""

PASSWORD, WRONG_PASSWORD = "Tr0ub4dor&3-and-more", "Tr0ub4dor&3-or-so---"
"""Everybody's, and one of the same length that nobody has."""

SAVED = b'"Password saved!"'
IN_FLIGHT = 512
REPLY = b'{"message": "return_verify_password", "valid": false}\n'
WARM_UP_BLOCKS = 1000
NAMES = 5000
"""Of each kind, at most: more than the service's caches hold in a book of a million."""

UNLIMITED = ("-m", "benchmarks.servers.unlimited")

BOUND_NS = 200
"""Less than a hundredth of what a question takes on loopback (26 microseconds and more), and less
than the noise of a block there (0.4 microseconds on a quiet machine)."""


def fill(asking: Access, another: Access, users: int) -> list[list[str]]:
    """Save users with and without names in two books, and return names of each kind.

    Names that are not in the asking application's book lie among those that are, as evenly: chosen
    names are random, and a third is saved in each book; of a generated name, the last digit says
    which worker made it.
    """
    chosen = [f"name-{number:09}" for number in random.sample(range(10**9), 3 * users)]
    known, others, unknown = chosen[:users], chosen[users : 2 * users], chosen[2 * users :]
    for access, names in ((asking, known), (another, others)):
        save_all(access, [book.save_request(PASSWORD, name) for name in names])
        save_all(access, [save_line(PASSWORD)] * users)
    generated, others_generated = (
        [user["username"] for user in book.listed(access, "user-")] for access in (asking, another)
    )
    altered = [name[:-1] + ("0" if name[-1] == "1" else "1") for name in generated]
    kinds = [known, others, unknown, generated, others_generated, altered]
    return [random.sample(names, min(users, NAMES)) for names in kinds]


def save_all(access: Access, saves: list[bytes]) -> None:
    """Have a server do saves, many at once."""
    with Control(access) as control:
        for first in range(0, len(saves), IN_FLIGHT):
            for reply in control.ask_all(saves[first : first + IN_FLIGHT]):
                if SAVED not in reply:
                    raise BenchmarkFailed(f"a save was answered {reply!r}")


def ask_in_blocks(access: Access, names: list[list[str]], blocks: int) -> list[list[int]]:
    """Ask for names of each kind in blocks; return each kind's times, in nanoseconds."""
    requests = [
        [book.request("verify_password", username=name, password=WRONG_PASSWORD) for name in kind]
        for kind in names
    ]
    times: list[list[int]] = [[] for _ in KINDS]
    with access.connect(CONTROL_TIMEOUT_S) as connection:
        for _ in track(range(blocks), "asking", console=messages, transient=True):
            for kind in random.sample(range(len(KINDS)), len(KINDS)):
                times[kind].append(time_of(connection, random.choice(requests[kind])))
    return times


def time_of(connection: socket.socket, request: bytes) -> int:
    """Send a request and return how long its reply took, in nanoseconds."""
    began_ns = time.perf_counter_ns()
    connection.sendall(request)
    reply = connection.recv(1024)
    took_ns = time.perf_counter_ns() - began_ns
    if reply != REPLY:
        raise BenchmarkFailed(f"expected {REPLY!r}, the server answered {reply!r}")
    return took_ns


def show(times: list[list[int]], bound: float) -> list[str]:
    """Print what was found; return the verdicts."""
    console = terminal()
    rows = [
        [kind, f"{median(its_times):,.0f}", f"{trimmed(its_times)[0]:,.0f}"]
        for kind, its_times in zip(KINDS, times, strict=True)
    ]
    headings = ["question", "median", "trimmed mean"]
    print_sheet(Sheet("Times in nanoseconds", headings, rows), console)
    verdicts = []
    for known, unknown in PAIRS:
        found = Comparison.of(times[known], times[unknown])
        verdicts.append(found.verdict(bound))
        console.print(
            f"{KINDS[unknown]} less {KINDS[known]}: {found.difference:+,.0f} ns, give or take "
            f"{found.error:,.0f} ({CONFIDENCE:.0%}); the known one was slower in "
            f"{found.known_slower:.1%} of {len(times[known]):,} blocks. The noise of a block is "
            f"{found.noise:,.0f} ns, so an attacker on this machine needs at least "
            f"{found.blocks_needed:,} of them for each name, or {minutes_needed(found):,.0f} "
            f"minutes as wrong guesses are limited. Bound {bound:,.0f} ns: {verdicts[-1]}."
        )
    return verdicts


def minutes_needed(found: Comparison) -> float:
    """Return how long an attacker takes where wrong guesses are limited, as they are in a service.

    The two questions of a block are wrong guesses for two names, and each has a limit of its own.
    """
    return found.blocks_needed / NAME.forgotten_per_s / 60


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add("--samples", type=positive, default=20_000, help="of each kind (default: %(default)s)")
    add(
        "--users",
        type=positive,
        default=1000,
        help="with names, and as many without, in each book (1000)",
    )
    add(
        "--bound",
        type=above_zero,
        default=BOUND_NS,
        metavar="NS",
        help="the greatest difference that is let pass (default: %(default)s)",
    )
    return parser


def verdicts_of(options: argparse.Namespace) -> list[str]:
    """Start a service, ask it, compare, and print what was found."""
    with (
        tempfile.TemporaryDirectory(prefix="pwserver-timing-") as home,
        Service("pwserver", Path(home), ["--workers", "1"], program=UNLIMITED) as service,
    ):
        messages.print(service.banner)
        asking = service.register("asking")
        names = fill(asking, service.register("another"), options.users)
        gc.disable()
        ask_in_blocks(asking, names, WARM_UP_BLOCKS)
        times = ask_in_blocks(asking, names, options.samples)
    return show(times, options.bound)


def main() -> None:
    """Compare, and say by the exit code what was found."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the service would stay
    try:
        verdicts = verdicts_of(command_line().parse_args())
    except BenchmarkFailed as failure:
        messages.print(f"failed: {failure}")
        sys.exit(EXIT_FAILED)
    if "different" in verdicts:
        sys.exit(EXIT_DIFFERENT)
    if "undecided" in verdicts:
        sys.exit(EXIT_UNDECIDED)


if __name__ == "__main__":
    main()
