"""The torture finds what is wrong: its model and its looks at a book, and a short run of all of it.

A book is made as the service makes it, then doctored behind its back; each kind of damage must be
found, as what it is.
"""

import base64
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest
from rich.console import Console

from pwserver import Client
from tests.support.book_model import User
from tests.support.harness import Service
from tests.trials.restarted import RestartedService
from tests.trials.torture.faults import FAULTS, FaultInjector
from tests.trials.torture.inspection import Findings, inspect
from tests.trials.torture.leaks import secrets_found, written_in
from tests.trials.torture.ledger import GENERATED, Ledger, Name, Numbers, password_of, save_of
from tests.trials.torture.trial import Plan, Trial

CANARY = "canary-of-a-test"
GUEST, NAMES = "guest-0", ("red-0-1", "red-0-2")
PLAIN = 5
VERSIONS = 3


@dataclass
class Kept:
    """The book of a service that has stopped, and the ledger of what it acknowledged."""

    folder: Path
    ledger: Ledger

    @property
    def database(self) -> Path:
        """The database."""
        return self.folder / "user_data.db"

    def look(self, *, whole: bool = True) -> Findings:
        """Hold the book against the ledger."""
        return inspect(
            self.database, self.database.with_suffix(".key"), self.ledger, {GUEST: ""}, whole=whole
        )

    def doctor(self, *statements: str) -> None:
        """Change the database as the service would never do."""
        with closing(apsw.Connection(str(self.database))) as connection:
            for statement in statements:
                connection.execute(statement)


def acknowledged(service: Service) -> Ledger:
    """Save some passwords, with names and without; return what was acknowledged."""
    ledger = Ledger()
    token = service.add_application("red")
    url = f"127.0.0.1:{service.port}"
    with Client(f"pwserver://{url}") as guest, Client(f"pwserver://{token}@{url}") as red:
        numbers = ledger.source(GUEST)
        for number in numbers.begin(PLAIN):
            guest.save_password(password_of(CANARY, GUEST, number))
            numbers.saved(number)
        for name in NAMES:
            known = ledger.name("red", name)
            for number in range(VERSIONS):
                saved = red.save_password(password_of(CANARY, name, number), username=name)
                assert saved.version is not None
                assert not known.saved(saved.version, password_of(CANARY, name, number))
    return ledger


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Return a book to be copied."""
    folder = tmp_path_factory.mktemp("original")
    with Service(folder) as service:
        ledger = acknowledged(service.wait_until_listening())
        assert service.stop() == 0
    return Kept(folder, ledger)


@pytest.fixture
def kept(original: Kept, tmp_path: Path) -> Kept:
    """Return a book that may be doctored."""
    folder = tmp_path / "book"
    shutil.copytree(original.folder, folder)
    return Kept(folder, original.ledger.copy())


def test_a_book_as_it_was_acknowledged_is_found_whole(kept: Kept) -> None:
    """Nothing is wrong with it, however often it is looked at, and nothing is open afterwards."""
    for whole in (False, False, True, True):
        found = kept.look(whole=whole)
        assert (found.users, found.texts) == (PLAIN + len(NAMES), [])
    assert (kept.ledger.sure, kept.ledger.open) == (PLAIN + len(NAMES), 0)


@pytest.mark.parametrize(
    ("doctored", "kinds"),
    [
        ("DELETE FROM user WHERE id = (SELECT max(id) FROM user WHERE username IS NULL)", "lost"),
        (f"DELETE FROM user WHERE username = '{NAMES[0]}'", "lost"),
        ("UPDATE user SET sealed = zeroblob(60) WHERE username IS NULL", "half-written"),
        (f"UPDATE user SET version = 9 WHERE username = '{NAMES[0]}'", "half-written"),
        (f"UPDATE user SET labels = '[]' WHERE username = '{NAMES[0]}'", "half-written"),
        (f"UPDATE user SET username = 'other' WHERE username = '{NAMES[0]}'", "half-written"),
    ],
    ids=["a save", "a name", "a row", "a version", "labels", "another name"],
)
def test_what_is_lost_or_half_is_found(kept: Kept, doctored: str, kinds: str) -> None:
    """Rows that are gone, torn or altered are found, each as what it is."""
    assert kept.look().texts == []
    kept.doctor(doctored)
    assert kept.look().count[kinds] > 0


def test_another_password_is_found(kept: Kept) -> None:
    """A password that opens, and is not the one that was acknowledged, is a mismatch."""
    known = kept.ledger.names[NAMES[0]]
    known.versions[VERSIONS] = password_of(CANARY, NAMES[0], 99)
    found = kept.look()
    assert found.count == {"mismatch": 1}
    assert not [text for text in found.texts if CANARY in text]


def test_an_older_state_of_a_name_is_found(kept: Kept) -> None:
    """A name that has lost its newest acknowledged version is lost, though all of it opens."""
    assert not kept.ledger.names[NAMES[0]].saved(VERSIONS + 1, "the newest")
    assert kept.look().count == {"lost": 1}


def test_what_nobody_saved_is_found(kept: Kept) -> None:
    """A save that was refused, and is there all the same, is a mismatch, and so is the total."""
    kept.ledger.source(GUEST).refused(0)
    assert kept.look().count == {"mismatch": 2}


def test_a_wrong_total_is_found(kept: Kept) -> None:
    """Rows that the look passes over are still counted."""
    kept.look(whole=False)
    kept.doctor("DELETE FROM user WHERE id = (SELECT min(id) FROM user WHERE username IS NULL)")
    assert kept.look(whole=False).count == {"mismatch": 1}


def test_a_missing_book_is_found(kept: Kept) -> None:
    """Where there is no database at all, everything that was acknowledged is lost."""
    kept.database.unlink()
    assert kept.look().count["lost"] == PLAIN + len(NAMES)


def test_what_is_open_may_be_either_until_it_was_looked_for(kept: Kept) -> None:
    """A save without an answer is wrong neither way, and from the look on is what it was found."""
    there, gone = kept.ledger.source(GUEST), kept.ledger.name("red", "red-0-3")
    open_number = there.begin(1)[0]
    gone.open.add("never arrived")
    kept.ledger.names[NAMES[0]].deleting = True
    assert kept.ledger.open == 3
    assert kept.look().texts == []
    assert (kept.ledger.open, kept.ledger.sure) == (0, PLAIN + len(NAMES))
    assert "red-0-3" not in kept.ledger.names
    assert there.found(open_number) == "was not to be there"


def test_a_backup_and_a_removal_change_what_is_expected() -> None:
    """A backup brings back what it had and no more; a fresh book can hold only what was open."""
    ledger = Ledger()
    first = ledger.source(GUEST).begin(2)
    for number in first:
        ledger.source(GUEST).saved(number)
    ledger.name("red", "a").saved(1, "one")
    backup = ledger.copy()
    later = ledger.source(GUEST).begin(2)
    ledger.source(GUEST).saved(later[0])
    ledger.name("red", "a").open.add("two")
    assert (ledger.sure, ledger.open) == (4, 1)

    fresh = ledger.after_removal()
    assert (fresh.sure, fresh.open) == (0, 2)
    assert fresh.source(GUEST).found(later[1]) == ""
    assert fresh.source(GUEST).found(later[0]) == "was not to be there"

    restored = backup.restored(ledger)
    assert (restored.sure, restored.open) == (3, 0)
    assert restored.source(GUEST).found(later[0]) == "was not to be there"
    assert restored.source(GUEST).found(first[0]) == ""
    assert restored.source(GUEST).found(first[0]) == "is there twice"
    assert restored.source(GUEST).begin(1)[0] == later[1] + 1


def test_two_saves_with_one_version_are_found() -> None:
    """Of a name that two save at once each version is one save's."""
    name = Name("red")
    name.open |= {"one", "other"}
    assert name.saved(1, "one") == ""
    assert name.saved(1, "other") == "version 1 was given to two saves"


def test_a_generated_password_whose_answer_was_lost_may_be_there() -> None:
    """It is told by what it is made of; nothing else is taken for it."""
    name = Name("red", versions={1: "one"}, open={GENERATED})
    assert name.problem(User({1: "one", 2: "BCDF"})) is None
    assert name.problem(User({1: "one", 2: "one"})) == (
        "mismatch",
        "has another password as version 2",
    )


def test_numbers_are_a_byte_each() -> None:
    """An hour of saves fits: what is known of a million is a megabyte."""
    numbers = Numbers()
    for number in numbers.begin(1000):
        numbers.saved(number)
    assert (len(numbers), numbers.sure, numbers.settle(), numbers.sure) == (1000, 1000, 1000, 0)
    assert save_of(password_of(CANARY, GUEST, 7)) == (GUEST, 7)
    assert save_of("hunter2") is None


@pytest.mark.parametrize(
    "hidden",
    [
        CANARY.encode(),
        CANARY.encode().hex().encode(),
        base64.b64encode(f"before {CANARY} behind".encode()),
        b"pwserver_" + b"T" * 43,
        b"QUFB" * 11,
    ],
    ids=["plain", "hex", "base64", "a token", "a key"],
)
def test_secrets_in_files_are_found(tmp_path: Path, hidden: bytes) -> None:
    """A password in the forms that it could take, any token, and a key, wherever in a file."""
    key_file = tmp_path / "key"
    key_file.write_bytes(b"pwserver-key-v1 1 " + b"QUFB" * 11 + b"\n")
    written = tmp_path / "written"
    written.write_bytes(random.Random(1).randbytes(4 << 20) + b"nothing")
    assert secrets_found(written_in(tmp_path), CANARY, key_file) == []
    written.write_bytes(bytes((4 << 20) - 10) + hidden + b"nothing")
    assert len(secrets_found(written_in(tmp_path), CANARY, key_file)) == 1


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RestartedService]:
    """Return a service to be tortured, of which nothing is left afterwards."""
    made = RestartedService(tmp_path, ["--hang-timeout-s", "1", "--list-users", "20"])
    yield made
    made.clear()


@pytest.mark.timeout(300)
def test_a_short_run_keeps_every_promise(service: RestartedService) -> None:
    """Ten seconds of every fault that needs no rights, on whatever machine: nothing is lost."""
    plan = Plan(seed=6, seconds=10, every_s=0.1, within_s=30, saves_per_s=200, hang_s=1)
    trial = Trial(plan, service, Console(quiet=True))
    trial.run(FaultInjector([name for name in FAULTS if name != "fill"]))
    assert trial.tally.broken == []
    assert trial.tally.whole
    assert trial.tally.kills > 0
    assert trial.tally.counts.saved > 100
