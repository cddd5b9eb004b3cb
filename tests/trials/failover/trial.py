"""The course of a run: the hosts under load, one fault after another, and the looks at the book.

After every fault the load is held, each host saves once more, so that whatever it still had to find
out is settled, and the database is held against the ledger.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pwserver import Client, PwserverError
from tests.trials.failover.cluster import Cluster
from tests.trials.failover.faults import FAULTS, Done
from tests.trials.failover.hosts import Host, Hosts
from tests.trials.failover.load import Guest, Instance, Roamer
from tests.trials.failover.looking import look_at
from tests.trials.failover.parts import Parts
from tests.trials.failover.tally import Measured, Tally
from tests.trials.failover.watch import CLIENT_TIMEOUT_S, Watch
from tests.trials.report import TrialFailed
from tests.trials.torture.ledger import Ledger, password_of
from tests.trials.torture.load import Source
from tests.trials.torture.state import State

APPLICATIONS = ("red", "blue")
PROBE = "probe"
CALM_S = 1.5
AWAIT_S = 60.0
BALANCER_S = 1.0
"""What the host with a HAProxy before it may take longer: until that has found the new primary."""

POLL_S = 0.01
JOIN_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Plan:
    """How a run is to be.

    order        the faults, one after the other
    seconds      after which no fault begins
    within_s     how soon each host is to acknowledge a save once it can be
    saves_per_s  of all sources together, about
    save_timeout_s  a setting of the hosts; None: its default. Clients wait longer than that
    """

    order: Sequence[str]
    seed: int
    seconds: float
    within_s: float
    saves_per_s: float
    save_timeout_s: float | None = None


class Trial:
    """A run on one cluster."""

    def __init__(self, plan: Plan, cluster: Cluster, hosts: Hosts, console: Console) -> None:
        self.plan = plan
        self.cluster = cluster
        self.hosts_of_all = hosts
        self.hosts: list[Host] = hosts.each
        self.random = random.Random(plan.seed)
        self.tally = Tally(console)
        timeout_s = CLIENT_TIMEOUT_S + (plan.save_timeout_s or 0.0)
        self.watches = [Watch(timeout_s=timeout_s) for _ in self.hosts]
        self._ledger = Ledger()
        self._canary = f"canary-{secrets.token_hex(8)}"
        self._tokens: dict[str, str] = {}
        self._broken: list[str] = []
        self._states = [self._state(host.port) for host in self.hosts]
        self._roaming = self._state(0)
        self._sources = self._make_sources()
        self._books = {each.name: getattr(each, "application", "") for each in self._sources}
        self._books[PROBE] = ""

    def _state(self, port: int) -> State:
        """Return the state of the load of a host: all have the same ledger."""
        return State(port, self._canary, self._broken, self._tokens, self._ledger)

    def _make_sources(self) -> list[Source]:
        number = len(self.hosts) * (1 + len(APPLICATIONS)) + len(APPLICATIONS)
        rate, seed = self.plan.saves_per_s / number, self.plan.seed
        found: list[Source] = []
        for at in zip(self.hosts, self.watches, self._states, strict=True):
            found.append(Guest(*at, rate, seed))
            found += [Instance(name, *at, rate, seed) for name in APPLICATIONS]
        everywhere = (self.hosts, self.watches, self._roaming)
        return found + [Roamer(name, *everywhere, rate, seed) for name in APPLICATIONS]

    # --- The course. ---

    def run(self) -> None:
        """Start, let the faults happen until the time is over, and look at everything."""
        self.tally.say(f"the cluster was up after {self.cluster.start():.1f} s")
        self.tally.say(f"three hosts were up after {self.hosts_of_all.start():.1f} s")
        for name in APPLICATIONS:
            self._tokens[name] = self.hosts_of_all.add_application(name)
        for source in self._sources:
            source.start()
        try:
            for name in self.plan.order:
                if self.tally.seconds > self.plan.seconds:
                    self.tally.say("there is no time for more")
                    break
                time.sleep(CALM_S)
                self._do(name)
            self._end()
        finally:
            for state in (*self._states, self._roaming):
                state.finish()
            for source in self._sources:
                source.join(JOIN_TIMEOUT_S)
            self.tally.reasons = sum((watch.reasons for watch in self.watches), Counter())

    def _do(self, name: str) -> None:
        before = self._outcomes()
        for watch in self.watches:
            watch.longest_s = 0.0
        began = time.monotonic()
        done = FAULTS[name](self)
        resumed = self.await_saves(done)
        self.cluster.await_whole()
        ended = time.monotonic()
        pauses = {
            host.name: watch.pause(began, ended)
            for host, watch in zip(self.hosts, self.watches, strict=True)
        }
        self._judge(name, done, resumed, pauses)
        self.look()
        longest_s = max(watch.longest_s for watch in self.watches)
        outcomes = self._outcomes() - before
        measured = Measured(
            pauses_s=[*pauses.values()],
            resumed_s=[*resumed.values()],
            longest_s=longest_s,
            outcomes=outcomes,
        )
        self.tally.line(name, done.text, measured)
        self._release()

    def await_saves(self, done: Done) -> dict[str, float]:
        """Wait for the first saves after a fault; return after how many seconds they came."""
        deadline = time.monotonic() + AWAIT_S
        found: dict[str, float] = {}
        for host, watch in zip(self.hosts, self.watches, strict=True):
            while host in done.hosts and host.name not in found:
                if (moment := watch.next_after(done.resumed)) is not None:
                    found[host.name] = moment - done.resumed
                elif time.monotonic() > deadline:
                    found[host.name] = AWAIT_S
                    self.tally.breach(f"{host.name} saved nothing again: {host.last_words()}")
                time.sleep(POLL_S)
        return found

    def _judge(
        self, name: str, done: Done, resumed: dict[str, float], pauses: dict[str, float]
    ) -> None:
        for host in self.hosts:
            within_s = self.plan.within_s + (BALANCER_S if host.balanced else 0.0)
            if (seconds := resumed.get(host.name, 0.0)) > within_s:
                self.tally.breach(f"after {name}, {host.name} saved again {seconds:.2f} s late")
            if host not in done.hosts and pauses[host.name] > self.plan.within_s:
                text = f"during {name}, {host.name} paused for {pauses[host.name]:.2f} s"
                self.tally.breach(text)
            if host.ended is not None:
                raise TrialFailed(f"{host.name} ended with {host.ended}: {host.last_words()}")

    def thawed(self) -> None:
        """Note that a primary of before comes back: for a moment reads may come from it."""
        for state in self._states:
            state.book_since_s = time.monotonic()

    def _outcomes(self) -> Counter[str]:
        return sum((watch.outcomes for watch in self.watches), Counter())

    # --- Looking at the book. ---

    def look(self, *, whole: bool = False) -> None:
        """Hold the load, and the database against the ledger."""
        for state in (self._roaming, *self._states):
            state.hold()
        for host in self.hosts:
            self._save_at(host)
        findings = look_at(self.cluster, self.hosts, self._ledger, self._books, whole=whole)
        self.tally.looked(findings)
        while self._broken:
            self.tally.breach(self._broken.pop(0))
        for host, watch in zip(self.hosts, self.watches, strict=True):
            if watch.hung:
                self.tally.breach(f"{watch.hung} calls of clients of {host.name} hung")
                watch.hung = 0

    def _release(self) -> None:
        for state in (self._roaming, *self._states):
            state.release()

    def _save_at(self, host: Host) -> None:
        """Have a save acknowledged: what the host had before that is settled as well."""
        deadline = time.monotonic() + AWAIT_S
        numbers = self._ledger.source(PROBE)
        with Client(host.url()) as client:
            while time.monotonic() < deadline:
                number = numbers.begin(1)[0]
                try:
                    client.save_password(password_of(self._canary, PROBE, number))
                except PwserverError:
                    time.sleep(POLL_S)
                else:
                    numbers.saved(number)
                    return
        raise TrialFailed(f"{host.name} acknowledges nothing: {host.last_words()}")

    def _end(self) -> None:
        """Look at all of the book, and stop all hosts."""
        self.look(whole=True)
        for host in self.hosts:
            if code := host.stop():
                self.tally.breach(f"{host.name} ended with {code}: {host.last_words()}")
            if "Traceback" in host.log:
                self.tally.breach(f"{host.name} logged a traceback")


def run_plan(plan: Plan, parts: Parts, directory: Path, console: Console) -> Tally:
    """Run a trial in a folder of its own, of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="pwserver-failover-", dir=directory) as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "cluster").mkdir()
        cluster = Cluster(home / "cluster", parts)
        hosts = Hosts(home, cluster, plan.save_timeout_s)
        trial = Trial(plan, cluster, hosts, console)
        try:
            trial.run()
        except TrialFailed as failure:
            trial.tally.breach(str(failure))
        finally:
            hosts.close()
            cluster.close()
        return trial.tally
