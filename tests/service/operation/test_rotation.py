"""Changing keys under a service: whatever is killed, stopped or lost, every password opens."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pwserver.errors import ExitCode
from pwserver.limits import TICK_S
from tests.conftest import Start
from tests.support.books_wire import (
    ask_all,
    get,
    label,
    names,
    on_each_worker,
    password_of,
    peers_at,
    rows,
    save,
    versions_of,
)
from tests.support.engines import BOTH_ENGINES, run_sql
from tests.support.harness import Peer, Service, eventually, meanwhile
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Ran, Shell

USERS = 1000
ROTATION_S = 120
"""How long a rotation may take that makes way for a busy service."""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in the folder of the service."""
    return Shell(tmp_path)


@contextmanager
def command(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on keys beside a test, which may kill it."""
    line = [sys.executable, "-m", "pwserver", "key", *arguments]
    environment = ENVIRONMENT | shell.variables
    with launched(line, cwd=shell.folder, env=environment, stderr=subprocess.PIPE) as process:
        yield process


def done(ran: Ran) -> str:
    """Return what a command that went well has said."""
    assert (ran.code, ran.out) == (0, ""), ran
    return ran.err


def uses(service: Service) -> dict[int, int]:
    """Return how many users are sealed with each key."""
    return dict(run_sql(service, 'SELECT key_id, count(*) FROM "user" GROUP BY key_id'))


def fill(service: Service, users: int = USERS) -> None:
    """Save users, every second with a name, and every tenth in three versions."""
    with service.owner() as peer:
        requests = [save(None if n % 2 else f"{n:04}", f"{n}") for n in range(users)]
        requests += [save(f"{n:04}", f"{n} again") for n in range(0, users, 10) for _ in range(2)]
        for first in range(0, len(requests), 500):
            ask_all(peer, requests[first : first + 500])


def check(service: Service, users: int = USERS) -> None:
    """Fail unless every password of those users opens, in all versions, and is the right one."""
    with service.owner() as peer:
        found = names(peer)
        assert len(found) == users
        newest = {
            reply["username"]: reply["password"] for reply in ask_all(peer, [*map(get, found)])
        }
        chosen = {f"{n:04}": f"{n}" + " again" * (n % 10 == 0) for n in range(0, users, 2)}
        assert {name: newest[name] for name in chosen} == chosen
        unnamed = [password for name, password in newest.items() if name not in chosen]
        assert sorted(unnamed, key=int) == [f"{n}" for n in range(1, users, 2)]
        for n in range(0, users, 10):
            assert password_of(peer, f"{n:04}", version=1) == f"{n}"


class Book:
    """What a service has acknowledged of saves under names, with labels that change between."""

    def __init__(self, service: Service, names_number: int) -> None:
        self._service = service
        self._names = [f"name {number}" for number in range(names_number)]
        self.passwords: dict[str, list[str]] = {name: [] for name in self._names}
        self.acknowledged = 0

    def use(self, stop: threading.Event, mine: list[str]) -> None:
        """Save under some names, and label them, until told to stop."""
        number = 0
        while not stop.is_set():
            with suppress(OSError, AssertionError, ValueError), self._service.owner() as peer:
                while not stop.is_set():
                    number += 1
                    name, password = mine[number % len(mine)], f"{number}"
                    reply = peer.ask(save(name, password))
                    if reply["message"] == "Password saved!":
                        self.passwords[name].append(password)
                        self.acknowledged += 1
                    peer.ask(label(name, f"label {number}"))

    def under_load(self) -> AbstractContextManager[None]:
        """Use it from two connections."""
        return meanwhile(*(partial(self.use, mine=self._names[part::2]) for part in (0, 1)))

    def check(self, peer: Peer) -> None:
        """Fail unless all versions that are kept open, and those acknowledged last are there."""
        for name, acknowledged in self.passwords.items():
            kept = [password_of(peer, name, version=each) for each in versions_of(peer, name)]
            assert kept[:1] == acknowledged[-1:]
            assert set(kept) <= set(acknowledged)


def save_unnamed(service: Service, acknowledged: list[int], stop: threading.Event) -> None:
    """Save over one connection after another; append 1 for every save that was acknowledged."""
    while not stop.is_set():
        with suppress(OSError, AssertionError, ValueError), service.peer() as peer:
            while not stop.is_set():
                if peer.save()["message"] == "Password saved!":
                    acknowledged.append(1)


@BOTH_ENGINES
def test_a_key_is_changed_under_load(service: Service, shell: Shell) -> None:
    """Added, rotated to and retired: nobody's save is lost, and every password opens afterwards."""
    book = Book(service, 20)
    assert service.token
    unnamed: list[int] = []
    with meanwhile(partial(save_unnamed, service, unnamed)), book.under_load():
        for step in (["add"], ["rotate"], ["retire", "1"]):
            before = len(unnamed), book.acknowledged
            with command(shell, *step) as process:
                assert process.wait(ROTATION_S) == 0
            eventually(
                lambda: len(unnamed) > before[0] + 50 and book.acknowledged > before[1] + 50,  # noqa: B023
                "saves go on",
            )
    assert uses(service).keys() == {2}
    with service.owner() as peer:
        book.check(peer)
        found = names(peer, prefix="user-")
        assert len(found) >= len(unnamed)
        for first in range(0, len(found), 500):
            replies = ask_all(peer, [*map(get, found[first : first + 500])])
            assert {reply["password"] for reply in replies} == {"abc123"}


# --- Killed, and begun again. ---


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_rotation_may_be_killed_anywhere_and_run_again(
    start: Start, shell: Shell, running: bool
) -> None:
    """Wherever it was, all passwords open; the next one goes on from there, and one ends it."""
    service = start()
    fill(service)
    done(shell.run("key", "add"))
    if not running:
        service.stop()
    middles = 0
    for left in sorted(random.sample(range(USERS), 5), reverse=True):
        with command(shell, "rotate") as process:
            eventually(
                lambda: uses(service).get(1, 0) <= left or process.poll() is not None,  # noqa: B023
                "it has come so far",
            )
            process.kill()
        middles += len(uses(service)) == 2
        if running:
            check(service)
    assert middles, "it was killed in the middle at least once"
    done(shell.run("key", "rotate"))
    assert uses(service) == {2: USERS}
    service = service if running else start()
    check(service)


def test_a_rotation_may_be_killed_while_it_begins(service: Service, shell: Shell) -> None:
    """At any moment of its start, when nothing of it is to be seen yet or the first rows are."""
    fill(service, 200)
    done(shell.run("key", "add"))
    for _ in range(6):
        with command(shell, "rotate") as process, suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.05, 0.8))  # a moment nobody chose
            process.kill()
        check(service, 200)
    done(shell.run("key", "rotate"))
    assert uses(service) == {2: 200}


@pytest.mark.parametrize("victim", ["worker 1", "worker 2", "all", "stop"])
def test_the_service_may_die_during_a_rotation(start: Start, shell: Shell, victim: str) -> None:
    """The rotation goes on to its end without it, and a service that is started reads all."""
    service = start()
    fill(service)
    done(shell.run("key", "add"))
    with command(shell, "rotate") as process:
        eventually(lambda: 2 in uses(service), "it has begun")
        if victim == "all":
            service.kill_everything()
        elif victim == "stop":
            assert service.stop() == 0
        else:
            service.replace(victim)
        assert process.wait() == 0
        assert process.stderr is not None
        assert process.stderr.read() == b"Every password is sealed with key 2.\n"
    if victim in ("all", "stop"):
        service = start()
    assert uses(service) == {2: USERS}
    check(service)
    done(shell.run("key", "retire", "1"))
    for name in ("worker 1", "worker 2"):
        service.replace(name)
    check(service)
    assert service.stop() == 0
    check(start())


# --- What a key is needed for. ---


@BOTH_ENGINES
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_key_that_is_needed_is_not_retired(start: Start, shell: Shell, running: bool) -> None:
    """By one row, or by none yet but as the one that seals; afterwards everything opens."""
    service = start()
    fill(service, 100)
    done(shell.run("key", "add"))
    if not running:
        service.stop()
    sealing = shell.run("key", "retire", "1")
    assert (sealing.code, sealing.out) == (1, "")
    assert "key 1 is the one that passwords are sealed with" in sealing.err
    with command(shell, "rotate") as process:
        eventually(lambda: 2 in uses(service), "it has begun")
        process.kill()
    if 1 in uses(service):
        needed = shell.run("key", "retire", "1")
        assert (needed.code, needed.out) == (1, "")
        assert f"{uses(service)[1]} passwords are sealed with key 1 yet" in needed.err
    assert [key["key"] for key in shell.run("key", "list").records] == [1, 2]
    check(service if running else start(), 100)


def test_a_number_never_comes_twice(service: Service, shell: Shell) -> None:
    """The newest key is not retired: a worker that knows it would take the next one for it."""
    done(shell.run("key", "add"))
    refused = shell.run("key", "retire", "2")
    assert refused.code == 1
    assert "key 2 is the newest, and the next one would get its number" in refused.err
    done(shell.run("key", "add"))
    done(shell.run("key", "retire", "2"))
    done(shell.run("key", "rotate"))
    assert [key["key"] for key in shell.run("key", "list").records] == [1, 3]
    with service.owner() as peer:
        assert peer.save()["message"] == "Password saved!"
    assert uses(service) == {3: 1}


@contextmanager
def stopped(service: Service, name: str) -> Iterator[None]:
    """Let a child do nothing for a while."""
    pid = service.child(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def passwords_of(service: Service) -> list[str]:
    """Return the passwords of all users, in order."""
    with service.owner() as peer:
        replies = ask_all(peer, [*map(get, names(peer))])
    return sorted(reply["password"] for reply in replies)


@BOTH_ENGINES
def test_what_comes_to_the_writer_too_late_is_not_saved(service: Service, shell: Shell) -> None:
    """What is sealed with a key that has been retired meanwhile is refused, and that is said."""
    done(shell.run("key", "add"))
    with peers_at(service, "worker 2", 2) as (peer, owner):
        assert owner.authenticate(service.token)["message"] == "Authenticated!"
        assert owner.ask(save("alice", "before"))["version"] == 1
        with stopped(service, "worker 1"):
            peer.send(save(password="lost"), save(password="lost", request_id="lost"))
            owner.send(save("alice", "lost"), label("alice", "lost"))
            done(shell.run("key", "rotate"))
            done(shell.run("key", "retire", "1"))
        refused = [peer.reply(), peer.reply(), owner.reply()]
        assert {reply["message"] for reply in refused} == {"Not saved!"}
        assert {reply["error"] for reply in refused} == {
            "The key that it was sealed with has been retired; send it again."
        }
        assert owner.reply()["message"] in ("Unavailable!", "User labelled!")
        eventually(lambda: peer.save("after")["message"] == "Password saved!", "it has the key")
        assert owner.ask(save("alice", "again"))["version"] == 2
    assert uses(service) == {2: 2}
    assert passwords_of(service) == ["after", "again"]


def test_what_comes_to_the_writer_behind_a_rotation_makes_the_key_needed(
    service: Service, shell: Shell
) -> None:
    """What was saved with the old key keeps it from being retired until the next rotation."""
    done(shell.run("key", "add"))
    with peers_at(service, "worker 2") as (peer,):
        assert peer.save("before")["message"] == "Password saved!"
        with stopped(service, "worker 1"):
            peer.send(save(password="late"))
            done(shell.run("key", "rotate"))
        assert peer.reply()["message"] == "Password saved!"
    assert uses(service) == {1: 1, 2: 1}
    needed = shell.run("key", "retire", "1")
    assert (needed.code, needed.out) == (1, "")
    assert "1 passwords are sealed with key 1 yet" in needed.err
    done(shell.run("key", "rotate"))
    done(shell.run("key", "retire", "1"))
    assert passwords_of(service) == ["before", "late"]


def test_a_worker_that_was_stopped_meanwhile_loses_nothing(service: Service, shell: Shell) -> None:
    """Whichever key it knows when it goes on: what it acknowledges can be read."""
    done(shell.run("key", "add"))
    with on_each_worker(service) as (other, peer):
        with stopped(service, "worker 2"):
            peer.send(*[save(password=f"{number}") for number in range(100)])
            done(shell.run("key", "rotate"))
            done(shell.run("key", "retire", "1"))
            assert other.save("other")["message"] == "Password saved!"
        replies = [peer.reply()["message"] for _ in range(100)]
        assert set(replies) <= {"Password saved!", "Not saved!"}
    acknowledged = [f"{n}" for n, reply in enumerate(replies) if reply == "Password saved!"]
    assert passwords_of(service) == sorted([*acknowledged, "other"])


def test_a_rotation_ends_when_every_worker_has_the_key(service: Service, shell: Shell) -> None:
    """What a worker that was slow to notice has sealed with the old key is sealed again as well."""
    done(shell.run("key", "add"))
    with on_each_worker(service) as (peer, _):
        with stopped(service, "worker 1"):
            peer.send(*[save(password=f"{number}") for number in range(100)])
            with command(shell, "rotate") as rotation:
                select = "SELECT id FROM key WHERE seals"
                eventually(lambda: rows(service.database, select) == [(2,)], "another key seals")
                os.kill(service.child("worker 1"), signal.SIGCONT)
                assert {peer.reply()["message"] for _ in range(100)} == {"Password saved!"}
                rotation.communicate()
        assert rotation.returncode == 0
    assert uses(service) == {2: 100}


# --- An older key that somebody has chosen in the database, without the keys. ---


def choose(database: Path, key: int) -> None:
    """Change the database so that it says to seal with a key."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE key SET seals = (id = ?)", (key,))


def test_an_older_key_does_not_seal_again(start: Start, shell: Shell) -> None:
    """Neither while the service runs nor after a restart."""
    service = start()
    done(shell.run("key", "add"))
    done(shell.run("key", "rotate"))
    choose(service.database, 1)
    time.sleep(2 * TICK_S)
    with service.peer() as peer:
        peer.save("while it runs")
    assert service.stop() == 0
    service = start()
    with service.peer() as peer:
        peer.save("after a restart")
    assert uses(service) == {2: 2}


def test_a_book_without_the_newest_key_is_not_served(start: Start, shell: Shell) -> None:
    """It is an old copy, or was changed; a rotation puts it in order."""
    service = start()
    fill(service, 3)
    assert service.stop() == 0
    old = service.database.read_bytes()
    done(shell.run("key", "add"))
    done(shell.run("key", "rotate"))
    service.database.write_bytes(old)
    refused = shell.run("serve", "--port", "0")
    assert refused.code == ExitCode.STORE
    assert "does not have key 2" in refused.err
    assert "Run `pwserver key rotate`" in refused.err
    done(shell.run("key", "rotate"))
    assert uses(start()) == {2: 3}


# --- Keys that are not there. ---


@pytest.mark.parametrize(
    ("commands", "sealing"),
    [
        ([["add"]], 1),
        ([["add"], ["rotate"]], 2),
        ([["add"], ["rotate"], ["retire", "1"]], 2),
    ],
    ids=["added", "rotated", "retired"],
)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart"])
def test_a_database_that_is_removed_is_made_with_the_key_that_seals(
    start: Start, shell: Shell, commands: list[list[str]], sealing: int, restarted: bool
) -> None:
    """The next save is saved in the new one, at once, and can be read there."""
    service = start()
    fill(service, 10)
    for command in commands:
        done(shell.run("key", *command))
    if restarted:
        service.stop()
        service = start()
    with service.peer() as peer:
        newest = "SELECT key_id FROM user ORDER BY id DESC LIMIT 1"
        eventually(
            lambda: peer.save() and rows(service.database, newest) == [(sealing,)],
            "the worker uses the key",
        )
        service.database.unlink()
        for number in range(20):
            assert peer.save(f"{number}")["message"] == "Password saved!"
    assert uses(service) == {sealing: 20}
    token = service.add_application("reader", common=True)  # the old ones went with the database
    with service.peer() as peer:
        peer.authenticate(token)
        replies = ask_all(peer, [*map(get, names(peer))])
        assert [reply["password"] for reply in replies] == [f"{number}" for number in range(20)]
