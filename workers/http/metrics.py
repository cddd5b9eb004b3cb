"""The metrics in Prometheus's text format, read from the scoreboard when they are asked for.

Names and units follow https://prometheus.io/docs/practices/naming/. No label has what a client can
choose: there are as many time series as workers, commands and outcomes.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pwserver import __version__
from pwserver.ipc import Scoreboard
from pwserver.tally import COMMANDS, KINDS, OUTCOMES, Counts, size_bounds, time_bounds_s

Buckets = list[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Metrics(Collector):
    """All metrics of a service, as a collector of `prometheus_client`."""

    scoreboard: Scoreboard
    workers: int
    names: Mapping[int, str]  # of all children, by their numbers
    database: Path | None  # None: it is on a server
    certificate_ends_s: Callable[[], float | None]  # seconds since 1970

    def text(self) -> bytes:
        """Return the metrics in the text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family of metrics."""
        blocks = {each: self.scoreboard.block(each) for each in range(1, self.workers + 1)}
        yield from self._service()
        yield from _requests(Counts(blocks.values()))
        yield from _commits(Counts(blocks.values()))
        yield from _workers({each: Counts([block]) for each, block in blocks.items()})
        yield from self._processes()
        yield from self._files()

    def _service(self) -> Iterator[Metric]:
        scoreboard = self.scoreboard
        yield InfoMetricFamily("pwserver", "The program.", {"version": __version__})
        started_s = time.time() - (time.monotonic() - scoreboard.started_s)
        yield GaugeMetricFamily(
            "pwserver_start_time_seconds", "When the service was started.", started_s
        )
        yield GaugeMetricFamily("pwserver_users", "Users in all books.", scoreboard.users)
        yield GaugeMetricFamily(
            "pwserver_write_outage", "1 while nothing can be saved.", bool(scoreboard.outage[0])
        )
        yield GaugeMetricFamily(
            "pwserver_disk_low",
            "1 while the disk has less room than saves must leave free.",
            scoreboard.disk_low,
        )
        yield GaugeMetricFamily(
            "pwserver_crowded",
            "1 while clients wait because connections_max is reached.",
            scoreboard.crowded,
        )
        yield GaugeMetricFamily(
            "pwserver_writer_busy_ratio",
            "How much of a processor the worker that writes uses.",
            scoreboard.writer_load / 100,
        )

        yield from self._backups()

    def _backups(self) -> Iterator[Metric]:
        """Yield what is known of the backups that the service makes; without one, only failures."""
        scoreboard = self.scoreboard
        yield GaugeMetricFamily(
            "pwserver_backups_failing",
            "1 since the last backup that should have been made failed.",
            bool(scoreboard.backup_failure[0]),
        )
        if scoreboard.backup_ms:
            yield GaugeMetricFamily(
                "pwserver_last_backup_timestamp_seconds",
                "When the newest verified backup was made.",
                scoreboard.backup_ms / 1000,
            )
        if scoreboard.backup_took_ms:
            yield GaugeMetricFamily(
                "pwserver_last_backup_duration_seconds",
                "How long the newest backup took with its verification.",
                scoreboard.backup_took_ms / 1000,
            )
            yield GaugeMetricFamily(
                "pwserver_last_backup_bytes", "The newest backup.", scoreboard.backup_bytes
            )

    def _processes(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "pwserver_workers_ready", "Workers that can be given work.", self.scoreboard.workers
        )
        yield GaugeMetricFamily(
            "pwserver_workers_wanted", "Workers that there are to be.", self.workers
        )
        restarts = CounterMetricFamily(
            "pwserver_restarts", "How often a process was started again.", labels=["process"]
        )
        for number, name in self.names.items():
            restarts.add_metric([name], max(0, self.scoreboard.starts(number) - 1))
        yield restarts

    def _files(self) -> Iterator[Metric]:
        if self.database is not None:
            yield GaugeMetricFamily(
                "pwserver_database_bytes", "The database file.", size_of(self.database)
            )
            yield GaugeMetricFamily(
                "pwserver_log_bytes", "The write-ahead log file.", size_of(f"{self.database}-wal")
            )
        if (ends_s := self.certificate_ends_s()) is not None:
            yield GaugeMetricFamily(
                "pwserver_certificate_expiry_timestamp_seconds",
                "When the service's certificate expires.",
                ends_s,
            )


def size_of(path: "str | Path") -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _requests(counts: Counts) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "pwserver_requests", "Requests that were answered.", labels=["command", "outcome"]
    )
    for place, command in enumerate(COMMANDS):
        for outcome, name in enumerate(OUTCOMES):
            number = counts.requests(place, outcome)
            if number or not outcome:
                requests.add_metric([command, name], number)
    yield requests
    times = HistogramMetricFamily(
        "pwserver_request_duration_seconds",
        "From the arrival of requests to the sending of their replies.",
        labels=["kind"],
    )
    for kind, name in enumerate(KINDS):
        times.add_metric([name], *_times(counts.times(kind)))
    yield times


def _commits(counts: Counts) -> Iterator[Metric]:
    times = HistogramMetricFamily("pwserver_commit_duration_seconds", "Commits with their sync.")
    times.add_metric([], *_times(counts.commit_times))
    yield times
    sizes = HistogramMetricFamily("pwserver_commit_changes", "Changes that one commit made.")
    *numbers, total = counts.commit_sizes
    sizes.add_metric([], _buckets(size_bounds(), numbers), total)
    yield sizes
    yield CounterMetricFamily(
        "pwserver_failed_commits", "Commits that failed.", counts.single("failed_commits")
    )


def _workers(counts: Mapping[int, Counts]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "pwserver_connections", "Open connections of clients.", labels=["worker"]
    )
    queued = GaugeMetricFamily(
        "pwserver_queued_bytes",
        "Changes that wait: plain ones to be committed, and those of users by name.",
        labels=["worker", "queue"],
    )
    checks = GaugeMetricFamily(
        "pwserver_queued_checks", "Passwords that wait to be checked.", labels=["worker"]
    )
    for number, its in counts.items():
        worker = str(number)
        connections.add_metric([worker], its.single("connections"))
        queued.add_metric([worker, "commit"], its.single("queued"))
        queued.add_metric([worker, "name"], its.single("named"))
        checks.add_metric([worker], its.single("checks"))
    yield from (connections, queued, checks)


def _times(numbers: Sequence[int]) -> tuple[Buckets, float]:
    """Return the buckets of times and their sum in seconds."""
    *buckets, total_us = numbers
    return _buckets(time_bounds_s(), buckets), total_us / 1e6


def _buckets(bounds: Sequence[float], numbers: Sequence[int]) -> Buckets:
    """Return buckets as Prometheus has them: each counts what is in the smaller ones, too."""
    names = [*map(floatToGoString, bounds), "+Inf"]
    so_far = 0
    buckets = []
    for name, number in zip(names, numbers, strict=True):
        so_far += number
        buckets.append((name, float(so_far)))
    return buckets
