"""How soon the service answers again: after the death of a child, and after that of everything.

    python benchmarks/recovery.py

Starts a service with a million users in its book, and some clients that save. The writer and a
worker are killed in turn, each long after its start, and timed is how long it takes until a client
that comes now has a save acknowledged. Then everything is killed, again and again, and timed is how
long it takes from the new start until a save is acknowledged.

The run fails, with exit code 1 and a sentence, where the 99th percentile after a child's death is
300 ms or more, or a start takes 3 seconds or more.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fill import fill
from options import positive
from progress import messages, progress
from rich.console import Console
from rich.table import Table
from torment.victim import Victim, age_s
from wire import BenchmarkFailed

from pwserver import Client, PwserverError
from workers.administration import administration
from workers.preparation import prepare

CHILD_S_MAX = 0.3
START_S_MAX = 3.0
CHILDREN = ("writer", "worker 1")
GROWN_S = 1.2
"""So old a child must be: who dies younger is started again after a pause, by design."""

CLIENTS = 4
PAUSE_S = 0.01
PROBE_PAUSE_S = 0.002
GIVEN_UP_S = 30.0
APPLICATION = "filled"


def make_book(victim: Victim, users: int) -> None:
    """Make a book with so many users."""
    prepare(victim.store)
    with administration(victim.store) as files:
        files.add(APPLICATION, ["save"], common=False)
    fill(victim.store.path, victim.store.key_path, APPLICATION, users)


@contextmanager
def saving(url: str) -> Iterator[None]:
    """Save from some clients all the while, whatever they are answered."""
    over = threading.Event()

    def save() -> None:
        while not over.is_set():
            with suppress(PwserverError), Client(url, attempts_max=1) as client:
                while not over.wait(PAUSE_S):
                    client.save_password("correct horse battery staple")

    threads = [threading.Thread(target=save) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def until_saved(url: str) -> None:
    """Return once a save of a new client is acknowledged."""
    deadline = time.monotonic() + GIVEN_UP_S
    while time.monotonic() < deadline:
        with suppress(PwserverError), Client(url, attempts_max=1) as client:
            client.save_password("probe")
            return
        time.sleep(PROBE_PAUSE_S)
    raise BenchmarkFailed(f"nothing was saved again within {GIVEN_UP_S:g} s")


def after_a_child(victim: Victim, url: str, name: str) -> float:
    """Kill a child that is grown up; return the seconds until a save is acknowledged."""
    while True:
        pid = victim.children().get(name)
        if pid is not None and age_s(pid) > GROWN_S:
            break
        time.sleep(PAUSE_S)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until_saved(url)
    return time.monotonic() - began


def after_everything(victim: Victim, url: str) -> float:
    """Kill everything; return the seconds from a new start until a save is acknowledged."""
    victim.kill_everything()
    began = time.monotonic()
    victim.start()
    until_saved(url)
    return time.monotonic() - began


def show(found: dict[str, list[float]]) -> None:
    """Print a row for each thing that was killed."""
    table = Table("killed", "times", "p50", "p99", "worst", title="Seconds to the next save")
    for what, seconds in found.items():
        table.add_row(
            what,
            f"{len(seconds):,}",
            *(f"{percentile(seconds, part):.3f}" for part in (0.5, 0.99, 1.0)),
        )
    Console(highlight=False).print(table)


def percentile(seconds: Sequence[float], part: float) -> float:
    """Return the value below which that part of all values is."""
    return sorted(seconds)[min(int(len(seconds) * part), len(seconds) - 1)]


def check(found: dict[str, list[float]]) -> None:
    """Raise what is not as it must be."""
    for what, seconds in found.items():
        if what in CHILDREN and percentile(seconds, 0.99) >= CHILD_S_MAX:
            raise BenchmarkFailed(f"after the death of {what} p99 is {CHILD_S_MAX:g} s or more")
        if what not in CHILDREN and max(seconds) >= START_S_MAX:
            raise BenchmarkFailed(f"a start took {max(seconds):.2f} s")


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--users", type=positive, default=1_000_000, help="in the book (default: %(default)s)")
    add("--kills", type=positive, default=100, help="of each child (default: %(default)s)")
    add("--starts", type=positive, default=20, help="after SIGKILL to all (default: %(default)s)")
    return parser


def run(options: argparse.Namespace) -> dict[str, list[float]]:
    """Kill, and return how long each recovery took."""
    found: dict[str, list[float]] = {name: [] for name in (*CHILDREN, "everything")}
    with tempfile.TemporaryDirectory(prefix="pwserver-recovery-") as home:
        victim = Victim(Path(home), ["--list-users", "none"])
        url = f"pwserver://127.0.0.1:{victim.port}"
        make_book(victim, options.users)
        try:
            victim.start()
            with saving(url), progress(options.kills + options.starts) as now_at:
                for number in range(options.kills):
                    now_at(f"kill {number + 1}")
                    for name in CHILDREN:
                        found[name].append(after_a_child(victim, url, name))
                for number in range(options.starts):
                    now_at(f"start {number + 1}")
                    found["everything"].append(after_everything(victim, url))
        finally:
            victim.clear()
    return found


def main() -> None:
    """Measure, or say why not."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the service would stay
    try:
        found = run(command_line().parse_args())
        show(found)
        check(found)
    except (BenchmarkFailed, OSError) as failure:
        messages.print(f"failed: {failure}")
        sys.exit(1)


if __name__ == "__main__":
    main()
