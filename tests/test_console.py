"""The console: all users on standard output, without the reply or anybody else waiting for it."""

import json
import re
from pathlib import Path

import apsw

from tests.conftest import Start
from tests.harness import Service, eventually

LINE = re.compile(r"^(\d+)\t(user-[0-9a-z]{13})\t(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$")
COUNT = {"message": "number_of_users"}


def test_every_user_is_listed_on_a_line(service: Service) -> None:
    """A count prints one line a user: id, username and the time saved, and never the password."""
    with service.peer() as peer:
        for _ in range(5):
            peer.save("secret-secret")
        assert peer.count() == 5
        assert service.process.stdout is not None
        lines = [service.process.stdout.readline().decode() for _ in range(5)]
    found = [LINE.match(line) for line in lines]
    assert all(found), lines
    ids = [int(match[1]) for match in found if match]
    assert ids == sorted(set(ids))
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


def test_requests_during_a_listing_share_the_next(start: Start, tmp_path: Path) -> None:
    """A thousand counts at once make a few listings, not a thousand, and the last is whole."""
    output = tmp_path / "stdout"
    with open(output, "wb") as file:
        service = Service(tmp_path, stdout=file)
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
    assert all(LINE.match(line) for line in listings)
    assert 2000 <= len(listings) < 200 * 2000


def test_others_are_quick_while_a_long_listing_is_printed(service: Service) -> None:
    """While many users are listed to a blocked console, a count is answered, and the log is bound.

    The console holds no transaction while it waits, so the write-ahead log can be reused.
    """
    log_file = service.folder / "user_data.db-wal"
    with service.peer() as peer:
        saves = json.dumps({"message": "save_password", "password": "x" * 1000}).encode() + b"\n"
        for _ in range(40):
            peer.send(*[saves] * 500)
            for _ in range(500):
                peer.line()
            peer.count()
    assert log_file.stat().st_size < 16 * 1024 * 1024
    service.process.stdout, unread = None, service.process.stdout
    assert service.stop() == 0
    assert unread is not None
    unread.close()
