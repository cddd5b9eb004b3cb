"""The order of the measurements, and the check that every acknowledged save is there.

Machines drift: another tenant, a warmer core, a disk that tidies up. So what is compared is
measured in turn within one run: each round visits every point, and at every point every server;
which goes first changes from round to round. A point's figure is the median of its rounds.

A server lists all its users after a count, so every server is left to finish before the next
measurement. Loads come in the order that keeps this short, and counts at exactly the number of
users that was asked for: counts alone, then mixed, then saves, each with all its rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from clients import Clients
from generator import Outcome
from servers import Target
from wire import BenchmarkFailed, Point, number_of_users

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass
class Subject:
    """A server with a number of users in it, and the account of what was saved there."""

    target: Target
    users: int
    users_before: int
    saves: int = 0
    """Saves this run had acknowledged: preload, warm-up and measured time together."""

    @classmethod
    def prepare(cls, target: Target, users: int, clients: Clients) -> Subject:
        """Fill `target` up to `users` users."""
        subject = cls(target, users, number_of_users(target.address))
        missing = users - subject.users_before
        if users and missing < 0:
            raise BenchmarkFailed(f"{target.name} has {subject.users_before} users, not {users}")
        if missing > 0:
            subject.saves += clients.preload(target.address, missing).saves
        subject.check()
        return subject

    def check(self) -> None:
        """Raise unless the users grew by exactly the saves that were acknowledged."""
        number = number_of_users(self.target.address)
        expected = self.users_before + self.saves
        if number != expected:
            raise BenchmarkFailed(
                f"{self.target.name} has {number} users; {self.users_before} it had and "
                f"{self.saves} saves it acknowledged make {expected}"
            )


@dataclass(frozen=True)
class Round:
    """One measurement: requests a second, latencies in ms, client CPU as a share of one core."""

    throughput: float
    percentiles_ms: dict[float, float]
    worst_ms: float
    client_cpu: float

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


@dataclass
class Result:
    """A point measured on a subject, round by round."""

    subject: Subject
    point: Point
    rounds: list[Round] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Return the median of the rounds, in requests a second."""
        return median(each.throughput for each in self.rounds)

    @property
    def throughput_range(self) -> tuple[float, float]:
        """Return the slowest and the fastest round, in requests a second."""
        throughputs = [each.throughput for each in self.rounds]
        return min(throughputs), max(throughputs)

    def percentile_ms(self, percent: float) -> float:
        """Return the median of the rounds' percentile, in ms."""
        return median(each.percentiles_ms[percent] for each in self.rounds)

    @property
    def worst_ms(self) -> float:
        """Return the worst reply of all rounds, in ms."""
        return max(each.worst_ms for each in self.rounds)

    @property
    def client_cpu(self) -> float:
        """Return the median share of one core that the client processes used."""
        return median(each.client_cpu for each in self.rounds)


@dataclass(frozen=True)
class Plan:
    """What is measured at each subject, and for how long."""

    points: Sequence[Point]
    seconds: float
    warmup_s: float
    rounds: int

    def measurements(self, subjects: int) -> int:
        """Return how many measurements the run makes."""
        return len(self.points) * self.rounds * subjects


def run(
    plan: Plan, subjects: list[Subject], clients: Clients, now_at: Callable[[str], None]
) -> list[Result]:
    """Measure every point of `plan` on every subject, telling `now_at` before each measurement."""
    results = {(p, i): Result(s, p) for p in plan.points for i, s in enumerate(subjects)}
    for load in ("count", "mixed", "save"):
        points = [point for point in plan.points if point.load == load]
        for turn in range(plan.rounds):
            for point in points:
                for index in _turned(len(subjects), turn):
                    result = results[point, index]
                    for subject in subjects:
                        subject.target.settle()
                    now_at(f"{result.subject.target.name} {point}, round {turn + 1}")
                    result.rounds.append(_measure(plan, result, clients))
    for subject in subjects:
        subject.check()
    return list(results.values())


def _measure(plan: Plan, result: Result, clients: Clients) -> Round:
    target = result.subject.target
    try:
        outcome = clients.measure(target.address, result.point, plan.warmup_s, plan.seconds)
    except BenchmarkFailed as failure:
        raise BenchmarkFailed(f"{target.name}, {result.point}: {failure}") from failure
    result.subject.saves += outcome.saves
    return Round.of(outcome, plan.seconds)


def _turned(length: int, by: int) -> list[int]:
    """Return 0 to `length` - 1, starting at `by` and going round."""
    return [(index + by) % length for index in range(length)]
