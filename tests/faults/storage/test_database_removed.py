"""The database, its log or its folder is removed, replaced or renamed while the service runs."""

import contextlib
import ctypes
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.faults.conftest import Start
from tests.faults.tally import saving, users_in
from tests.support.books_wire import (
    DENIED,
    UNKNOWN_USER,
    ask_all,
    at_once,
    get,
    names,
    on_each_worker,
    password_of,
    peers_at,
    save,
    saved,
    verify,
    versions_of,
)
from tests.support.harness import Peer, Service, eventually


def test_removing_the_database_gives_a_fresh_book_at_the_next_start(
    book: Path, start: Start
) -> None:
    """The basic contract's way to begin again works; the key stays."""
    key = (book / "user_data.key").read_bytes()
    (book / "user_data.db").unlink()
    service = start()
    with service.peer() as peer:
        assert peer.count() == 0
        peer.save()
        assert peer.count() == 1
    assert (book / "user_data.key").read_bytes() == key


@pytest.mark.parametrize("pattern", ["user_data.db", "user_data.db*"])
def test_removing_the_database_while_running_gives_a_fresh_book(
    service: Service, tmp_path: Path, pattern: str
) -> None:
    """Within a second the book is empty, and it takes saves as before."""
    with service.peer() as peer:
        peer.save()
        for file in sorted(tmp_path.glob(pattern)):
            file.unlink()
        eventually(lambda: peer.count() == 0, "the book is fresh", 1.0)
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 1
        assert stat.S_IMODE((tmp_path / "user_data.db").stat().st_mode) == 0o600


def test_a_fresh_book_is_seen_by_every_worker(start: Start, tmp_path: Path) -> None:
    """Once the book is fresh nobody reads the removed one: its names are unknown, and free.

    So are its applications: they are to be registered again.
    """
    service = start("--workers", "3")
    token = service.token
    with contextlib.ExitStack() as stack:
        peers = [
            peer
            for worker in ("worker 1", "worker 2", "worker 3")
            for peer in stack.enter_context(peers_at(service, worker, 2))
        ]
        for version, peer in enumerate(peers, 1):
            assert peer.authenticate(token)["message"] == "Authenticated!"
            assert peer.ask(save("alice", f"old {version}")) == saved("alice", version)
        (tmp_path / "user_data.db").unlink()
        with service.peer() as guest:
            eventually(lambda: guest.count() == 0, "the book is fresh", 1.0)
        for peer in peers:
            eventually(lambda: peer.ask(get("alice")) == DENIED, "it is seen", 1.0)  # noqa: B023
        register_again(service, *peers)
        for peer in peers:
            assert peer.ask(get("alice")) == UNKNOWN_USER
            assert names(peer) == []
        for version, peer in enumerate(peers, 1):
            assert peer.ask(save("alice", f"new {version}")) == saved("alice", version)
        for peer in peers:
            assert password_of(peer, "alice") == "new 6"


def test_nothing_is_acknowledged_into_a_removed_database(service: Service, tmp_path: Path) -> None:
    """Removed under load, the book keeps all that was answered after the fresh one was seen."""
    with service.peer() as peer, saving(service, 4) as savers:
        for _ in range(5):
            before = savers.tally.saved
            eventually(lambda: savers.tally.saved > before + 50, "saves go on")  # noqa: B023
            old = peer.count()
            for file in sorted(tmp_path.glob("user_data.db*")):
                file.unlink(missing_ok=True)
            eventually(lambda: peer.count() < old, "a fresh book is there", 1.0)  # noqa: B023
            fresh_from = savers.tally.saved
        eventually(lambda: savers.tally.saved > fresh_from + 50, "saves go on")
    assert (savers.tally.unknown, savers.tally.refused) == (0, 0), "nobody notices but by the count"
    with service.peer() as peer:
        number = peer.count()
    assert number >= savers.tally.saved - fresh_from
    service.kill_everything()
    assert users_in(service.database) == number


def test_a_renamed_folder_ends_the_service(start: Start, tmp_path: Path) -> None:
    """With no folder to make a book in it says so and ends; renamed back, nothing is missing."""
    folder, away = tmp_path / "book", tmp_path / "away"
    folder.mkdir()
    flags = ("--database", str(folder / "user_data.db"))
    service = start(*flags)
    with saving(service, 4) as savers:
        eventually(lambda: savers.tally.saved > 50, "saves are acknowledged")
        folder.rename(away)
        assert service.ended() == 5
    assert f"{folder / 'user_data.db'} cannot be opened for writing" in service.stderr
    assert savers.tally.unknown <= 4 * 2, "the last save of each, and one that found it ending"
    away.rename(folder)
    service = start(*flags)
    with service.peer() as peer:
        assert savers.tally.accounts_for(peer.count())
        assert peer.save()["message"] == "Password saved!"


def test_a_folder_that_takes_its_place_has_a_fresh_book(start: Start, tmp_path: Path) -> None:
    """Another folder in the place of the book's is met as the removal of the database is."""
    folder, other = tmp_path / "book", tmp_path / "other"
    for each in (folder, other):
        each.mkdir()
    service = start("--database", str(folder / "user_data.db"))
    with service.peer() as peer:
        for _ in range(3):
            peer.save()
        exchange(folder, other)
        eventually(lambda: peer.count() == 0, "a fresh book is there", 1.0)
        assert peer.save()["message"] == "Password saved!"
    service.kill_everything()
    assert users_in(folder / "user_data.db") == 1
    assert users_in(other / "user_data.db") == 3


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places at once (renameat2(2)), so that neither name is ever free."""
    here, flags = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    assert not ctypes.CDLL(None).renameat2(here, bytes(one), here, bytes(other), flags)


def test_a_log_removed_while_running_loses_nothing(
    service: Service, tmp_path: Path, start: Start
) -> None:
    """If somebody takes the write-ahead log away, what is in it is kept."""
    with service.peer() as peer:
        peer.save()
        (tmp_path / "user_data.db-wal").unlink()
        peer.save()
        assert peer.count() == 2
    service.kill_everything()
    with start().peer() as peer:
        assert peer.count() == 2


@contextlib.contextmanager
def readers_open(service: Service) -> Iterator[tuple[Peer, Peer]]:
    """Give connections to both workers, each of which has read a user `old` with labels."""
    with on_each_worker(service) as (one, two):
        ask_all(one, [save("old", "old 1"), save("old", "old 2", labels=["old"]), save()])
        for peer in (one, two):
            assert password_of(peer, "old") == "old 2"
            assert password_of(peer, "old", version=1) == "old 1"
        yield one, two


def register_again(service: Service, *peers: Peer) -> None:
    """Make the owner known to a fresh book, and to the connections that it has."""
    token = service.add_application("owner", common=True)
    for peer in peers:
        assert peer.authenticate(token)["message"] == "Authenticated!"


def newest_is(peer: Peer, password: str | None) -> bool:
    """Tell whether a password is that of the user `old`; None where there must not be one."""
    reply = peer.ask(get("old"))
    expected = "Unknown user!" if password is None else "return_password"
    return (reply["message"], reply.get("password")) == (expected, password)


@pytest.mark.parametrize("pattern", ["user_data.db", "user_data.db*"])
def test_a_removed_book_is_fresh_for_every_reader(
    service: Service, tmp_path: Path, pattern: str
) -> None:
    """Within a second nothing of the old book is answered by either worker; saves go on."""
    with readers_open(service) as (one, two):
        for file in tmp_path.glob(pattern):
            file.unlink()
        for peer in (one, two):
            eventually(lambda: peer.ask(get("old")) == DENIED, "the owner is gone as well", 1.0)  # noqa: B023
        register_again(service, one, two)
        for peer in (one, two):
            assert peer.ask(get("old")) == UNKNOWN_USER
            assert peer.ask(get("old", version=1)) == UNKNOWN_USER
            assert peer.ask(verify("old", "old 2"))["valid"] is False
            assert names(peer) == []
            assert peer.count() == 0
        assert one.ask(save("old", "new")) == saved("old", 1)
        assert password_of(two, "old") == "new"
    assert service.stop() == 0
    assert users_in(tmp_path / "user_data.db") == 1


def test_a_save_after_the_removal_is_never_into_the_old_book(
    service: Service, tmp_path: Path
) -> None:
    """What is acknowledged after the file is gone is in the fresh book, whatever was planned.

    Names are saved until the service notices that the application is gone with the book, which it
    does within a tick.
    """
    rounds_with_names = 0
    with readers_open(service) as (one, two), service.peer() as guest:
        for n in range(8):
            one.ask(save("old", "before"))
            assert password_of(two, "old") == "before"
            (tmp_path / "user_data.db").unlink()
            replies = [one.ask(save(name, f"after {n}")) for name in (f"new {n}", "old")]
            assert all(reply in (DENIED, saved(reply.get("username"), 1)) for reply in replies)
            assert guest.save() == {"message": "Password saved!"}
            register_again(service, one, two)
            in_it = [reply["username"] for reply in replies if reply != DENIED]
            assert [name for name in names(one) if not name.startswith("user-")] == in_it
            assert one.count() == len(in_it) + 1
            for name in in_it:
                assert password_of(two, name) == f"after {n}"
                assert versions_of(one, name) == [1]
            rounds_with_names += bool(in_it)
    assert rounds_with_names
    assert service.stop() == 0
    assert users_in(tmp_path / "user_data.db") == len(in_it) + 1


def backup(database: Path, copy: Path) -> None:
    """Copy a database that is in use, as `sqlite3 user_data.db '.backup copy'` does."""
    with (
        contextlib.closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)) as old,
        contextlib.closing(apsw.Connection(str(copy))) as new,
        new.backup("main", old, "main") as copying,
    ):
        copying.step()


@pytest.mark.parametrize("log", ["the log is left", "the log is removed as well"])
def test_a_book_put_back_from_a_backup_is_what_is_answered(
    service: Service, tmp_path: Path, log: str
) -> None:
    """Replaced under running readers, the copy's users are answered, and it is not damaged."""
    database, copy = tmp_path / "user_data.db", tmp_path / "backup.db"
    with readers_open(service) as (one, two):
        backup(database, copy)
        for n in range(40):
            ask_all(one, [save("old", f"later {n}"), save(f"later {n}"), save()])
        assert password_of(two, "old") == "later 39"
        if log == "the log is removed as well":
            for file in tmp_path.glob("user_data.db-*"):
                file.unlink()
        os.replace(copy, database)
        for peer in (one, two):
            eventually(partial(newest_is, peer, "old 2"), "the copy is read", 1.0)
            assert peer.count() == 2
            assert versions_of(peer, "old") == [2, 1]
            assert password_of(peer, "old", version=1) == "old 1"
            assert names(peer, prefix="later") == []
            assert names(peer, label="old") == ["old"]
        assert one.ask(save("old", "new")) == saved("old", 3)
        assert password_of(two, "old") == "new"
    assert service.stop() == 0
    assert users_in(database) == 2


def test_a_book_put_back_under_load_is_not_damaged(service: Service, tmp_path: Path) -> None:
    """Again and again under saves and reads: afterwards the file is sound, and counts are true."""
    database, copy = tmp_path / "user_data.db", tmp_path / "backup.db"
    stop = threading.Event()
    rounds: list[int] = []

    def use(client: int) -> None:
        with service.owner() as peer:
            for n in itertools.count():
                if stop.is_set():
                    return
                name = f"{client} {n % 20}"
                for reply in ask_all(peer, [save(name), get(name), save(), get("old")]):
                    assert reply["message"] not in ("Invalid message!", "Denied!"), reply
                rounds.append(n)

    def replace() -> None:
        try:
            for _ in range(6):
                seen = len(rounds)
                eventually(lambda: len(rounds) > seen + 50, "saves go on")  # noqa: B023
                os.replace(shutil.copy(copy, tmp_path / "again.db"), database)
        finally:
            stop.set()

    with readers_open(service):
        backup(database, copy)
    at_once([replace, *[partial(use, n) for n in range(3)]])
    with on_each_worker(service) as (one, two):
        eventually(partial(newest_is, one, "old 2"), "the copy is read")
        one.ask(save("last"))
        total = one.count()
        assert two.count() == total == len(names(two))
    assert service.stop() == 0
    assert users_in(database) == total


def test_a_log_removed_under_load_loses_nothing(service: Service, tmp_path: Path) -> None:
    """With readers open and saves under way, everything acknowledged is there, and is read."""
    last: dict[str, str] = {}
    rounds: list[int] = []
    stop = threading.Event()

    def use(client: int) -> None:
        with service.owner() as peer:
            for n in itertools.count():
                if stop.is_set():
                    return
                name, password = f"{client} {n % 10}", f"password {n}"
                replies: list[Any] = ask_all(peer, [save(name, password), save(), get(name)])
                assert [reply["message"] for reply in replies] == [
                    "Password saved!",
                    "Password saved!",
                    "return_password",
                ]
                assert replies[2]["password"] == password
                last[name] = password
                rounds.append(n)

    def remove() -> None:
        try:
            for _ in range(8):
                seen = len(rounds)
                eventually(lambda: len(rounds) > seen + 40, "saves go on")  # noqa: B023
                (tmp_path / "user_data.db-wal").unlink(missing_ok=True)
        finally:
            stop.set()

    at_once([remove, *[partial(use, n) for n in range(4)]])
    total = len(rounds) + len(last)
    with on_each_worker(service) as (one, two):
        for peer in (one, two):
            assert {name: password_of(peer, name) for name in last} == last
            assert peer.count() == total
    service.kill_everything()
    assert users_in(tmp_path / "user_data.db") == total
