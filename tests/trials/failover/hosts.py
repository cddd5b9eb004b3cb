"""The hosts of the service: each a `pwserver serve` with its own folder, key file and port.

All use the one database. Some name all nodes of the cluster and take the one that can be written
to; another has a HAProxy that finds the primary. Each has a HAProxy of its own that leads it to the
cluster, and that can be stopped to cut it off.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from pwserver import Client, PwserverError
from pwserver.wire.messages import RIGHTS
from tests.support.harness import Service, eventually
from tests.support.shell import TREE_ENVIRONMENT, Ran, Shell
from tests.trials.failover.cluster import BOOK, Cluster
from tests.trials.failover.configuration import HOST, SERVICE, balancer, free_port, relay
from tests.trials.report import TrialFailed

HOSTS = 3
BALANCED = HOSTS - 1
"""Which host has a HAProxy that finds the primary."""

LISTED = "20"
"""Users that the console lists, of books that are counted all the time."""

PING_TIMEOUT_S = 2.0
KEY = "user_data.key"


@dataclass
class Host:
    """One host."""

    number: int
    folder: Path
    database: str
    options: Sequence[str] = ()
    balanced: bool = False  # the way that leads it to the cluster finds the primary
    port: int = field(default_factory=free_port)
    _running: Service | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"host {self.number}"

    @property
    def way(self) -> str:
        """What the HAProxy is called that leads it to the cluster."""
        return f"haproxy{self.number}"

    @property
    def key_file(self) -> Path:
        """Its copy of the key file."""
        return self.folder / KEY

    @property
    def environment(self) -> dict[str, str]:
        """With the file that has the password for the database."""
        return {**TREE_ENVIRONMENT, "PGPASSFILE": str(self.folder / "pgpass")}

    def url(self, token: str = "") -> str:
        """Return where clients find it, as an application or as guests."""
        return f"pwserver://{token}{'@' if token else ''}{HOST}:{self.port}"

    def command(self, *words: str) -> Ran:
        """Run a command of its administrator."""
        ran = Shell(self.folder, self.environment).run(*words, "--database", self.database)
        if ran.code:
            raise TrialFailed(f"pwserver {words[0]} failed: {ran.err.strip()}")
        return ran

    def start(self) -> float:
        """Start it; return the seconds until it answered."""
        began = time.monotonic()
        self.launch()
        self.wait()
        return time.monotonic() - began

    def launch(self) -> None:
        """Begin to start it."""
        with (self.folder / "stdout").open("ab") as out:
            self._running = Service(
                self.folder,
                *("--database", self.database, "--list-users", LISTED),
                *self.options,
                port=self.port,
                stdin=subprocess.DEVNULL,
                stdout=out,
                env=self.environment,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        eventually(lambda: self.ended is not None or self.answers(), f"{self.name} answers")
        if self.ended is not None:
            raise TrialFailed(f"{self.name} did not start: {self.last_words()}")

    def answers(self) -> bool:
        """Tell whether it answers."""
        with suppress(PwserverError), Client(self.url(), timeout_s=PING_TIMEOUT_S) as client:
            client.ping()
            return True
        return False

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._running is None else self._running.process.poll()

    def stop(self) -> int:
        """Stop it as one should; return its exit code."""
        assert self._running is not None
        code = self._running.stop()
        if self._running.left_over():
            raise TrialFailed(f"processes of {self.name} outlived it")
        return code

    def close(self) -> None:
        """End it by force."""
        if self._running is not None:
            self._running.kill_everything()
            self._running = None

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "stderr").read_text(errors="replace")

    def last_words(self) -> str:
        """Return the end of what it has logged."""
        return " / ".join(self.log.strip().splitlines()[-3:])


class Hosts:
    """All hosts on one cluster."""

    def __init__(self, home: Path, cluster: Cluster, save_timeout_s: float | None) -> None:
        self._cluster = cluster
        self._options = [] if save_timeout_s is None else ["--save-timeout-s", str(save_timeout_s)]
        self._ways: dict[str, str] = {}  # the configuration of each
        self.each = [self._host(number, home) for number in range(1, HOSTS + 1)]

    def _host(self, number: int, home: Path) -> Host:
        nodes, balanced = self._cluster.nodes, number == BALANCED + 1
        ports = [free_port() for _ in nodes]
        places = ",".join(f"{HOST}:{port}" for port in ports)
        database = f"postgresql://{SERVICE}@{places}/{BOOK}?target_session_attrs=read-write"
        way = relay(nodes, ports)
        if balanced:
            database = f"postgresql://{SERVICE}@{HOST}:{ports[0]}/{BOOK}"
            way = balancer(nodes, ports[0])
        host = Host(number, home / f"host{number}", database, self._options, balanced)
        self._ways[host.way] = way
        return host

    def start(self) -> float:
        """Make the book, copy its key to all hosts, and start all at once; return the seconds."""
        began = time.monotonic()
        first, *others = self.each
        for host in self.each:
            host.folder.mkdir(mode=0o700)
            self._write_password(host)
            self._cluster.start_haproxy(host.way, self._ways[host.way])
        first.command("setup")
        for host in others:
            shutil.copy(first.key_file, host.key_file)
        for host in self.each:
            host.launch()
        for host in self.each:
            host.wait()
        return time.monotonic() - began

    def _write_password(self, host: Host) -> None:
        file = host.folder / "pgpass"
        file.touch(mode=0o600)
        file.write_text(f"*:*:{BOOK}:{SERVICE}:{self._cluster.places.passwords[SERVICE]}\n")

    def add_application(self, name: str) -> str:
        """Register an application with all rights and a book of its own; return its token."""
        added = self.each[0].command("app", "add", name, "--may", ",".join(RIGHTS), "--json")
        return str(added.record["token"])

    def cut(self, host: Host, number: Signals) -> None:
        """Stop what leads a host to the database, or let it go on."""
        self._cluster.signal_haproxy(host.way, number)

    def close(self) -> None:
        """End all by force."""
        for host in self.each:
            host.close()
