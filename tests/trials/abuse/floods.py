"""What is left to an application while others ask as much as they can, and afterwards.

    python -m tests.trials.abuse.floods

For each kind of flood (`abusers.py`) one service, which 64 connections flood for some seconds. An
application saves on 8 connections, one request after the other on each: for a while before, beside
the flood, and 5 seconds after its end. All of them share the processors of this machine.

The run fails, with exit code 1 and a sentence, where beside a flood the application has less than
half of its saves a second or more than three times its p99, where the service takes more than 200
MiB, or where afterwards not all is as before.
"""

from __future__ import annotations

import argparse
import json
import select
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results.options import above_zero, positive, words
from benchmarks.results.progress import progress
from tests.support.harness import Peer, Service
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials import report
from tests.trials.abuse.__main__ import RIGHTS, SAVE, Abuse, Finding, Target
from tests.trials.abuse.abusers import FLOODS
from tests.trials.report import TrialFailed, percentile, print_table, verdict

IDLE = "idle"
KINDS = (*FLOODS, IDLE)
ABUSERS, CONNECTIONS = 64, 8
FLAGS = {IDLE: ["--connections-max", str(ABUSERS)], "counts": ["--list-users", "all"]}
BEFORE_S = 5.0
PAUSE_S = 5.0
"""After a flood all must be as before within this time."""

SAVES_RATIO_MIN = 0.5
P99_RATIO_MAX = 3.0
AFTER_RATIO_MIN = 0.8
"""By how much two measurements of the same may differ on a busy machine."""

MEMORY_MIB_MAX = 200.0
SAMPLE_S = 0.5
ANSWER_S = 30.0
LABELS = [f"{number:02}" + "x" * 62 for number in range(16)]


@dataclass
class Saves:
    """What an application did in a while."""

    per_s: float
    p99_ms: float


@dataclass
class Flooded:
    """What one flood came to."""

    kind: str
    before: Saves
    beside: Saves
    after: Saves
    packets: int
    memory_mib: list[float] = field(default_factory=list)  # before, highest beside, after

    @property
    def saves_ratio(self) -> float:
        """How many of its saves a second the application kept."""
        return self.beside.per_s / self.before.per_s

    @property
    def p99_ratio(self) -> float:
        """How many times as long 99 of 100 saves took at most."""
        return self.beside.p99_ms / self.before.p99_ms

    @property
    def after_ratio(self) -> float:
        """How many of its saves a second the application had again."""
        return self.after.per_s / self.before.per_s

    def check(self) -> None:
        """Raise what is not as it must be."""
        if self.saves_ratio < SAVES_RATIO_MIN:
            raise TrialFailed(f"{self.kind}: {self.saves_ratio:.2f} of the saves were left")
        if self.p99_ratio > P99_RATIO_MAX:
            raise TrialFailed(f"{self.kind}: the p99 was {self.p99_ratio:.1f} times")
        if max(self.memory_mib) > MEMORY_MIB_MAX:
            raise TrialFailed(f"{self.kind}: the service took {max(self.memory_mib):.0f} MiB")
        if self.after_ratio < AFTER_RATIO_MIN:
            raise TrialFailed(f"{self.kind}: {self.after_ratio:.2f} of the saves afterwards")


def save_for(service: Service, token: str, seconds: float) -> Saves:
    """Save over a few connections, each of them one request after the other."""
    with ExitStack() as stack:
        waiting, by_fd = select.poll(), {}
        for _ in range(CONNECTIONS):
            peer = stack.enter_context(service.peer())
            said = peer.authenticate(token)
            if said["message"] != "Authenticated!":
                raise TrialFailed(f"the application was not let in: {said}")
            by_fd[peer.socket.fileno()] = peer
            waiting.register(peer.socket, select.POLLIN)
        times_ms: list[float] = []
        began = time.perf_counter()
        asked = dict.fromkeys(by_fd, began)
        for peer in by_fd.values():
            peer.send(SAVE)
        while (now := time.perf_counter()) < began + seconds:
            for fd, _ in waiting.poll(ANSWER_S * 1000) or _silence():
                reply = json.loads(by_fd[fd].line() or b"{}")
                if reply.get("message") != "Password saved!":
                    raise TrialFailed(f"the application was refused: {reply}")
                now = time.perf_counter()
                times_ms.append((now - asked[fd]) * 1000)
                asked[fd] = now
                by_fd[fd].send(SAVE)
    return Saves(len(times_ms) / (now - began), percentile(times_ms, 0.99))


def _silence() -> list[tuple[int, int]]:
    raise TrialFailed(f"for {ANSWER_S:g} s the application got no answer")


@contextmanager
def highest_memory(target: Target) -> Iterator[list[float]]:
    """Look at the memory of the service now and then; yield a list of what it was."""
    seen = [mib(target)]
    done = threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_S):
            seen.append(mib(target))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def mib(target: Target) -> float:
    """Return the memory of the service in MiB."""
    return target.usage().memory_bytes / 2**20


def fill(kind: str, service: Service, token: str) -> None:
    """Save what a flood asks for."""
    with service.peer() as peer:
        if kind in ("pages", "unread"):
            peer.authenticate(token)
            named = {"message": "save_password", "password": "x" * 20, "labels": LABELS}
            ask(peer, [{**named, "username": f"user {number:05}"} for number in range(2000)])
        elif kind == "counts":
            ask(peer, [SAVE] * 20_000)


def ask(peer: Peer, requests: Sequence[object]) -> None:
    """Send many requests, some at a time, and read the replies."""
    for at in range(0, len(requests), 100):
        some = requests[at : at + 100]
        peer.send(*some)
        for _ in some:
            peer.line()


def flood(kind: str, abusers: int, seconds: float) -> Flooded:
    """Measure what an application does before, beside and after a flood."""
    with tempfile.TemporaryDirectory(prefix="pwserver-abuse-") as home:
        flags = FLAGS.get(kind, ["--list-users", "none"])
        with Service(Path(home), *flags, workers=None, env=TREE_ENVIRONMENT) as service:
            target = Target(service.wait_until_listening(), None)
            token = service.add_application("honest", RIGHTS)
            flooding = service.add_application("flooding", RIGHTS)
            fill(kind, service, flooding)
            save_for(service, token, 1.0)  # warm
            before, memory = save_for(service, token, BEFORE_S), [mib(target)]
            abuse = Abuse(Finding(kind, abusers), target, flooding)
            try:
                with highest_memory(target) as seen:
                    beside = save_for(service, token, seconds)
                packets = abuse.end()["acts"]
            finally:
                abuse.close()
            time.sleep(PAUSE_S)
            after = save_for(service, token, BEFORE_S)
            memory += [max(seen), mib(target)]
            return Flooded(kind, before, beside, after, packets, memory)


def show(floods: Sequence[Flooded]) -> None:
    """Print a row for each flood."""
    headings = [
        "flood",
        "packets",
        "saves a second\nbefore",
        "beside",
        "of before",
        "p99 before,\nms",
        "beside,\nms",
        "times",
        "saves after,\nof before",
        "MiB before,\nbeside, after",
    ]
    rows = [
        [
            *(each.kind, f"{each.packets:,}", f"{each.before.per_s:,.0f}"),
            *(f"{each.beside.per_s:,.0f}", f"{each.saves_ratio:.2f}"),
            *(f"{each.before.p99_ms:.2f}", f"{each.beside.p99_ms:.2f}", f"{each.p99_ratio:.1f}"),
            *(f"{each.after_ratio:.2f}", ", ".join(f"{each:.0f}" for each in each.memory_mib)),
        ]
        for each in floods
    ]
    print_table("An application beside floods", headings, rows)


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("abuse.floods", __doc__)
    add = parser.add_argument
    add("--kinds", type=words(*KINDS), default=list(KINDS), help="of flood (default: all)")
    add("--connections", type=positive, default=ABUSERS, help="that flood (default: %(default)s)")
    add("--seconds", type=above_zero, default=20.0, help="of each (default: %(default)s)")
    return parser


def main() -> None:
    """Measure, show what was measured, and fail if it is not as it must be."""
    options = command_line().parse_args()
    floods: list[Flooded] = []
    with verdict():
        with progress(len(options.kinds)) as now_at:
            for kind in options.kinds:
                now_at(kind)
                floods.append(flood(kind, options.connections, options.seconds))
        show(floods)
        for each in floods:
            each.check()


if __name__ == "__main__":
    main()
