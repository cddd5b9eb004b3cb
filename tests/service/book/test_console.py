"""The console: all users on standard output, without the reply or anybody else waiting for it."""

import json
import os
import re
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.ipc import Scoreboard
from pwserver.server import console
from pwserver.server.console import Line, line
from tests.conftest import Start
from tests.support.books import Saving, contents, new_scoreboard, open_store, users
from tests.support.harness import Service, eventually
from workers.storage.sqlite.reading import pages_of_users

LINE = re.compile(r"^(\d+)\t(user-[0-9a-z]{13})\t(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$")
COUNT = {"message": "number_of_users"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("user-0000000000000", "user-0000000000000"),
        ("Zoë O'Neil", "Zoë O'Neil"),
        ("名前 😀", "名前 😀"),
        ("a\tb\nc", "a\\u{9}b\\u{a}c"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("a\u00a0b\u202e\U000e0041", "a\\u{a0}b\\u{202e}\\u{e0041}"),
    ],
)
def test_a_name_stays_on_its_line(name: str, shown: str) -> None:
    """Whatever is in a name, a line has three columns, and nothing in it controls a terminal."""
    assert line(7, name, "2026-02-02T02:40:00Z") == f"7\t{shown}\t2026-02-02T02:40:00Z\n"


class Clock:
    """The time as the console sees it: it passes only while it lists or rests."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.rests: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.rests.append(seconds)


class EndOfTest(Exception):
    """Raised to end the console's loop."""


def print_listings(pages: Callable[[], Iterator[list[Line]]], board: Scoreboard) -> None:
    """Have the console print what is asked for, until `pages` raises `EndOfTest`."""
    bell, ringer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with bell, ringer:
        ringer.send(b"!")
        start = console.ConsoleStart(lambda name: None, pages)
        with pytest.raises(EndOfTest):
            console._print_listings(bell, board, start, threading.Lock())


@pytest.mark.parametrize(
    ("took_s", "rest_s"), [(8.0, 80.0), (0.25, 2.5), (0.01, 1.0)], ids=["long", "short", "least"]
)
def test_the_console_rests_after_a_listing(
    took_s: float,
    rest_s: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ten times as long as that took, however often it is asked meanwhile: these share the next."""
    clock, board = Clock(), new_scoreboard()
    listings = 0

    def pages() -> Iterator[list[Line]]:
        nonlocal listings
        if listings == 3:
            raise EndOfTest
        listings += 1
        clock.now_s += took_s
        yield [(listings, "alice", "now")]
        board.listing_wanted = True  # asked while it is printed

    monkeypatch.setattr(console, "time", clock)
    print_listings(pages, board)
    assert clock.rests == [pytest.approx(rest_s)] * 3
    assert capsys.readouterr().out == "".join(f"{n}\talice\tnow\n" for n in (1, 2, 3))


def test_what_cannot_be_read_ends_one_listing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not all those after it: somebody may put the row in order, or delete it."""
    board = new_scoreboard()
    listings = 0

    def pages() -> Iterator[list[Line]]:
        nonlocal listings
        if listings == 2:
            raise EndOfTest
        listings += 1
        board.listing_wanted = True
        yield [(listings, "alice", "now")]
        b"\xff".decode()

    monkeypatch.setattr(console, "time", Clock())
    print_listings(pages, board)
    assert capsys.readouterr().out == "1\talice\tnow\n2\talice\tnow\n"


# --- What is read. ---


def expected(*ids: int) -> list[tuple[int, str | None, int]]:
    """Return what the console reads of users without a name."""
    return [(id, None, id * 1000) for id in ids]


def make(path: Path, *ids: int) -> None:
    """Make a database with some users in it, and close it."""
    store = open_store(path)
    store.commit(users(*ids), [])
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made, in a folder that has nothing else in it."""
    (tmp_path / "book").mkdir()
    return tmp_path / "book" / "user_data.db"


@pytest.mark.parametrize("size", [1, 3, 7, 10, 11, 1000])
@pytest.mark.parametrize("newest", [None, 0, 1, 3, 9, 10, 11, 1000])
def test_pages_have_all_users_or_the_newest(path: Path, newest: int | None, size: int) -> None:
    """All users, or the newest N, come oldest first, each once, in full pages but the last."""
    make(path, *range(10, 101, 10))
    pages = list(pages_of_users(path, newest, size))
    all_users = expected(*range(10, 101, 10))
    wanted = all_users if newest is None else all_users[max(0, 10 - newest) :]
    assert pages == [wanted[at : at + size] for at in range(0, len(wanted), size)]


def test_pages_have_the_names_of_all_books(path: Path) -> None:
    """A user comes with the name that it was given, whatever book it is in."""
    store = open_store(path)
    named = [Saving(username="alice", user_id=8), Saving(username="alice", user_id=9, book=1)]
    store.commit(users(7, 10), [*named])
    (page,) = pages_of_users(path, None, 10)
    assert [user[:2] for user in page] == [(7, None), (8, "alice"), (9, "alice"), (10, None)]
    store.close()


@pytest.mark.parametrize("newest", [None, 20_000])
def test_a_listing_needs_little_memory(path: Path, newest: int | None) -> None:
    """However many users are listed, no more than a few pages of them are in memory at a time."""
    make(path, *range(1, 20_001))
    tracemalloc.start()
    try:
        assert sum(map(len, pages_of_users(path, newest, 100))) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_users_saved_meanwhile_are_left_out(path: Path) -> None:
    """A listing ends at the user who was the newest when it began, however long it takes."""
    store = open_store(path)
    store.commit(users(10, 20, 30), [])
    pages = pages_of_users(path, None, 2)
    assert next(pages) == expected(10, 20)
    store.commit(users(40, 50), [])
    assert list(pages) == [expected(30)]
    assert list(pages_of_users(path, 1, 2)) == [expected(50)]
    store.close()


def test_a_blocked_listing_holds_nothing(path: Path) -> None:
    """Between pages nothing is locked: users are saved, and the whole log can be checkpointed."""
    store = open_store(path)
    store.commit(users(10, 20, 30), [])
    pages = pages_of_users(path, 3, 2)
    assert next(pages) == expected(10, 20)
    store.commit(users(40), [])
    assert store.checkpoint()
    assert list(pages) == [expected(30)]
    store.close()


def test_a_listing_changes_nothing(path: Path) -> None:
    """The console writes neither to the database nor to its log, not even where no writer is."""
    store = open_store(path)
    store.commit(users(10), [])
    left = contents(path.parent)
    store.close()
    for name, data in left.items():  # as a writer that is killed leaves it
        path.with_name(name).write_bytes(data)
    assert len(left) == 2
    assert list(pages_of_users(path, None, 10)) == [expected(10)]
    assert contents(path.parent) == left


def test_another_programs_database_has_no_pages(path: Path) -> None:
    """A database that is no password book is not listed, nor changed, and is no error."""
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE song (title TEXT)")
    other.close()
    before = contents(path.parent)
    assert list(pages_of_users(path, None, 10)) == []
    assert contents(path.parent) == before


@pytest.mark.parametrize("content", [None, b"", b"Note.\n", b"Not a database.\n" * 1000])
def test_what_cannot_be_read_has_no_pages(path: Path, content: bytes | None) -> None:
    """Where there is no database, or none that can be read, nothing is listed and nothing made."""
    if content is not None:
        path.write_bytes(content)
    assert list(pages_of_users(path, None, 10)) == []
    assert os.listdir(path.parent) == ([] if content is None else [path.name])
    assert content is None or path.read_bytes() == content


# --- What is printed. ---


def test_every_user_is_listed_on_a_line(service: Service) -> None:
    """A count prints one line a user: id, username and the time saved, and never the password."""
    with service.peer() as peer:
        for _ in range(5):
            peer.save("secret-secret")
        assert peer.count() == 5
        assert service.process.stdout is not None
        lines = [service.process.stdout.readline().decode() for _ in range(5)]
    found = [LINE.match(text) for text in lines]
    assert all(found), lines
    ids = [int(match[1]) for match in found if match]
    assert ids == sorted(set(ids))
    assert "secret" not in "".join(lines)


def test_named_users_are_listed_by_their_names(service: Service) -> None:
    """A user who was saved under a name is listed under it, once, however often it was saved."""
    with service.owner() as peer:
        for name in ("Zoë", "alice", "Zoë"):
            reply = peer.ask({"message": "save_password", "password": "secret", "username": name})
            assert reply["message"] == "Password saved!"
        peer.save("secret")
        assert peer.count() == 3
        assert service.process.stdout is not None
        lines = [service.process.stdout.readline().decode() for _ in range(3)]
    names = [text.split("\t")[1] for text in lines]
    assert names[:2] == ["Zoë", "alice"]
    assert names[2].startswith("user-")
    assert "secret" not in "".join(lines)


def listed(start: Start, tmp_path: Path, list_users: str) -> tuple[int, Service]:
    """Return how many lines the console printed of 5 users by the end of the service."""
    service = start("--list-users", list_users)
    with service.peer() as peer:
        for _ in range(5):
            peer.save()
        assert peer.count() == 5
        if list_users == "none":
            assert service.stop() == 0
            return 0, service
        assert service.process.stdout is not None
        last = ""
        lines = 0
        newest = _newest(tmp_path)
        while newest not in last:
            last = service.process.stdout.readline().decode()
            lines += 1
    return lines, service


def _newest(folder: Path) -> str:
    """Return the greatest id in the database, as text."""
    connection = apsw.Connection(str(folder / "user_data.db"))
    newest = connection.execute("SELECT max(id) FROM user").get
    connection.close()
    return str(newest)


def test_only_the_newest_are_listed_if_so_set(start: Start, tmp_path: Path) -> None:
    """--list-users N prints the newest N."""
    assert listed(start, tmp_path, "2")[0] == 2


def test_nothing_is_listed_if_so_set(start: Start, tmp_path: Path) -> None:
    """--list-users none prints no users and starts no console."""
    _, service = listed(start, tmp_path, "none")
    assert service.process.stdout is not None
    assert "console" not in service.children()


def test_a_blocked_console_stops_nobody(service: Service) -> None:
    """With nobody reading standard output, replies come as ever and the service stops cleanly."""
    with service.peer() as peer:
        peer.send(*[{"message": "save_password", "password": "x"}] * 5000)
        for _ in range(5000):
            assert peer.reply()["message"] == "Password saved!"
        for _ in range(50):
            assert peer.count() == 5000  # 300 KB a listing, into a pipe that holds 64
        assert peer.save()["message"] == "Password saved!"
    service.process.stdout, unread = None, service.process.stdout
    assert service.stop() == 0
    assert unread is not None
    unread.close()


def test_a_closed_console_stops_nobody(service: Service) -> None:
    """With standard output closed by its reader, the service goes on."""
    assert service.process.stdout is not None
    service.process.stdout.close()
    with service.peer() as peer:
        for _ in range(20):
            peer.save()
            peer.count()
        assert peer.count() == 20
    service.process.stdout = None
    assert service.stop() == 0


def test_requests_during_a_listing_share_the_next(tmp_path: Path) -> None:
    """A thousand counts at once make a few listings, not a thousand, and the last is whole."""
    output = tmp_path / "stdout"
    with open(output, "wb") as file, Service(tmp_path, stdout=file) as service:
        eventually(lambda: output.read_text().endswith("\n"), "the service listens")
        found = re.search(r"listening on \S+:(\d+)", output.read_text())
        assert found
        service.port = int(found[1])
        with service.peer() as peer:
            peer.send(*[{"message": "save_password", "password": "x"}] * 2000)
            for _ in range(2000):
                peer.reply()
            peer.send(*[COUNT] * 1000)
            for _ in range(1000):
                assert peer.reply()["number_of_users"] == 2000
            peer.save()
            newest = _newest(tmp_path)
            peer.count()
            eventually(lambda: newest in output.read_text(), "the last request was listed")
        assert service.stop() == 0
    listings = output.read_text().splitlines()[1:]
    assert all(LINE.match(text) for text in listings)
    assert 2000 <= len(listings) < 200 * 2000


def test_others_are_quick_while_a_long_listing_is_printed(service: Service) -> None:
    """While many users are listed to a blocked console, a count is answered, and the log is bound.

    The console holds no transaction while it waits, so the write-ahead log can be reused: without
    that it would have the 40 MiB that are written. While every processor is busy, the console,
    which comes last, may be in the middle of a page at some checkpoints.
    """
    log_file = service.folder / "user_data.db-wal"
    with service.peer() as peer:
        saves = json.dumps({"message": "save_password", "password": "x" * 1000}).encode() + b"\n"
        for _ in range(40):
            peer.send(*[saves] * 500)
            for _ in range(500):
                peer.line()
            peer.count()
    assert log_file.stat().st_size < 24 * 1024 * 1024
    service.process.stdout, unread = None, service.process.stdout
    assert service.stop() == 0
    assert not log_file.exists(), "who closes last copies it, although the console was in the way"
    assert unread is not None
    unread.close()
