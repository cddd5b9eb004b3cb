"""The course of a run: the service under load, one fault after another, and the looks at its book.

After every restart of the whole service, and at the end, the load is held, so that nothing is under
way, and the book is held against the ledger: before the service is started again, by its file, and
then by what the service itself says. Everything that a fault does is in `faults`.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from pwserver import Client, PwserverError
from tests.trials.restarted import RestartedService
from tests.trials.torture.administrator import APPLICATIONS, Administrator
from tests.trials.torture.applications import Application
from tests.trials.torture.growth import Sample
from tests.trials.torture.inspection import inspect
from tests.trials.torture.leaks import secrets_found, written_in
from tests.trials.torture.ledger import Ledger, password_of
from tests.trials.torture.load import Guest, Source
from tests.trials.torture.state import State
from tests.trials.torture.tally import Tally

READY_S = 3.0
"""Within which the service is to be ready after everything was killed."""

JOIN_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 30.0
PROBE_PAUSE_S = 0.005
SAMPLE_EVERY_S = 1.0
GUESTS = 3
INSTANCES = 2
PROBE = "probe"


@dataclass(frozen=True)
class Plan:
    """How a run is to be.

    every_s     between faults, about
    within_s    how soon the service is to answer again
    hang_s      the service's own setting: after how long a silent child is replaced
    """

    seed: int
    seconds: float
    every_s: float
    within_s: float
    saves_per_s: float
    hang_s: float


class Trial:
    """A run on one service."""

    def __init__(self, plan: Plan, service: RestartedService, console: Console) -> None:
        self.plan = plan
        self.service = service
        self.random = random.Random(plan.seed)
        canary = "canary-" + "".join(self.random.choices("bcdfghjkmnpqrstvwxz", k=16))
        self.state = State(service.port, canary)
        self.administrator = Administrator(service, self.state)
        self.backed_up: Ledger | None = None
        self._sources = self._make_sources()
        self._books = {source.name: _application(source) for source in self._sources} | {PROBE: ""}
        self.tally = Tally(self._sources, console)
        self._sampled_s = 0.0

    def _make_sources(self) -> list[Source]:
        number = GUESTS + INSTANCES * len(APPLICATIONS)
        share, seed = self.plan.saves_per_s / number, self.plan.seed
        guests = [Guest(f"guest-{n}", self.state, share, seed) for n in range(GUESTS)]
        return [
            *guests,
            *(
                Application(name, n, self.state, share, seed)
                for name in APPLICATIONS
                for n in range(INSTANCES)
            ),
        ]

    # --- The course. ---

    def run(self, next_fault: Callable[[Trial], None]) -> None:
        """Start, let faults happen until the time is over, and look at everything."""
        self.service.start()
        self.administrator.register()
        for source in self._sources:
            source.start()
        try:
            while self.tally.seconds < self.plan.seconds:
                # Of its own for each fault: how the one before it went must not change the order.
                self.random = random.Random(f"{self.plan.seed} {self.tally.faults.total()}")
                time.sleep(self.random.uniform(0.5, 1.5) * self.plan.every_s)
                self._sample()
                next_fault(self)
                self.heed()
            self._end()
            self.tally.say(f"the administrator was refused {self.administrator.refused} times")
        finally:
            self.administrator.end_rotation()
            self.state.finish()
            for source in self._sources:
                source.join(JOIN_TIMEOUT_S)

    def heed(self) -> None:
        """Note what the load found, and whether the service has ended by itself."""
        while self.state.broken:
            self.tally.breach(self.state.broken.pop(0))
        if (code := self.service.ended) is not None:
            self.tally.breach(f"the service ended with {code}: {self.service.last_words()}")
            self.service.kill_everything()
            self.renew("its end")

    def _sample(self) -> None:
        if time.monotonic() > self._sampled_s + SAMPLE_EVERY_S:
            self._sampled_s = time.monotonic()
            self.tally.samples.append(Sample.of(self.service))

    def _end(self) -> None:
        """Look at the book and at all files, after a last kill and after a clean stop."""
        self.state.hold()
        self.administrator.end_rotation()
        self._compare_total()
        self.service.kill_everything()
        self.look()
        self._look_for_secrets()
        self.service.start()
        code = self.service.running.stop()
        if code:
            self.tally.breach(f"a clean stop ended with {code}: {self.service.last_words()}")
        self.look(whole=True)
        self._look_for_secrets()
        if problem := self.administrator.verify_record():
            self.tally.breach(f"the audit record: {problem}")
        if "Traceback" in self.service.stderr.read_text(errors="replace"):
            self.tally.breach("the service logged a traceback")

    # --- Looking at the book. ---

    def renew(self, after: str) -> float:
        """Look at the book of a service that is dead, and start it; return how long that took."""
        self.state.hold()
        self.administrator.end_rotation()
        self.look()
        return self.start_again(after)

    def start_again(self, after: str) -> float:
        """Start the service, which must have what its file has, and let the load go on."""
        seconds = self.service.start()
        self.tally.recovered(f"{after}, from the start", seconds)
        if seconds > max(READY_S, self.plan.within_s):
            self.tally.breach(f"after {after} it was ready in {seconds:.2f} s only")
        self._compare_total()
        self.state.release()
        return seconds

    def look(self, *, whole: bool = False) -> None:
        """Hold the book's file against the ledger."""
        store = self.service.store
        ledger = self.state.ledger
        findings = inspect(store.path, store.key_path, ledger, self._books, whole=whole)
        self.tally.looked(findings)

    def _compare_total(self) -> None:
        """See that the service has as many users as are known; to be done while nothing changes."""
        with Client(self.url) as client:
            users = client.number_of_users()
        least = self.state.ledger.sure
        if not least <= users <= least + self.state.ledger.open:
            self.tally.found["mismatch"] += 1
            self.tally.breach(f"the service counts {users} users, and {least} are known")

    def _look_for_secrets(self) -> None:
        files = written_in(self.service.folder, self.service.output)
        key_file = self.service.store.key_path
        for text in secrets_found(files, self.state.canary, key_file):
            self.tally.breach(f"{text}, in the clear")
        for core in [file.name for file in files if file.name.startswith("core")]:
            self.tally.breach(f"there is a core file, {core}")

    # --- Recovery. ---

    @property
    def url(self) -> str:
        """Where guests find the service."""
        return f"pwserver://127.0.0.1:{self.service.port}"

    def recover(self, after: str, since_s: float, allowed_s: float = 0.0) -> float:
        """Wait until a save is acknowledged to who comes now; return the seconds since a fault."""
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while not self._probe():
            if time.monotonic() > deadline or self.service.ended is not None:
                self.tally.breach(f"after {after} nothing was saved again")
                return time.monotonic() - since_s
            time.sleep(PROBE_PAUSE_S)
        seconds = time.monotonic() - since_s
        self.tally.recovered(after, seconds)
        if seconds > (allowed_s or self.plan.within_s):
            self.tally.breach(f"after {after} the next save took {seconds:.2f} s")
        return seconds

    def _probe(self) -> bool:
        with self.state.exchange(lambda ledger: ledger) as ledger:
            numbers = ledger.source(PROBE)
            number = numbers.begin(1)[0]
            try:
                with Client(self.url, attempts_max=1) as client:
                    client.save_password(password_of(self.state.canary, PROBE, number))
            except PwserverError:
                return False
            numbers.saved(number)
            return True

    def gone(self) -> None:
        """See that nothing is left of a service whose listener was killed."""
        if self.service.running.left_over():
            self.tally.breach("children of a killed listener live on")
            self.service.signal_all(signal.SIGKILL)


def _application(source: Source) -> str:
    return source.application if isinstance(source, Application) else ""
