"""A cluster on this machine: etcd, nodes of Patroni and PostgreSQL, and what can be done to them.

Everything runs as an ordinary user, in a folder that is given, and ends with `close`. A node is
"the machine" that its PostgreSQL and its Patroni run on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from tests.support.processes import end_session, keeper, launch
from tests.trials.failover import configuration
from tests.trials.failover.configuration import HOST, SERVICE, SUPERUSER, Etcd, Node, Places
from tests.trials.failover.members import ask_to_switch, members, whole
from tests.trials.failover.parts import Parts
from tests.trials.report import TrialFailed

NODES = ETCDS = 3
BOOK, PROBE = "book", "probe"
"""Databases: the service's, and one to try commits in."""

READY_TIMEOUT_S = 120.0
SWITCHOVER_TIMEOUT_S = 60.0
POLL_S = 0.05


class Cluster:
    """Three members of etcd and three nodes."""

    def __init__(self, home: Path, parts: Parts) -> None:
        self.parts = parts
        self.places = Places(
            home,
            [Node(number) for number in range(1, NODES + 1)],
            [Etcd(number) for number in range(1, ETCDS + 1)],
        )
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._groups: dict[Node, int] = {}  # the process group of each PostgreSQL, to be kept
        home.chmod(0o755)
        parts.own(home)

    @property
    def nodes(self) -> list[Node]:
        """All nodes."""
        return list(self.places.nodes)

    # --- Start and end. ---

    def start(self) -> float:
        """Start everything and make the databases; return the seconds until three nodes were up."""
        began = time.monotonic()
        for etcd in self.places.etcds:
            self.start_etcd(etcd)
        first, *others = self.nodes
        self.start_node(first)
        self._await(lambda: self.leader() == first, "the first node leads")
        for node in others:
            self.start_node(node)
        self._await(self.whole, "all nodes are up")
        for node in self.nodes:
            self._postmaster(node)
        seconds = time.monotonic() - began
        self._make_databases()
        return seconds

    def start_node(self, node: Node) -> None:
        """Start a node's Patroni, which starts its PostgreSQL."""
        file = self._write(
            f"{node.name}.yml", configuration.patroni(self.places, node, self.parts.postgres)
        )
        self._start(node.name, [self.parts.patroni, str(file)])

    def start_etcd(self, etcd: Etcd) -> None:
        """Start a member of etcd."""
        self._start(etcd.name, [self.parts.etcd, *configuration.etcd_options(self.places, etcd)])

    def start_haproxy(self, name: str, text: str) -> None:
        """Start a HAProxy with a configuration."""
        file = self._write(f"{name}.cfg", text)
        self._start(name, [self.parts.haproxy, "-db", "-f", str(file)])

    def close(self) -> None:
        """End everything that was started."""
        for process in self._running.values():  # also what is stopped; Patroni before PostgreSQL
            end_session(process)
        for node in self.nodes:
            self.signal_postgres(node, signal.SIGKILL)
        for group in self._groups.values():
            keeper().forget(group)

    def _start(self, name: str, command: list[str]) -> None:
        if not Path(command[0]).exists():
            raise TrialFailed(f"{command[0]} is missing")
        with (self.places.home / f"{name}.log").open("ab") as log:
            self._running[name] = launch(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.places.home,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.places.home)},
                **self.parts.popen,
            )

    def _write(self, name: str, text: str) -> Path:
        """Write a file that nobody but the cluster's user may read."""
        file = self.places.home / name
        file.touch(mode=0o600)
        self.parts.own(file)
        file.write_text(text)
        return file

    def _make_databases(self) -> None:
        with psycopg.connect(self.conninfo("postgres", SUPERUSER), autocommit=True) as connection:
            password = self.places.passwords[SERVICE]
            connection.execute(f"CREATE ROLE {SERVICE} LOGIN PASSWORD '{password}'")
            for name in (BOOK, PROBE):
                connection.execute(f"CREATE DATABASE {name} OWNER {SERVICE}")
        with psycopg.connect(self.conninfo(PROBE), autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE probe (at timestamptz DEFAULT clock_timestamp(), filler text)"
            )

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            ended = [name for name, each in self._running.items() if each.poll() is not None]
            if ended or time.monotonic() > deadline:
                late = f"within {READY_TIMEOUT_S:.0f} s not: {what}"
                why = f"{ended[0]} has ended: {self._last_words(ended[0])}" if ended else late
                raise TrialFailed(why)
            time.sleep(POLL_S)

    def _last_words(self, name: str) -> str:
        log = (self.places.home / f"{name}.log").read_text(errors="replace")
        return " / ".join(log.strip().splitlines()[-3:])

    # --- Who does what. ---

    def leader(self) -> Node | None:
        """Return the primary's node, if there is one."""
        return next((each.node for each in members(self.nodes) if each.leads), None)

    def whole(self) -> bool:
        """Tell whether both standbys follow the primary, and commits wait for one of them."""
        return whole(self.nodes)

    def await_whole(self) -> float:
        """Wait until all nodes are up again; return the seconds."""
        began = time.monotonic()
        self._await(self.whole, "all nodes are up again")
        for node in self.nodes:
            self._postmaster(node)
        return time.monotonic() - began

    def conninfo(self, database: str, role: str = SERVICE, node: Node | None = None) -> str:
        """Return how to connect to the primary, or to a node whatever it is."""
        nodes = self.nodes if node is None else [node]
        ports = ",".join(str(each.port) for each in nodes)
        hosts = ",".join(HOST for _ in nodes)
        attributes = "read-write" if node is None else "any"
        return (
            f"host={hosts} port={ports} dbname={database} user={role} "
            f"password={self.places.passwords[role]} target_session_attrs={attributes} "
            "connect_timeout=2 sslmode=disable gssencmode=disable"
        )

    # --- What is done to nodes. ---

    def signal_postgres(self, node: Node, number: signal.Signals) -> None:
        """Send a signal to all processes of a node's PostgreSQL."""
        if (pid := self._postmaster(node)) is not None:
            _signal(_tree(pid), number)

    def thaw_standby(self, node: Node) -> None:
        """Let a frozen standby go on, without what its primary has sent it meanwhile."""
        if (pid := self._postmaster(node)) is not None:
            processes = _tree(pid)
            # It ends before it reads what waits in its socket.
            _signal([each for each in processes if _is_receiver(each)], signal.SIGTERM)
            _signal(processes, signal.SIGCONT)

    def signal_machine(self, node: Node, number: signal.Signals) -> None:
        """Send a signal to all processes of a node."""
        patroni = self._running[node.name]
        if number != signal.SIGKILL:
            _signal(_tree(patroni.pid), number)
        else:
            self._kill(node.name)
        self.signal_postgres(node, number)

    def kill_etcd(self, etcd: Etcd) -> None:
        """Kill a member of etcd."""
        self._kill(etcd.name)

    def signal_haproxy(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a HAProxy."""
        _signal(_tree(self._running[name].pid), number)

    def _kill(self, name: str) -> None:
        end_session(self._running.pop(name))

    def switch_over(self, old: Node, new: Node) -> None:
        """Have the primary hand over to another node, as soon as Patroni lets it."""
        deadline = time.monotonic() + SWITCHOVER_TIMEOUT_S
        while refused := ask_to_switch(old, new):
            if time.monotonic() > deadline:
                raise TrialFailed(f"Patroni does not switch over to {new.name}: {refused}")
            time.sleep(POLL_S)

    def _postmaster(self, node: Node) -> int | None:
        """Return the process id of a node's PostgreSQL, which is to end with the trial."""
        try:
            pid = int((self.places.data(node) / "postmaster.pid").read_text().split()[0])
            if not psutil.Process(pid).name().startswith("postgres"):
                return None
            group = os.getpgid(pid)
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        if (before := self._groups.get(node)) != group:
            if before is not None:
                keeper().forget(before)
            self._groups[node] = group
            keeper().keep(group)
        return pid


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and those that it has started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _is_receiver(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "walreceiver" in " ".join(process.cmdline())
    return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
