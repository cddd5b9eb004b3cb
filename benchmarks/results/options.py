"""The command line of the load test, and options that other programs share.

A reader takes the text of an option and returns its value; argparse prints the error it raises.
"""

from __future__ import annotations

import argparse
import math
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.client.wire import LOADS, ONCE, TLS, TOKEN, Address, Size
from benchmarks.servers.contenders import STARTERS

ON_POSTGRES = "on-postgres"
OWN_RIVALS = ("baseline", "null", TOKEN, TLS, ON_POSTGRES, *STARTERS)
PREPARED_USERS = 1000


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


def above_zero(text: str) -> float:
    """Read a number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def sizes(text: str) -> list[Size]:
    """Read `8,8x64,8once` as 8 connections with 1 request in flight, 8 connections with 64 each,
    and 8 at any moment for one request each."""
    found = []
    for size in text.split(","):
        kept = size.removesuffix(ONCE)
        connections, _, depth = kept.partition("x")
        found.append((positive(connections), positive(depth or "1"), kept != size))
        if kept != size and depth:
            raise argparse.ArgumentTypeError(f"{size!r}: on {ONCE!r} there is nothing in flight")
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
                f"{word!r} is none of {', '.join(OWN_RIVALS)}, and no folder with pwserver in it"
            )
        name = tree.name if tree else word
        if name in ("pwserver", *found) or (tree and name in OWN_RIVALS):
            raise argparse.ArgumentTypeError(f"two servers would be called {name!r}")
        found[name] = tree
    return found


def picture(text: str) -> Path:
    """Read the name of a file that a plot can be written to."""
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"expected FILE.png or FILE.svg, got {text!r}")
    return Path(text)


def described(description: str | None) -> argparse.ArgumentParser:
    """Return the command line of a program that its docstring describes, without options."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_pace(parser: argparse.ArgumentParser, seconds: float, rounds: int) -> None:
    """Add how long and how often is measured, with the defaults."""
    add = parser.add_argument
    add("--seconds", type=above_zero, default=seconds, help="measured time (default: %(default)s)")
    add(
        "--rounds",
        type=positive,
        default=rounds,
        help="medians are of these (default: %(default)s)",
    )


TO_BE_MEASURED = "where the temporary databases go: on the disk to be measured"


def add_directory(parser: argparse.ArgumentParser, what: str = TO_BE_MEASURED) -> None:
    """Add where a program writes, and what it writes there."""
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help=f"{what} (default: %(default)s)",
    )


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Describe the options of the load test; with the defaults a run takes a few minutes."""
    parser = described(description)
    add = parser.add_argument
    add(
        "--connect",
        type=address,
        metavar="HOST:PORT",
        help="measure a service that runs already; nobody else may save there meanwhile, or the "
        "check of the number of users fails",
    )
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="with --connect: the token of the application that the loads of the book are of",
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
        metavar="N[xDEPTH|once],...",
        help="connections, with DEPTH requests in flight on each, 1 unless said, or, as 64once, "
        "each for one request alone; a list and not a grid, because deep pipelines on many "
        "connections say little new (default: %(default)s)",
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
        metavar="baseline,null,token,tls,on-postgres,redis,...,TREE",
        help="measure in the same run baseline_pool.py; a server that answers constants; Redis and "
        "the other contenders of the comparison; the service with all loads those of an "
        "application that has shown a token; over TLS; with its book on PostgreSQL; or that of "
        "another source tree, such as a git worktree of an older commit; each for the loads it "
        "knows",
    )
    add_pace(parser, seconds=2.0, rounds=3)
    add("--warmup-seconds", type=above_zero, default=0.5, help="before it (default: %(default)s)")
    add("--clients", type=positive, default=2, help="client processes (default: %(default)s)")
    add("--workers", type=positive, help="workers of the service (default: its own default)")
    add(
        "--serve",
        type=shlex.split,
        default=[],
        metavar="'OPTIONS'",
        help="more options for the service, such as '--list-users none'",
    )
    add_directory(parser)
    add("--json", type=Path, metavar="FILE", help="keep every round as JSON")
    add("--plot", type=picture, metavar="FILE.png|.svg", help="draw the results (matplotlib)")
    return parser
