"""How soon the service answers again after a death, and ends where it must not go on.

    python -m tests.trials.recovery

Starts a service with a million users in its book, and some clients that save. The worker that
writes and another are killed in turn, each long after its start, and timed is how long it takes
until a client that comes now has a save acknowledged. Then everything is killed, again and again,
and timed is how long it takes from the new start until a save is acknowledged. At last a sync fails
(strace's fault injection; left out where there is no strace), and timed is how long it takes until
the service has ended, which must be with an error, and without having acknowledged the save.

The run fails, with exit code 1 and a sentence, where the 99th percentile after a child's death is
300 ms or more, a start takes 3 seconds or more, or the end a second or more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.fill import fill
from benchmarks.results.options import positive
from benchmarks.results.progress import messages, progress
from pwserver import Client, PwserverError
from tests.support.harness import meanwhile
from tests.support.processes import age_s, launched
from tests.trials import report
from tests.trials.report import TrialFailed, percentile, print_table, verdict
from tests.trials.restarted import RestartedService
from workers.admin.administration import administration
from workers.admin.setup import prepare

CHILDREN = ("worker 1", "worker 2")
EVERYTHING, FAILED_SYNC = "everything", "a sync that failed, until the end"
LIMITS_S = {
    **dict.fromkeys(CHILDREN, (0.99, 0.3)),
    EVERYTHING: (1.0, 3.0),
    FAILED_SYNC: (1.0, 1.0),
}
"""Below which so large a part of all times must be."""

INJECTION = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"]
GROWN_S = 1.2
"""So old a child must be: who dies younger is started again after a pause, by design."""

CLIENTS = 4
FAILED_SYNCS = 10
PAUSE_S = 0.01
PROBE_PAUSE_S = 0.002
GIVEN_UP_S = 30.0
APPLICATION = "filled"


def make_book(service: RestartedService, users: int) -> None:
    """Make a book with so many users."""
    prepare(service.store)
    with administration(service.store) as files:
        files.add(APPLICATION, ["save"], common=False)
    fill(service.store.path, service.store.key_path, APPLICATION, users)


def save(url: str, over: threading.Event) -> None:
    """Save all the while, whatever is answered."""
    while not over.is_set():
        with suppress(PwserverError), Client(url, attempts_max=1) as client:
            while not over.wait(PAUSE_S):
                client.save_password("correct horse battery staple")


def until_saved(url: str) -> None:
    """Return once a save of a new client is acknowledged."""
    deadline = time.monotonic() + GIVEN_UP_S
    while time.monotonic() < deadline:
        with suppress(PwserverError), Client(url, attempts_max=1) as client:
            client.save_password("probe")
            return
        time.sleep(PROBE_PAUSE_S)
    raise TrialFailed(f"nothing was saved again within {GIVEN_UP_S:g} s")


def after_a_child(service: RestartedService, url: str, name: str) -> float:
    """Kill a child that is grown up; return the seconds until a save is acknowledged."""
    while True:
        pid = service.children().get(name)
        if pid is not None and age_s(pid) > GROWN_S:
            break
        time.sleep(PAUSE_S)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until_saved(url)
    return time.monotonic() - began


def after_everything(service: RestartedService, url: str) -> float:
    """Kill everything; return the seconds from a new start until a save is acknowledged."""
    service.kill_everything()
    began = time.monotonic()
    service.start()
    until_saved(url)
    return time.monotonic() - began


def after_a_failed_sync(service: RestartedService, url: str) -> float:
    """Let the next sync fail; return the seconds from the save that needs it to the end."""
    writer = str(service.children()["worker 1"])
    command = ["strace", "-f", *INJECTION, "-p", writer]
    with launched(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        if "attached" not in (line := strace.stderr.readline()):
            raise TrialFailed(f"strace cannot be attached: {line.strip()}")
        drain = threading.Thread(target=strace.stderr.read)
        drain.start()
        began = time.monotonic()
        try:
            with Client(url, attempts_max=1) as client:
                client.save_password("probe")
            raise TrialFailed("a save was acknowledged whose sync failed")
        except PwserverError:
            pass
        while service.ended is None and time.monotonic() < began + GIVEN_UP_S:
            time.sleep(PROBE_PAUSE_S)
        seconds = time.monotonic() - began
        strace.kill()
        drain.join()
    if not service.ended:
        raise TrialFailed(f"after a failed sync the service ended with {service.ended}")
    service.start()
    return seconds


def show(found: dict[str, list[float]]) -> None:
    """Print a row for each thing that was killed."""
    rows: list[list[str]] = []
    for what, seconds in found.items():
        if not seconds:
            messages.print(f"left out: {what} (strace is not installed)")
            continue
        figures = [f"{percentile(seconds, part):.3f}" for part in (0.5, 0.99, 1.0)]
        rows.append([what, f"{len(seconds):,}", *figures])
    headings = ["what happened", "times", "p50", "p99", "worst"]
    print_table("Seconds to the next save, or to the end", headings, rows)


def check(found: dict[str, list[float]]) -> None:
    """Raise what is not as it must be."""
    for what, seconds in found.items():
        part, limit_s = LIMITS_S[what]
        if seconds and percentile(seconds, part) >= limit_s:
            raise TrialFailed(f"after {what}: {limit_s:g} s or more")


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("recovery", __doc__)
    add = parser.add_argument
    add("--users", type=positive, default=1_000_000, help="in the book (default: %(default)s)")
    add("--kills", type=positive, default=100, help="of each child (default: %(default)s)")
    add("--starts", type=positive, default=20, help="after SIGKILL to all (default: %(default)s)")
    return parser


def run(options: argparse.Namespace) -> dict[str, list[float]]:
    """Kill, and return how long each recovery took."""
    found: dict[str, list[float]] = {what: [] for what in LIMITS_S}
    syncs = FAILED_SYNCS if shutil.which("strace") else 0
    with tempfile.TemporaryDirectory(prefix="pwserver-recovery-") as home:
        service = RestartedService(Path(home), ["--list-users", "none"])
        url = f"pwserver://127.0.0.1:{service.port}"
        make_book(service, options.users)
        try:
            service.start()
            savers = [partial(save, url)] * CLIENTS
            with meanwhile(*savers), progress(options.kills + options.starts + syncs) as now_at:
                for number in range(options.kills):
                    now_at(f"kill {number + 1}")
                    for name in CHILDREN:
                        found[name].append(after_a_child(service, url, name))
                for number in range(options.starts):
                    now_at(f"start {number + 1}")
                    found[EVERYTHING].append(after_everything(service, url))
                for number in range(syncs):
                    now_at(f"failed sync {number + 1}")
                    found[FAILED_SYNC].append(after_a_failed_sync(service, url))
        finally:
            service.clear()
    return found


def main() -> None:
    """Measure, or say why not."""
    options = command_line().parse_args()
    with verdict():
        found = run(options)
        show(found)
        check(found)


if __name__ == "__main__":
    main()
