"""Whether the time of `verify_password` tells a name that is there from one that is not.

    python benchmarks/verify_timing.py

Starts a service of its own and asks it, over one connection, one question after another, each of
four kinds in turn: a wrong password of a user that is there, or a name that nobody has; chosen
names, or generated ones. A *block* is one question of each kind, in an order drawn anew; names are
drawn from many, and those that nobody has lie between those that are there. What is compared is of
one length, and every reply is the same. The clock of the client is what an attacker on the same
machine has, and nobody has a better one.

What is compared, and why so: within each block, the time of the unknown name less that of the known
one. What drifts (the processor's clock, other programs) is in both and drops out. These differences
have a long tail of interruptions on either side, in which a plain mean drowns. So they are summed
up by a trimmed mean (a fifth cut off at either end), with its standard error by Tukey and
McLaughlin (from the winsorized variance): an answer in nanoseconds, which a test of ranks does not
give. Beside it stands the share of blocks in which the known name was the slower one: it assumes
nothing at all, and is 50 % where time says nothing.

The verdict: with the confidence given below the difference is less than the bound ("equal"), more
("different", exit code 1), or the machine was too noisy to say (exit code 3: take more samples). An
answer that is not "no", or a service that fails, is exit code 4. The bound is not zero, because no
two paths through a program take the same time.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, median

import book
from load import duration, messages, positive
from rich.console import Console
from rich.progress import track
from rich.table import Table
from servers import PROJECT, start_pwserver
from wire import CONTROL_TIMEOUT_S, Address, BenchmarkFailed, Control

EXIT_DIFFERENT = 1
EXIT_UNDECIDED = 3
EXIT_FAILED = 4

KNOWN, UNKNOWN, KNOWN_GENERATED, UNKNOWN_GENERATED = range(4)
KINDS = ("known name", "unknown name", "known, generated", "unknown, generated")
PAIRS = ((KNOWN, UNKNOWN), (KNOWN_GENERATED, UNKNOWN_GENERATED))

PASSWORD, WRONG_PASSWORD = "Tr0ub4dor&3-and-more", "Tr0ub4dor&3-or-so---"
"""Everybody's, and one of the same length that nobody has."""

SAVED = b'"Password saved!"'
IN_FLIGHT = 512
REPLY = b'{"message": "return_verify_password", "valid": false}\n'
TRIM = 0.2
"""Cut off at either end: Wilcox's advice for distributions with long tails (Introduction to Robust
Estimation and Hypothesis Testing, 3.3)."""

CONFIDENCE = 0.99
WARM_UP_BLOCKS = 1000
NAMES = 5000
"""Of each kind, at most: more than the service's caches hold in a book of a million."""

BOUND_NS = 200
"""Less than a hundredth of what a question takes on loopback (26 microseconds and more), and less
than the noise of a block there (0.4 microseconds on a quiet machine)."""


@dataclass(frozen=True)
class Comparison:
    """What the blocks say of a known and an unknown name; times in nanoseconds."""

    difference: float
    """How much longer the unknown name takes: the trimmed mean of the blocks' differences."""

    error: float
    """The half width of its confidence interval."""

    noise: float
    """The standard deviation of a block's difference, winsorized: what an attacker averages out."""

    known_slower: float
    """The share of blocks in which the known name was the slower one."""

    @classmethod
    def of(cls, known: list[int], unknown: list[int]) -> Comparison:
        """Compare the times of the blocks."""
        differences = [b - a for a, b in zip(known, unknown, strict=True)]
        slower = sum(each < 0 for each in differences) + sum(each == 0 for each in differences) / 2
        # With so many blocks Student's distribution is the normal one.
        quantile = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        mean, error = trimmed(differences)
        return cls(
            difference=mean,
            error=quantile * error,
            noise=winsorized_deviation(sorted(differences)),
            known_slower=slower / len(differences),
        )

    def verdict(self, bound: float) -> str:
        """Say whether the difference is within `bound`, beyond it, or unknown."""
        if abs(self.difference) + self.error <= bound:
            return "equal"
        return "different" if abs(self.difference) - self.error > bound else "undecided"

    @property
    def blocks_needed(self) -> int:
        """Return how many blocks an attacker must average to be right about a name 19 times in 20.

        Each is a question about that name and one about a name of which is known that nobody has
        it; half the difference must be 1.645 standard errors. The difference is taken to be the
        greatest that the interval allows, so there is no attacker who needs fewer.
        """
        greatest = abs(self.difference) + self.error
        return math.ceil((2 * NormalDist().inv_cdf(0.95) * self.noise / greatest) ** 2)


def trimmed(values: list[int]) -> tuple[float, float]:
    """Return the trimmed mean and its standard error."""
    ordered = sorted(values)
    cut = int(TRIM * len(ordered))
    mean = fmean(ordered[cut : len(ordered) - cut])
    return mean, winsorized_deviation(ordered) / ((1 - 2 * TRIM) * math.sqrt(len(ordered)))


def winsorized_deviation(ordered: list[int]) -> float:
    """Return the standard deviation, the ends replaced by what stands next to them."""
    cut = int(TRIM * len(ordered))
    middle = ordered[cut : len(ordered) - cut]
    whole = [middle[0]] * cut + middle + [middle[-1]] * cut
    mean = fmean(whole)
    return math.sqrt(fmean((value - mean) ** 2 for value in whole))


def fill(address: Address, users: int) -> list[list[str]]:
    """Save users with and without names, and return names of each kind.

    Names that nobody has lie among those that are there, as evenly: chosen names are random, and
    every other one is saved; of a generated name, the last digit says which worker made it.
    """
    chosen = [f"name-{number:09}" for number in random.sample(range(10**9), 2 * users)]
    saved, absent = chosen[:users], chosen[users:]
    save_all(address, [book.save_request(PASSWORD, name) for name in saved])
    save_all(address, [book.save_request(PASSWORD)] * users)
    asked = min(users, NAMES)
    generated = [user["username"] for user in book.listed(address, "user-")]
    generated = random.sample(generated, asked)
    altered = [name[:-1] + ("0" if name[-1] == "1" else "1") for name in generated]
    return [random.sample(saved, asked), absent[:asked], generated, altered]


def save_all(address: Address, saves: list[bytes]) -> None:
    """Have a server do saves, many at once."""
    with Control(address) as control:
        for first in range(0, len(saves), IN_FLIGHT):
            for reply in control.ask_all(saves[first : first + IN_FLIGHT]):
                if SAVED not in reply:
                    raise BenchmarkFailed(f"a save was answered {reply!r}")


def ask_in_blocks(address: Address, names: list[list[str]], blocks: int) -> list[list[int]]:
    """Ask for names of each kind in blocks; return each kind's times, in nanoseconds."""
    requests = [
        [book.request("verify_password", username=name, password=WRONG_PASSWORD) for name in kind]
        for kind in names
    ]
    times: list[list[int]] = [[] for _ in KINDS]
    with address.connect(CONTROL_TIMEOUT_S) as connection:
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
    console = Console(highlight=False)
    table = Table("question", "median", "trimmed mean", title="Times in nanoseconds")
    for kind, its_times in zip(KINDS, times, strict=True):
        table.add_row(kind, f"{median(its_times):,.0f}", f"{trimmed(its_times)[0]:,.0f}")
    console.print(table)
    verdicts = []
    for known, unknown in PAIRS:
        found = Comparison.of(times[known], times[unknown])
        verdicts.append(found.verdict(bound))
        console.print(
            f"{KINDS[unknown]} less {KINDS[known]}: {found.difference:+,.0f} ns, give or take "
            f"{found.error:,.0f} ({CONFIDENCE:.0%}); the known one was slower in "
            f"{found.known_slower:.1%} of {len(times[known]):,} blocks. The noise of a block is "
            f"{found.noise:,.0f} ns, so an attacker on this machine needs at least "
            f"{found.blocks_needed:,} of them for each name. Bound {bound:,.0f} ns: {verdicts[-1]}."
        )
    return verdicts


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--samples", type=positive, default=20_000, help="of each kind (default: %(default)s)")
    add("--users", type=positive, default=1000, help="with names, and as many without (1000)")
    add(
        "--bound",
        type=duration,
        default=BOUND_NS,
        metavar="NS",
        help="the greatest difference that is let pass (default: %(default)s)",
    )
    add("--tree", type=Path, default=PROJECT, help="measure the service of another source tree")
    return parser


def verdicts_of(options: argparse.Namespace) -> list[str]:
    """Start a service, ask it, compare, and print what was found."""
    with (
        tempfile.TemporaryDirectory(prefix="pwserver-timing-") as home,
        start_pwserver(Path(home), ["--workers", "1"], tree=options.tree.resolve()) as service,
    ):
        messages.print(service.banner)
        names = fill(service.address, options.users)
        gc.disable()
        ask_in_blocks(service.address, names, WARM_UP_BLOCKS)
        times = ask_in_blocks(service.address, names, options.samples)
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
