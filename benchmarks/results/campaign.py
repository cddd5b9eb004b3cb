"""The order of the measurements, and what comes out of each.

Machines drift, so what is compared is measured in turn within one run: each round visits every size
(connections, in flight), at every size every load of a group, and of each load every server; which
goes first changes from round to round. A figure is the median of its rounds.

A server lists all its users after a count, so every server is left to finish before the next
measurement. Groups that only read come first, at exactly the number of users that was asked for;
then mixed loads, then saves, each with all its rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.client.clients import Clients
from benchmarks.client.generator import Outcome
from benchmarks.client.wire import BenchmarkFailed, Point
from benchmarks.results.spread import Spread
from benchmarks.results.subjects import Subject
from benchmarks.servers.servers import Target

REAPED_S = 0.1
"""Until a server's processes that end with their connections, as PostgreSQL's do, have been waited
for: between their end and that, their processor time is nowhere to be seen."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9)

GROUPS = (("count", "get", "verify", "list"), ("mixed",), ("save", "named", "new"))


@dataclass(frozen=True)
class Round:
    """One measurement: requests a second, latencies in ms, client CPU as a share of one core.

    Where the plan says so, also what the server took: `server_cpu_s` for a million requests,
    `server_kernel_s` of it in the kernel, and `memory_bytes`, the most it had before, with all
    connected, and after.
    """

    throughput: float
    percentiles_ms: dict[float, float]
    worst_ms: float
    client_cpu: float
    server_cpu_s: float = 0.0
    server_kernel_s: float = 0.0
    memory_bytes: int = 0

    @classmethod
    def of(cls, outcome: Outcome, seconds: float) -> Round:
        """Turn what the client processes counted into figures."""
        latencies = outcome.latencies
        return cls(
            throughput=outcome.replies / seconds,
            percentiles_ms={p: latencies.percentile_ns(p) / 1e6 for p in PERCENTILES},
            worst_ms=latencies.worst_ns / 1e6,
            client_cpu=outcome.cpu_s / seconds,
        )


class Measurement:
    """What the rounds of one measurement say together."""

    rounds: list[Round]

    @property
    def throughput(self) -> Spread:
        """Requests a second."""
        return Spread(tuple(each.throughput for each in self.rounds))

    def percentile_ms(self, percent: float) -> Spread:
        """Return what a percentile of the latencies was, round by round."""
        return Spread(tuple(each.percentiles_ms[percent] for each in self.rounds))

    @property
    def worst_ms(self) -> float:
        """The worst reply of all rounds."""
        return max(each.worst_ms for each in self.rounds)

    @property
    def client_cpu(self) -> Spread:
        """The share of one core that the client processes used."""
        return Spread(tuple(each.client_cpu for each in self.rounds))

    @property
    def cpu_s(self) -> Spread:
        """Seconds of CPU that the server took for a million requests."""
        return Spread(tuple(each.server_cpu_s for each in self.rounds))

    @property
    def kernel_share(self) -> float:
        """The part of that which the server spent in the kernel; 0 if nothing was measured."""
        kernel = Spread(tuple(each.server_kernel_s for each in self.rounds)).median
        return kernel / self.cpu_s.median if self.cpu_s.median else 0.0

    @property
    def memory_bytes(self) -> int:
        """The most memory that the server was seen to have."""
        return max(each.memory_bytes for each in self.rounds)

    def against(self, other: Measurement) -> Spread | None:
        """Return how many requests were answered for each one of another's, round by round.

        Rounds in which the other answered nothing are left out; None means all of them.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Spread.of(
            this.throughput / that.throughput for this, that in pairs if that.throughput
        )


@dataclass
class Result(Measurement):
    """A point measured on a subject, round by round."""

    subject: Subject
    point: Point
    rounds: list[Round] = field(default_factory=list)


def results_of(wanted: Sequence[tuple[Subject, Sequence[Point]]]) -> list[Result]:
    """Return what there is to measure, without any round yet, as far as the subjects can do it.

    They are in the order of the points, and at each point in the order of the subjects.
    """
    return [
        Result(subject, point)
        for point in dict.fromkeys(point for _, points in wanted for point in points)
        for subject, points in wanted
        if point in points and point.load in subject.loads and subject.target.takes(point)
    ]


@dataclass(frozen=True)
class Plan:
    """For how long each point is measured, and how often."""

    seconds: float
    warmup_s: float
    rounds: int
    usage: bool = False
    """Whether to look at what the servers take as well; not of one that somebody else runs."""

    def turns(self, results: Sequence[Result]) -> Iterator[list[Result]]:
        """Yield what is to be measured in one go, because it is compared, turn by turn."""
        sizes = dict.fromkeys(each.point.size for each in results)
        for group in GROUPS:
            loads = [each for each in results if each.point.load in group]
            for turn in range(self.rounds):
                for size in sizes:
                    together = [each for each in loads if each.point.size == size]
                    first = turn % len(together) if together else 0
                    yield together[first:] + together[:first]


def run(plan: Plan, results: list[Result], clients: Clients, now_at: Callable[[str], None]) -> None:
    """Measure all `results` as `plan` says, telling `now_at` before each measurement."""
    subjects = list({id(each.subject): each.subject for each in results}.values())
    for together in plan.turns(results):
        for result in together:
            for subject in subjects:
                subject.target.settle()
            name = f"{result.subject.target.name} {result.point}"
            now_at(f"{name}, round {len(result.rounds) + 1}")
            _measure(plan, result, clients)
    for subject in subjects:
        subject.check_users()
        subject.check_versions()


def _measure(plan: Plan, result: Result, clients: Clients) -> None:
    """Measure one round more."""
    subject, taken = result.subject, _Taken(result.subject.target) if plan.usage else None
    way = subject.ways.of(result.point.load)
    times = plan.warmup_s, plan.seconds
    connected = taken.look if taken else None
    try:
        outcome = clients.measure(way, result.point, subject.users, times, connected)
    except BenchmarkFailed as failure:
        raise BenchmarkFailed(f"{subject.target.name}, {result.point}: {failure}") from failure
    subject.add(outcome)
    requests = outcome.replies * sum(times) / plan.seconds
    measured = Round.of(outcome, plan.seconds)
    result.rounds.append(taken.added_to(measured, requests) if taken else measured)


class _Taken:
    """What a server takes for one measurement: its warm-up, its last replies and all between."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._seen = [target.usage()]

    def look(self) -> None:
        """Look once more at what the server has."""
        self._seen.append(self._target.usage())

    def added_to(self, measured: Round, requests: float) -> Round:
        """Return the round with what was taken for so many requests, the warm-up's among them."""
        time.sleep(REAPED_S)
        self.look()
        first, last = self._seen[0], self._seen[-1]
        millions = max(requests, 1) / 1e6
        return replace(
            measured,
            server_cpu_s=(last.cpu_s - first.cpu_s) / millions,
            server_kernel_s=(last.kernel_s - first.kernel_s) / millions,
            memory_bytes=max(each.memory_bytes for each in self._seen),
        )
