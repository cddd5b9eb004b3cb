"""The scenarios that are recorded.

Each has a moment from which on it is about what it is called; before that it gets there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pwserver.limits import CHECKPOINT_PAGES
from pwserver.wire.messages import Right
from tests.support.harness import Service
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials.powerloss.clients import Clients
from tests.trials.powerloss.ledger import Ledger
from tests.trials.powerloss.record import Record
from tests.trials.powerloss.traced import SERVICE, TracedService
from tests.trials.report import TrialFailed

BEGIN = "begin"
"""The mark of that moment."""

RIGHTS: Sequence[Right] = ("save", "count", "get", "verify", "list", "delete")
APPLICATION = "client"

FRAME_BYTES, LOG_HEAD_BYTES = 24 + 4096, 32
"""Of SQLite's write-ahead log."""

FILLING_LENGTH = 4096
"""Of passwords that are to fill the log soon: the longest that there may be."""

FILLED_PAGES = CHECKPOINT_PAGES - 30
ROUNDS_MAX = 1000
ROTATIONS_MAX = 10


@dataclass(frozen=True)
class Scenario:
    """A scenario: what it is called, and what is done to the service."""

    name: str
    run: Callable[[TracedService, Random], None]
    is_first: bool = False
    """Whether there is no book before."""


@dataclass(frozen=True)
class Recorded:
    """A scenario that was recorded: what happened, and what was asked for."""

    name: str
    record: Record
    ledger: Ledger


def record(scenario: Scenario, random: Random, directory: Path, program: str = SERVICE) -> Recorded:
    """Record a scenario on a service of its own, and return what came of it."""
    with tempfile.TemporaryDirectory(prefix="pwserver-powerloss-", dir=directory) as home:
        folder = Path(home).resolve()
        (folder / "book").mkdir()
        token = "" if scenario.is_first else _prepare(folder / "book")
        with TracedService(folder, token, program) as service:
            service.ledger.applications = frozenset({APPLICATION} if token else ())
            scenario.run(service, random)
        return Recorded(scenario.name, service.record(), service.ledger)


def _prepare(folder: Path) -> str:
    """Make a book with an application, unrecorded; return the application's token."""
    with Service(folder, env=TREE_ENVIRONMENT) as service:
        token = service.wait_until_listening().add_application(APPLICATION, RIGHTS)
        if service.stop():
            raise TrialFailed(f"the service did not end well: {service.stderr}")
    return token


def _clients(service: TracedService, random: Random) -> Clients:
    return Clients(service.serve(), service.token, service.ledger, random)


# --- The scenarios. ---


def first(service: TracedService, random: Random) -> None:
    """Have the key file and the database made, and the first saves in them."""
    service.mark(BEGIN)
    clients = _clients(service, random)
    clients.work(12)
    clients.close()
    service.kill()


def steady(service: TracedService, random: Random) -> None:
    """Save, label, delete and read, as on any day."""
    clients = _clients(service, random)
    clients.work(3)
    service.mark(BEGIN)
    clients.work(30)
    clients.close()
    service.kill()


def checkpoint(service: TracedService, random: Random) -> None:
    """Fill the log until it is copied to the database."""
    clients = _clients(service, random)
    _fill(service, clients)
    service.mark(BEGIN)
    _work_until_reset(service, clients)
    clients.work(2)
    clients.close()
    service.kill()


def reset(service: TracedService, random: Random) -> None:
    """Write over a log that was copied to the database."""
    clients = _clients(service, random)
    _fill(service, clients)
    _work_until_reset(service, clients)
    service.mark(BEGIN)
    clients.work(25)
    clients.close()
    service.kill()


def restart(service: TracedService, random: Random) -> None:
    """Stop the service and start it again, and so once more."""
    clients = _clients(service, random)
    clients.work(10)
    service.mark(BEGIN)
    for _ in range(2):
        clients.close()
        service.stop()
        clients = _clients(service, random)
        clients.work(4)
    clients.close()
    service.stop()


def killed(service: TracedService, random: Random) -> None:
    """Kill the service in the middle of saves; start it on what it left, and save more."""
    port = service.serve()
    clients = Clients(port, service.token, service.ledger, random)
    clients.work(10)
    guests = Clients(port, "", service.ledger, random, each=6)
    service.mark(BEGIN)
    for client in guests.clients:
        client.work()  # and nobody waits for the answers
    service.kill()
    clients.close()
    guests.close()
    clients = _clients(service, random)
    clients.work(10)
    clients.close()
    service.kill()


def rotation(service: TracedService, random: Random) -> None:
    """Add a key, seal everything again with it, and retire the old one, beside saves."""
    clients = _clients(service, random)
    clients.work(15)
    service.mark(BEGIN)
    service.administer("key", "add", holds=lambda keys: 2 in keys.in_file)
    clients.work()
    for _ in range(ROTATIONS_MAX):
        service.administer(
            "key", "rotate", holds=lambda keys: keys.sealing == 2, meanwhile=clients.work
        )
        if service.administer(
            *("key", "retire", "1"),
            holds=lambda keys: 1 not in keys.in_database | keys.in_file | keys.used,
            meanwhile=clients.work,
            may_refuse=True,  # a worker may have sealed with the old key until its next tick
        ):
            break
    else:
        raise TrialFailed(f"after {ROTATIONS_MAX} rotations the old key is still needed")
    clients.work(2)
    clients.close()
    service.kill()


def _log_pages(log: bytes) -> int:
    return max(0, len(log) - LOG_HEAD_BYTES) // FRAME_BYTES


def _fill(service: TracedService, clients: Clients) -> None:
    """Save until the log is nearly long enough to be copied."""
    while _log_pages(service.log) < FILLED_PAGES:
        clients.clients[0].save(FILLING_LENGTH)


def _work_until_reset(service: TracedService, clients: Clients) -> None:
    """Go on until the log has another beginning: it was copied, and is written over."""
    beginning = service.log[:LOG_HEAD_BYTES]
    for _ in range(ROUNDS_MAX):
        clients.work()
        if service.log[:LOG_HEAD_BYTES] != beginning:
            return
    raise TrialFailed(f"the log was not begun again within {ROUNDS_MAX} rounds of saves")


SCENARIOS = (
    Scenario("first", first, is_first=True),
    Scenario("steady", steady),
    Scenario("checkpoint", checkpoint),
    Scenario("reset", reset),
    Scenario("restart", restart),
    Scenario("killed", killed),
    Scenario("rotation", rotation),
)
