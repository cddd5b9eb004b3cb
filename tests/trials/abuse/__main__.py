"""What honest clients notice while others abuse the service, and what is left of it afterwards.

    python -m tests.trials.abuse

One service for each kind of abuse (`abusers.py`), with deadlines of a few seconds, which are
settings. Some honest clients save and count at an easy pace, each request on its own; their p99 is
measured alone and beside the abuse, in turn, for several rounds. Then the abusers go, and it is
seen whether the service gives back their descriptors and their memory.

`floods.py` beside this has those who ask as much as they can.

The run fails, with exit code 1 and a sentence, where the median of the ratios of p99 is 2 or more,
where connections are kept past their deadline, or where memory stays more than a tenth above what
it was. What cannot be had here (a network to lose packets in) is named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from benchmarks.results.options import above_zero, positive, words
from benchmarks.results.progress import messages, progress
from pwserver.wire.messages import Right
from tests.support.harness import Peer, Service
from tests.support.network import SERVICE_ADDRESS, Network, network
from tests.support.processes import Usage, end_session, launch, session
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials import report
from tests.trials.report import TrialFailed, percentile, print_table, verdict

HALF_OPEN, GREEDY = "half-open", "greedy"
NUMBERS = {"guess": 64, "slow": 2000, "silent": 100, HALF_OPEN: 500, GREEDY: 20}
CUT_OFF = ("slow", "silent", HALF_OPEN)
DEADLINE_S = 4.0
FLAGS = [
    *("--list-users", "none"),
    *("--message-timeout-s", str(DEADLINE_S)),
    *("--send-timeout-s", str(DEADLINE_S)),
    *("--peer-timeout-s", str(DEADLINE_S)),
]
LENIENCY_S = 10.0
"""What may pass beyond a deadline before it counts as missed: the machine is busy."""

HONEST_CLIENTS = 4
PAUSE_S = 0.004
P99_RATIO_MAX = 2.0
MEMORY_RATIO_MAX = 1.1
WARMUP_S = 2.0
SAVE = b'{"message": "save_password", "password": "correct horse battery staple"}\n'
COUNT = b'{"message": "number_of_users"}\n'
RIGHTS: Sequence[Right] = ("save", "count", "get", "verify", "list")
READY_TIMEOUT_S = 60.0
POLL_S = 0.1


@dataclass
class Finding:
    """What one kind of abuse came to."""

    kind: str
    number: int
    alone_ms: list[float] = field(default_factory=list)  # p99 in each round
    beside_ms: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)  # before, highest beside, after
    acts: int = 0
    closed: int = 0  # by the service

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self.beside_ms, self.alone_ms, strict=True)
        return median(beside / alone for beside, alone in pairs)

    def add(self, said: dict[str, int]) -> None:
        """Count what the abusers say of a round."""
        self.acts += said["acts"]
        self.closed += said["closed"]

    def check(self) -> None:
        """Raise what is not as it must be."""
        if self.ratio >= P99_RATIO_MAX:
            raise TrialFailed(f"{self.kind}: the p99 of others was {self.ratio:.2f} times")
        before, _, after = self.memory_bytes
        if after > before * MEMORY_RATIO_MAX:
            raise TrialFailed(f"{self.kind}: memory went from {before:,} to {after:,} bytes")
        if self.kind in CUT_OFF and self.closed < self.number:
            raise TrialFailed(f"{self.kind}: {self.closed} of {self.number} were cut off")


class Abuse:
    """The process that abuses a service, from its first connection to its end."""

    def __init__(self, finding: Finding, target: Target, token: str) -> None:
        program = [sys.executable, "-m", "tests.trials.abuse.abusers"]
        what = [finding.kind, target.host, str(target.service.port), str(finding.number)]
        self._process = launch(
            [*program, *what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=TREE_ENVIRONMENT,
            preexec_fn=target.cable and target.cable.client.enter,
        )
        self._say(token)
        self._hear()

    def end(self) -> dict[str, int]:
        """Have it end; return what it says it did."""
        self._say("end")
        found: dict[str, int] = json.loads(self._hear())
        return found

    def close(self) -> None:
        """End it by force if it has not ended."""
        end_session(self._process)
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        timer = threading.Timer(READY_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line: str = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise TrialFailed("the process that abuses the service died")
        return line


def honest_p99_ms(connect: Callable[[], Peer], seconds: float) -> float:
    """Save and count over a few connections for a while; return the p99 of all latencies."""
    times_ms: list[float] = []
    failures: list[str] = []

    def ask() -> None:
        own: list[float] = []
        try:
            with connect() as peer:
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    for request in (SAVE, COUNT):
                        began = time.perf_counter()
                        peer.ask(request)
                        own.append((time.perf_counter() - began) * 1000)
                        time.sleep(PAUSE_S)
        except (OSError, AssertionError) as failure:
            failures.append(str(failure))
        times_ms.extend(own)

    threads = [threading.Thread(target=ask) for _ in range(HONEST_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise TrialFailed(f"an honest client: {failures[0]}")
    return percentile(times_ms, 0.99)


@dataclass(frozen=True)
class Target:
    """The service that is abused, and the cable between it and the abusers, where there is one."""

    service: Service
    cable: Network | None

    @property
    def host(self) -> str:
        """Where the service is found."""
        return "127.0.0.1" if self.cable is None else SERVICE_ADDRESS

    def guest(self) -> Peer:
        """Return an honest connection, which needs no cable."""
        port = self.service.port
        return Peer(port) if self.cable is None else self.cable.peer_at_home(port)

    def usage(self) -> Usage:
        """Return what the processes of the service have taken."""
        return Usage.of(session(self.service.process.pid))


@contextmanager
def target_for(kind: str) -> Iterator[Target]:
    """Give a service to abuse, and the network that a kind of abuse needs."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pwserver-abuse-")))
        cable = stack.enter_context(network()) if kind == HALF_OPEN else None
        where = ["--host", SERVICE_ADDRESS, "--insecure"] if cable else []
        enter = cable.service.enter if cable else None
        service = Service(
            home, *FLAGS, *where, workers=None, env=TREE_ENVIRONMENT, preexec_fn=enter
        )
        yield Target(stack.enter_context(service).wait_until_listening(), cable)


class Trial:
    """Abuse of one kind, and those who suffer it."""

    def __init__(self, finding: Finding, target: Target) -> None:
        self._finding = finding
        self._target = target
        self._token = target.service.add_application("honest", RIGHTS)

    def _honest(self) -> Peer:
        peer = self._target.guest()
        peer.authenticate(self._token)
        return peer

    def round(self, seconds: float) -> None:
        """Measure the honest alone, beside the abusers, and what these leave behind."""
        finding, target, cable = self._finding, self._target, self._target.cable
        finding.alone_ms.append(honest_p99_ms(self._honest, seconds))
        with target.guest() as peer:  # the worker opens the audit record with the first refusal
            peer.authenticate("nobody's")
        before = target.usage()
        abuse = Abuse(finding, target, self._token)
        opened = target.usage().descriptors - before.descriptors
        try:
            if cable is not None:
                cable.pull_the_cable()
            finding.beside_ms.append(honest_p99_ms(self._honest, seconds))
            beside = target.usage()
            if cable is None:
                finding.add(abuse.end())
        finally:
            abuse.close()
        after = self._settled(before)
        if cable is not None:
            finding.add({"acts": opened, "closed": opened})  # or `_settled` would have raised
            cable.mend_the_cable()
        memory = finding.memory_bytes or [before.memory_bytes, 0, 0]
        highest = max(memory[1], beside.memory_bytes)
        finding.memory_bytes = [memory[0], highest, after.memory_bytes]

    def _settled(self, before: Usage) -> Usage:
        """Return what the service takes once it has given back the abusers' descriptors."""
        deadline = time.monotonic() + DEADLINE_S + LENIENCY_S
        while (now := self._target.usage()).descriptors > before.descriptors:
            if time.monotonic() > deadline:
                more = now.descriptors - before.descriptors
                raise TrialFailed(f"{self._finding.kind}: {more} connections were kept")
            time.sleep(POLL_S)
        return now


def measure(kinds: Sequence[str], rounds: int, seconds: float) -> list[Finding]:
    """Try every kind of abuse for so many rounds."""
    findings = [Finding(kind, NUMBERS[kind]) for kind in kinds]
    with progress(len(findings) * rounds) as now_at:
        for finding in findings:
            with target_for(finding.kind) as target:
                trial = Trial(finding, target)
                honest_p99_ms(target.guest, WARMUP_S)
                for number in range(1, rounds + 1):
                    now_at(f"{finding.kind}, round {number}")
                    trial.round(seconds)
    return findings


def no_network() -> str:
    """Return why there can be no network to lose packets in, or nothing."""
    try:
        with network():
            return ""
    except pytest.skip.Exception as why:
        return str(why)


def show(findings: Sequence[Finding]) -> None:
    """Print a row for each kind of abuse."""
    headings = ["abuse", "acts", "cut off", "p99 alone,\nms", "beside,\nms", "ratio"]
    rows = [
        [
            *(f"{each.number:,} {each.kind}", f"{each.acts:,}", f"{each.closed:,}"),
            *(f"{median(times):.2f}" for times in (each.alone_ms, each.beside_ms)),
            f"{each.ratio:.2f}",
            ", ".join(f"{memory / 2**20:.0f}" for memory in each.memory_bytes),
        ]
        for each in findings
    ]
    title = "Honest clients beside abuse (medians of rounds)"
    print_table(title, [*headings, "MiB before,\nbeside, after"], rows)


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("abuse", __doc__)
    add = parser.add_argument
    add("--kinds", type=words(*NUMBERS), default=list(NUMBERS), help="of abuse (default: all)")
    add("--rounds", type=positive, default=3, help="of each (default: %(default)s)")
    add("--seconds", type=above_zero, default=8.0, help="a measurement (default: %(default)s)")
    return parser


def main() -> None:
    """Measure, or say why not."""
    options = command_line().parse_args()
    kinds = options.kinds
    with verdict():
        if HALF_OPEN in kinds and (why := no_network()):
            messages.print(f"left out: half-open peers ({why})")
            kinds = [kind for kind in kinds if kind != HALF_OPEN]
        findings = measure(kinds, options.rounds, options.seconds)
        show(findings)
        for finding in findings:
            finding.check()


if __name__ == "__main__":
    main()
