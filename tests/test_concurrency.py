"""Several applications at once, many requests in flight, and files that are taken away."""

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.books_wire import (
    ALIVE,
    COUNT,
    DELETED,
    DENIED,
    PING,
    UNKNOWN_USER,
    Request,
    ask_all,
    at_once,
    delete,
    get,
    history,
    label,
    listing,
    names,
    on_each_worker,
    password_of,
    restore,
    save,
    saved,
    verify,
    versions_of,
)
from tests.harness import PATIENCE_S, Peer, Service, eventually
from workers.history import unpack

# --- The same name at once. ---


@contextlib.contextmanager
def many_peers(service: Service, number: int) -> Iterator[list[Peer]]:
    """Give connections to both workers, at least so many."""
    with contextlib.ExitStack() as stack:
        peers = [*stack.enter_context(on_each_worker(service))]
        peers += [stack.enter_context(service.owner()) for _ in range(number - len(peers))]
        yield peers


def test_saves_of_one_name_at_once_make_as_many_versions(service: Service) -> None:
    """Sixteen applications save one name through both workers: none is lost, none made twice."""
    answers: list[tuple[int, str]] = []

    def use(peer: Peer, client: int) -> None:
        for burst in range(5):
            passwords = [f"{client}.{burst}.{n}" for n in range(5)]
            replies = ask_all(peer, [save("shared", password) for password in passwords])
            versions = [reply["version"] for reply in replies]
            assert versions == sorted(versions), "a client's own saves keep their order"
            answers.extend(zip(versions, passwords, strict=True))

    with many_peers(service, 16) as peers:
        at_once([partial(use, peer, n) for n, peer in enumerate(peers)])
        by_version = dict(answers)
        assert sorted(version for version, _ in answers) == list(range(1, 401))
        for peer in peers[:2]:
            assert peer.count() == 1
            assert versions_of(peer, "shared") == list(range(400, 389, -1))
            assert password_of(peer, "shared") == by_version[400]
            for version in range(390, 401):
                assert password_of(peer, "shared", version=version) == by_version[version]


def test_what_was_answered_last_is_what_is_got(service: Service) -> None:
    """Whoever has been answered is seen by everybody, through the other worker as well."""
    with on_each_worker(service) as (one, two):
        for n in range(100):
            assert one.ask(save("a", f"one {n}")) == saved("a", 2 * n + 1)
            assert password_of(two, "a") == f"one {n}"
            assert two.ask(save("a", f"two {n}")) == saved("a", 2 * n + 2)
            assert one.ask(verify("a", f"two {n}"))["valid"] is True
        assert one.ask(delete("a")) == DELETED
        assert ask_all(two, [get("a"), COUNT, listing()]) == [
            UNKNOWN_USER,
            {"message": "return_number_of_users", "number_of_users": 0},
            {"message": "return_users", "users": [], "after": None},
        ]


def test_a_reader_never_sees_a_version_go_back(service: Service) -> None:
    """While others save, what one client reads only grows; password and version belong together."""
    stop = threading.Event()

    def write(peer: Peer, client: int) -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            (reply,) = ask_all(peer, [save("a", f"{client} {n}")])
            acknowledged[reply["version"]] = f"{client} {n}"

    def read(peer: Peer) -> None:
        versions: list[int] = [0]
        deadline = time.monotonic() + PATIENCE_S
        while len(set(versions)) < 50 and time.monotonic() < deadline:
            at_least = max([*acknowledged, versions[-1]])
            reply = peer.ask(get("a"))
            assert reply["version"] >= at_least
            versions.append(reply["version"])
            seen.append((reply["version"], reply["password"]))
        assert len(set(versions)) == 50

    def read_twice(one: Peer, two: Peer) -> None:
        try:
            at_once([lambda: read(one), lambda: read(two)])
        finally:
            stop.set()

    acknowledged: dict[int, str] = {1: "first"}
    seen: list[tuple[int, str]] = []
    with many_peers(service, 4) as (one, two, three, four):
        assert one.ask(save("a", "first")) == saved("a", 1)
        at_once([lambda: write(one, 1), lambda: write(two, 2), lambda: read_twice(three, four)])
    assert all(acknowledged[version] == password for version, password in seen)


def test_deletes_and_saves_of_one_name_at_once_leave_a_whole_user(service: Service) -> None:
    """However they fall, a user is there with versions from 1 on, or not at all; totals agree."""
    fates: list[str] = []

    def use(peer: Peer, client: int) -> None:
        for n in range(40):
            request = delete("a") if (client + n) % 4 == 0 else save("a", f"{client}.{n}")
            fates.append(peer.ask(request)["message"])
            found = peer.ask(history("a"))
            if found != UNKNOWN_USER:
                versions = [entry["version"] for entry in found["versions"]]
                assert versions == list(range(versions[0], max(versions[0] - 11, 0), -1))

    with many_peers(service, 8) as peers:
        at_once([partial(use, peer, n) for n, peer in enumerate(peers)])
        assert set(fates) == {"Password saved!", "User deleted!", "Unknown user!"}
        assert peers[0].count() == len(names(peers[0])) <= 1
        peers[0].ask(save("a"))
        assert peers[1].ask(delete("a")) == DELETED
        assert peers[0].count() == 0


def test_labels_and_saves_of_one_name_do_not_undo_each_other(service: Service) -> None:
    """A save without labels keeps those that another application sets at the same moment."""
    with many_peers(service, 4) as peers:
        peers[0].ask(save("a"))
        for n in range(20):
            at_once(
                [
                    lambda: ask_all(peers[0], [save("a")] * 3),
                    lambda: ask_all(peers[1], [save("a")] * 3),
                    partial(peers[2].ask, label("a", f"label {n}")),
                ]
            )
            assert names(peers[3], label=f"label {n}") == ["a"]
        assert versions_of(peers[3], "a")[0] == 121


# --- Requests in flight see each other in order. ---


def test_a_pipeline_is_done_in_its_order(owner: Peer) -> None:
    """Save, get, delete and save of one name in one burst: each sees exactly those before it."""
    steps = [
        (save("a", "one"), saved("a", 1)),
        (get("a"), "one"),
        (save("a", "two"), saved("a", 2)),
        (save("a", "three"), saved("a", 3)),
        (verify("a", "three"), {"message": "return_verify_password", "valid": True}),
        (restore("a", 1), {"message": "Password restored!", "username": "a", "version": 4}),
        (get("a"), "one"),
        (get("a", version=2), "two"),
        (COUNT, {"message": "return_number_of_users", "number_of_users": 1}),
        (label("a", "x"), {"message": "User labelled!", "username": "a", "labels": ["x"]}),
        (delete("a"), DELETED),
        (get("a"), UNKNOWN_USER),
        (delete("a"), UNKNOWN_USER),
        (COUNT, {"message": "return_number_of_users", "number_of_users": 0}),
        (PING, ALIVE),
    ]
    replies = ask_all(owner, [request for request, _ in steps] * 30)
    for reply, (request, expected) in zip(replies, steps * 30, strict=True):
        if isinstance(expected, str):
            assert reply["password"] == expected, request
        else:
            assert reply == expected, request


def test_replies_of_many_names_keep_their_order(owner: Peer) -> None:
    """Saves with and without names, checks, reads and bad input: replies come as asked."""
    kinds: list[Callable[[int], Request]] = [
        lambda n: save(f"n{n % 5}"),
        lambda _: save(),
        lambda n: get(f"n{n % 5}"),
        lambda _: {"message": "generate_password"},
        lambda _: {"message": "check_password", "password": "abc123"},
        lambda n: delete(f"n{n % 5}"),
        lambda _: {"message": "get_password"},
        lambda n: save(f"n{n % 3}", request_id=f"r{n % 7}"),
        lambda _: {"message": "list_users", "limit": 2},
        lambda _: COUNT,
    ]
    burst = [{**kinds[n * n % len(kinds)](n), "id": n} for n in range(600)]
    burst += [{**kinds[n % len(kinds)](n), "id": n} for n in range(600, 900)]
    assert [reply["id"] for reply in ask_all(owner, burst)] == list(range(900))


def test_saves_of_a_client_that_leaves_at_once_are_done(service: Service) -> None:
    """Sent and closed without reading a reply: named saves are done like the seed's."""
    for n in range(5):
        with service.owner() as leaving:
            leaving.send(*[save("a", f"{n}.{m}") for m in range(10)])
            leaving.no_more_to_send()
            assert [leaving.reply()["version"] for _ in range(10)][-1] == 10 * n + 10
            assert leaving.ended()
    with service.owner() as peer:
        with service.owner() as rude:
            rude.send(*[save("a", f"rude {m}") for m in range(10)])
        eventually(lambda: versions_of(peer, "a")[0] == 60, "all ten are saved")
        assert password_of(peer, "a") == "rude 9"


# --- Files that are taken away, while both workers have the book open. ---


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


def is_sound(database: Path) -> int:
    """Check a database that nobody uses; return how many users are in it."""
    with contextlib.closing(apsw.Connection(str(database))) as connection:
        assert connection.pragma("integrity_check") == "ok"
        ((users,),) = connection.execute("SELECT count(*) FROM user")
        for (older,) in connection.execute("SELECT older FROM user"):
            unpack(older)
        return int(users)


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
    assert is_sound(tmp_path / "user_data.db") == 1


def test_a_save_after_the_removal_is_never_into_the_old_book(
    service: Service, tmp_path: Path
) -> None:
    """What is acknowledged after the file is gone is in the fresh book, whatever was planned."""
    with readers_open(service) as (one, two), service.peer() as guest:
        for n in range(8):
            one.ask(save("old", "before"))
            assert password_of(two, "old") == "before"
            (tmp_path / "user_data.db").unlink()
            for name in ("old", f"new {n}"):
                assert guest.ask(save(name, f"after {n}"))["message"] == "Password saved!"
            register_again(service, one, two)
            assert newest_is(one, f"after {n}")
            assert names(one) == [f"new {n}", "old"]
            assert versions_of(one, "old") == [1]
            assert one.count() == 2
    assert service.stop() == 0
    assert is_sound(tmp_path / "user_data.db") == 2


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
    assert is_sound(database) == 2


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
    assert is_sound(database) == total


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
    assert is_sound(tmp_path / "user_data.db") == total
