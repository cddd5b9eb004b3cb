"""Finds out when a cluster takes commits again, or a node no more, without the service.

A thread for each node tries to commit a row there, all the time; a standby refuses it at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from tests.trials.failover.cluster import PROBE, Cluster
from tests.trials.failover.configuration import SUPERUSER, Node
from tests.trials.report import TrialFailed

_INSERT = """INSERT INTO probe (filler)
    SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 4096)"""
"""128 KiB: more than a former primary can have been ahead of its standbys. While such a one comes
back, PostgreSQL takes what it has for a part of the new primary's log, and short commits for
replicated."""

_PAUSE_S = 0.01
_GIVEN_UP_S = 90.0


@dataclass
class Probe:
    """What was found: the first commit of any node."""

    moment: float = 0.0
    found: threading.Event = field(default_factory=threading.Event)
    over: bool = False

    def first_commit(self) -> float:
        """Wait for it; return when it was."""
        if not self.found.wait(_GIVEN_UP_S):
            raise TrialFailed(f"for {_GIVEN_UP_S:.0f} s no node of the cluster took a commit")
        return self.moment

    def run(self, conninfo: str) -> None:
        """Try to commit on a node until it, or another one, has."""
        while not (self.over or self.found.is_set()):
            try:
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    self._try(connection)
            except psycopg.Error:
                time.sleep(_PAUSE_S)

    def _try(self, connection: psycopg.Connection) -> None:
        warned: list[object] = []
        connection.add_notice_handler(warned.append)
        while not (self.over or self.found.is_set()):
            try:
                connection.execute(_INSERT)
            except psycopg.errors.ReadOnlySqlTransaction:
                time.sleep(_PAUSE_S)
                continue
            if not warned and not self.found.is_set():
                self.moment = time.monotonic()
                self.found.set()
            warned.clear()


def await_demotion(cluster: Cluster, node: Node) -> float:
    """Wait until a primary has given up its place, whatever Patroni says; return the seconds."""
    began = time.monotonic()
    conninfo = cluster.conninfo(PROBE, SUPERUSER, node)
    while (seconds := time.monotonic() - began) < _GIVEN_UP_S:
        with suppress(psycopg.Error), psycopg.connect(conninfo) as connection:
            if connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,):
                time.sleep(_PAUSE_S)
                continue
        return seconds
    raise TrialFailed(f"{node.name} was the primary for {_GIVEN_UP_S:.0f} s more")


@contextmanager
def probing(cluster: Cluster, nodes: Iterable[Node]) -> Iterator[Probe]:
    """Try to commit on some nodes during a `with`."""
    probe = Probe()
    for node in nodes:
        # A thread that waits for a frozen node ends when that goes on, or ends.
        conninfo = cluster.conninfo(PROBE, node=node)
        threading.Thread(target=probe.run, args=(conninfo,), daemon=True).start()
    try:
        yield probe
    finally:
        probe.over = True
