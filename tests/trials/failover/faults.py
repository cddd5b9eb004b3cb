"""What is done to the cluster and to the hosts, and how each is done.

Each fault ends when saves may be acknowledged again, and returns since when: for a failover that is
the new primary's first commit. All come from outside, by signals and requests.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from tests.trials.failover.cluster import PROBE, Cluster
from tests.trials.failover.configuration import SERVICE, SUPERUSER, Etcd, Node
from tests.trials.failover.hosts import Host
from tests.trials.failover.probe import await_demotion, probing
from tests.trials.report import TrialFailed

if TYPE_CHECKING:
    from tests.trials.failover.trial import Trial

CUT_S = 8.0
"""Longer than the service lets a save wait."""

ETCD_S = 8.0
"""Longer than Patroni tries to reach etcd before it does something about it."""

CANCEL_S = 3.0
CANCEL_EVERY_S = (0.0, 0.1)
TERMINATED = 0.2
"""The share of backends that are terminated, and do not only have a statement cancelled."""

UNREPLICATED_S = 1.5
UNREPLICATED_EVERY_S = 0.005

_SERVICES = (
    "FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


@dataclass(frozen=True)
class Done:
    """A fault that is over.

    text      what was done, in a line
    resumed   since when saves may be acknowledged
    hosts     whose first save since then is timed, and is to come in time
    """

    text: str
    resumed: float
    hosts: list[Host]


def kill_postgres(trial: Trial) -> Done:
    """Kill all processes of the primary's PostgreSQL; its Patroni lives."""
    old = _leader(trial.cluster)
    trial.cluster.signal_postgres(old, signal.SIGKILL)
    return _failed_over(trial, old, "its PostgreSQL killed", trial.cluster.nodes)


def kill_machine(trial: Trial) -> Done:
    """Kill the primary's PostgreSQL and Patroni, and start Patroni again after the failover."""
    old = _leader(trial.cluster)
    trial.cluster.signal_machine(old, signal.SIGKILL)
    done = _failed_over(trial, old, "its PostgreSQL and Patroni killed", _others(trial, old))
    trial.await_saves(done)
    trial.cluster.start_node(old)
    return done


def freeze(trial: Trial) -> Done:
    """Stop the primary's PostgreSQL and Patroni, and let them go on after the failover."""
    old = _leader(trial.cluster)
    trial.cluster.signal_machine(old, signal.SIGSTOP)
    try:
        done = _failed_over(trial, old, "frozen and thawed", _others(trial, old))
        trial.await_saves(done)
    finally:
        trial.thawed()
        trial.cluster.signal_machine(old, signal.SIGCONT)
    return done


def switch_over(trial: Trial) -> Done:
    """Have the primary hand over to another node."""
    old = _leader(trial.cluster)
    new = trial.random.choice(_others(trial, old))
    with probing(trial.cluster, _others(trial, old)) as probe:
        trial.cluster.switch_over(old, new)
        return Done(f"{old.name} handed over to {new.name}", probe.first_commit(), trial.hosts)


def cancel(trial: Trial) -> Done:
    """Cancel statements of the hosts, and terminate their backends, at random."""
    cancelled = terminated = 0
    until = time.monotonic() + CANCEL_S
    with _superuser(trial.cluster, _leader(trial.cluster)) as connection:
        while time.monotonic() < until:
            kill = trial.random.random() < TERMINATED
            function = "pg_terminate_backend" if kill else "pg_cancel_backend"
            query = f"SELECT {function}(pid) {_SERVICES} ORDER BY random() LIMIT 1"
            hit = len(connection.execute(query, (SERVICE,)).fetchall())
            terminated += hit * kill
            cancelled += hit * (not kill)
            time.sleep(trial.random.uniform(*CANCEL_EVERY_S))
    text = f"{cancelled} backends cancelled, {terminated} terminated"
    return Done(text, time.monotonic(), trial.hosts)


def lose_commits(trial: Trial) -> Done:
    """Freeze both standbys, cancel all waits for them, and kill the primary: its commits are lost.

    PostgreSQL answers each cancelled wait with a COMMIT and a warning. A row that is committed
    without such a wait shows that the commits were lost.
    """
    old = _leader(trial.cluster)
    standbys = _others(trial, old)
    cancelled = 0
    with _superuser(trial.cluster, old) as connection:
        connection.execute("SET synchronous_commit = local")
        try:
            for node in standbys:
                trial.cluster.signal_postgres(node, signal.SIGSTOP)
            until = time.monotonic() + UNREPLICATED_S
            while time.monotonic() < until:
                query = f"SELECT pg_cancel_backend(pid) {_SERVICES} AND wait_event = 'SyncRep'"
                cancelled += len(connection.execute(query, (SERVICE,)).fetchall())
                time.sleep(UNREPLICATED_EVERY_S)
            inserted = "INSERT INTO probe DEFAULT VALUES RETURNING at"
            (committed,) = connection.execute(inserted).fetchall()
            trial.cluster.signal_postgres(old, signal.SIGKILL)
        finally:
            for node in standbys:
                trial.cluster.thaw_standby(node)
    what = f"killed after {cancelled} cancelled waits for frozen standbys"
    done = _failed_over(trial, old, what, trial.cluster.nodes)
    with psycopg.connect(trial.cluster.conninfo(PROBE)) as connection:
        kept = connection.execute("SELECT 1 FROM probe WHERE at = %s", committed).fetchall()
    return replace(done, text=f"{done.text}, {'nothing' if kept else 'its last commits'} lost")


def cut_off(trial: Trial) -> Done:
    """Stop what leads any host to the database; all others are to notice nothing."""
    host = trial.random.choice(trial.hosts)
    trial.hosts_of_all.cut(host, signal.SIGSTOP)
    try:
        time.sleep(CUT_S)
    finally:
        moment = time.monotonic()
        trial.hosts_of_all.cut(host, signal.SIGCONT)
    return Done(f"{host.name} cut off for {CUT_S:.0f} s", moment, [host])


def lose_etcd(trial: Trial) -> Done:
    """Kill one member of etcd, or all for some seconds; nobody is to notice anything.

    A primary that reaches all other nodes goes on without etcd.
    """
    etcds = trial.cluster.places.etcds
    killed = trial.random.choice([etcds, [trial.random.choice(etcds)]])
    with _without_etcd(trial.cluster, killed):
        time.sleep(ETCD_S)
    names = ", ".join(each.name for each in killed)
    return Done(f"{names} killed, and started again after {ETCD_S:.0f} s", time.monotonic(), [])


def isolate(trial: Trial) -> Done:
    """Kill all etcd and freeze a standby, until the primary gives up its place for that."""
    old = _leader(trial.cluster)
    standby = trial.random.choice(_others(trial, old))
    trial.cluster.signal_machine(standby, signal.SIGSTOP)
    try:
        with _without_etcd(trial.cluster, trial.cluster.places.etcds):
            seconds = await_demotion(trial.cluster, old)
        what = f"gave up its place after {seconds:.1f} s without etcd and {standby.name}"
        done = _failed_over(trial, old, what, _others(trial, standby))
        trial.await_saves(done)
    finally:
        trial.cluster.signal_machine(standby, signal.SIGCONT)
    return done


@contextmanager
def _without_etcd(cluster: Cluster, killed: Sequence[Etcd]) -> Iterator[None]:
    """Have members of etcd killed, and start them again at the end."""
    for etcd in killed:
        cluster.kill_etcd(etcd)
    try:
        yield
    finally:
        for etcd in killed:
            cluster.start_etcd(etcd)


def restart_hosts(trial: Trial) -> Done:
    """Stop one host after the other as one should, and start each again before the next."""
    times = []
    for host in trial.hosts:
        if code := host.stop():
            raise TrialFailed(f"{host.name} ended with {code}: {host.last_words()}")
        times.append(host.start())
    moment = time.monotonic()
    text = "all hosts restarted, ready after " + ", ".join(f"{each:.1f} s" for each in times)
    return Done(text, moment, trial.hosts)


FAULTS: dict[str, Callable[[Trial], Done]] = {
    "postgres": kill_postgres,
    "machine": kill_machine,
    "freeze": freeze,
    "switchover": switch_over,
    "cancel": cancel,
    "unreplicated": lose_commits,
    "etcd": lose_etcd,
    "isolated": isolate,
    "cut": cut_off,
    "restart": restart_hosts,
}


def _leader(cluster: Cluster) -> Node:
    leader = cluster.leader()
    if leader is None:
        raise TrialFailed("the cluster has no primary")
    return leader


def _others(trial: Trial, node: Node) -> list[Node]:
    return [each for each in trial.cluster.nodes if each != node]


def _failed_over(trial: Trial, old: Node, what: str, nodes: list[Node]) -> Done:
    began = time.monotonic()
    with probing(trial.cluster, nodes) as probe:
        moment = probe.first_commit()
    text = f"{old.name} {what}, the next commit after {moment - began:.1f} s"
    return Done(text, moment, trial.hosts)


def _superuser(cluster: Cluster, node: Node) -> psycopg.Connection:
    return psycopg.connect(cluster.conninfo(PROBE, SUPERUSER, node), autocommit=True)
