"""The book on the disk: made, guarded, checked, removed."""

import base64
import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import apsw
import pytest

from tests.books import KEY
from tests.conftest import Start
from tests.harness import Peer, Service, eventually, load
from tests.older_books import OldUser, make_version_1, make_version_2
from workers.names import generated_name

SAVE = {"message": "save_password", "password": "abc123"}


def save_as(peer: Peer, name: str, password: str = "abc123", **more: object) -> int:
    """Save under a name and return the version."""
    reply = peer.ask({**SAVE, "username": name, "password": password, **more})
    assert reply["message"] == "Password saved!", reply
    return int(reply["version"])


def serve(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `pwserver serve` where it must refuse to start."""
    command = [sys.executable, "-m", "pwserver", "serve", "--port", "0", *flags]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )


def assert_refused(result: subprocess.CompletedProcess[str], reason: str) -> None:
    """Check that a start was refused with a plain sentence."""
    assert result.returncode == 5, result
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.fixture(scope="module")
def made_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a service has made a book of three users, and has stopped."""
    service = Service(tmp_path_factory.mktemp("made")).wait_until_listening()
    with service.peer() as peer:
        for _ in range(3):
            peer.save()
    assert service.stop() == 0
    return service.folder


@pytest.fixture
def book(made_book: Path, tmp_path: Path) -> Path:
    """Return a folder with a book of three users and its key, for one test."""
    for name in ("user_data.db", "user_data.key"):
        shutil.copy(made_book / name, tmp_path)
    return tmp_path


def test_files_are_for_their_owner_only(service: Service, tmp_path: Path) -> None:
    """Nobody else may read the database, what belongs to it, or the key."""
    with service.owner() as peer:
        peer.save()
    files = list(tmp_path.glob("user_data*"))
    endings = {file.name.removeprefix("user_data.") for file in files}
    assert {"db", "db-wal", "key", "audit", "audit-head"} <= endings
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_passwords_are_sealed(service: Service, tmp_path: Path) -> None:
    """A saved password is found in no file, nor is it in a log line or on the console."""
    canary = "canary-3f9a-\N{SNOWMAN}"
    with service.owner() as peer:
        for version in range(1, 11):
            peer.save(canary)
            assert save_as(peer, "alice", f"{canary}{version}", request_id=f"r{version}") == version
        get = {"message": "get_password", "username": "alice", "version": 3}
        assert peer.ask(get)["password"] == f"{canary}3"
        for command in ("verify_password", "check_password"):
            peer.ask({"message": command, "username": "bob", "password": canary})
        peer.count()
        peer.send(f'{{"message": "save_password", "password": "{canary}", "id": []}}\n'.encode())
        assert "canary" not in str(peer.reply())
    searched = [file for file in tmp_path.iterdir() if file.is_file()]
    assert len(searched) >= 4
    assert not [file for file in searched if b"canary" in file.read_bytes()]
    assert service.stop() == 0
    assert not [file for file in tmp_path.iterdir() if b"canary" in file.read_bytes()]


def test_the_number_equals_the_rows(book: Path, start: Start) -> None:
    """What is answered is what is in the table, also after a restart."""
    service = start()
    with service.peer() as peer:
        assert peer.count() == 3
        peer.save()
        assert peer.count() == 4
    assert service.stop() == 0
    with apsw.Connection(str(book / "user_data.db")) as connection:
        assert connection.execute("SELECT count(*) FROM user").fetchone() == (4,)
        assert connection.pragma("integrity_check") == "ok"
        assert connection.pragma("journal_mode") == "wal"


def test_removing_the_database_gives_a_fresh_book_at_the_next_start(
    book: Path, start: Start
) -> None:
    """The seed's way to begin anew works; the key stays."""
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

    So are its applications: they are to be registered anew.
    """
    service = start("--workers", "3")
    peers = [service.owner() for _ in range(6)]
    get = {"message": "get_password", "username": "alice"}
    for version, peer in enumerate(peers, 1):
        assert save_as(peer, "alice", f"old {version}") == version
    (tmp_path / "user_data.db").unlink()
    with service.peer() as guest:
        eventually(lambda: guest.count() == 0, "the book is fresh", 1.0)
    for peer in peers:
        eventually(lambda: peer.ask(get) == {"message": "Denied!"}, "it is seen", 1.0)  # noqa: B023
    token = service.add_application("owner", common=True)
    for peer in peers:
        assert peer.authenticate(token)["message"] == "Authenticated!"
        assert peer.ask(get) == {"message": "Unknown user!"}
        assert peer.ask({"message": "list_users"})["users"] == []
    for version, peer in enumerate(peers, 1):
        assert save_as(peer, "alice", f"new {version}") == version
    for peer in peers:
        assert peer.ask(get)["password"] == "new 6"
        peer.close()


def test_nothing_is_acknowledged_into_a_removed_database(service: Service, tmp_path: Path) -> None:
    """Removed under load, the book keeps all that was answered after the fresh one was seen."""
    with service.peer() as peer, load(service, 4) as acknowledged:
        for _ in range(5):
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 50, "saves go on")  # noqa: B023
            old = peer.count()
            for file in sorted(tmp_path.glob("user_data.db*")):
                file.unlink(missing_ok=True)
            eventually(lambda: peer.count() < old, "a fresh book is there", 1.0)  # noqa: B023
            fresh_from = len(acknowledged)
        eventually(lambda: len(acknowledged) > fresh_from + 50, "saves go on")
    with service.peer() as peer:
        number = peer.count()
    assert number >= len(acknowledged) - fresh_from
    service.kill_everything()
    with apsw.Connection(str(tmp_path / "user_data.db")) as connection:
        assert connection.execute("SELECT count(*) FROM user").fetchone() == (number,)


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


def test_a_missing_key_is_refused(book: Path) -> None:
    """A book without its key is not opened, and no new key is made for it."""
    (book / "user_data.key").unlink()
    assert_refused(serve(book), "put it back from your backup")
    assert not (book / "user_data.key").exists()


def test_a_wrong_key_is_refused(book: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The key of another book is found out before anything is sealed with it."""
    other = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "pwserver", "setup"], cwd=other, check=True)
    shutil.copy(other / "user_data.key", book / "user_data.key")
    before = (book / "user_data.db").read_bytes()
    assert_refused(serve(book), "not the one that user_data.db was sealed with")
    assert (book / "user_data.db").read_bytes() == before


def test_a_key_readable_by_others_is_refused(book: Path) -> None:
    """The message says what to type."""
    (book / "user_data.key").chmod(0o644)
    assert_refused(serve(book), "chmod 600")


def test_an_unknown_schema_version_is_refused(book: Path) -> None:
    """A book of a later version is left alone."""
    with apsw.Connection(str(book / "user_data.db")) as connection:
        connection.pragma("user_version", 99)
    connection.close()
    before = (book / "user_data.db").read_bytes()
    assert_refused(serve(book), "schema version 99")
    assert (book / "user_data.db").read_bytes() == before


@pytest.fixture(params=[1, 2])
def older_release(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder with a book and a key of the first release, or of the second."""
    passwords = {5: "abc123", 2**62: "p\u00e4ss"}
    if request.param == 1:
        make_version_1(tmp_path / "user_data.db", passwords)
    else:
        users = [OldUser(id, [password]) for id, password in passwords.items()]
        make_version_2(tmp_path / "user_data.db", users, {})
    secret = base64.b64encode(KEY.secret.reveal()).decode()
    (tmp_path / "user_data.key").write_text(f"pwserver-key-v1 {KEY.id} {secret}\n")
    (tmp_path / "user_data.key").chmod(0o600)
    return tmp_path


@pytest.mark.usefixtures("older_release")
def test_a_book_of_an_older_release_is_taken_over(start: Start) -> None:
    """Its passwords can be read under generated names, and newer versions follow them."""
    service = start()
    with service.owner() as peer:
        assert peer.count() == 2
        names = [user["username"] for user in peer.ask({"message": "list_users"})["users"]]
        assert names == [generated_name(5), generated_name(2**62)]
        get = {"message": "get_password", "username": names[1]}
        reply = peer.ask(get)
        assert (reply["password"], reply["version"]) == ("p\u00e4ss", 1)
        assert save_as(peer, names[1], "new") == 2
        assert peer.ask({**get, "version": 1})["password"] == "p\u00e4ss"
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 3


def test_setup_says_whether_it_changed_something(older_release: Path) -> None:
    """`pwserver setup` does not claim that nothing was changed where it upgraded the database."""
    database = older_release / "user_data.db"
    for _ in range(2):
        before = database.read_bytes()
        command = [sys.executable, "-m", "pwserver", "setup"]
        result = subprocess.run(command, cwd=older_release, capture_output=True, check=True)
        unchanged = database.read_bytes() == before
        assert (b"nothing was changed" in result.stdout) == unchanged


@pytest.mark.parametrize("content", ["text", "sqlite"])
def test_a_file_of_another_program_is_refused(tmp_path: Path, content: str) -> None:
    """What is not a password book is not touched, and no key is made for it."""
    path = tmp_path / "user_data.db"
    if content == "text":
        path.write_text("my notes\n" * 100)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE notes (text)")
        connection.commit()
        connection.close()
    subprocess.run(
        [sys.executable, "-m", "pwserver", "setup", "--database", "other.db"],
        cwd=tmp_path,
        check=True,
    )
    before = path.read_bytes()
    assert_refused(serve(tmp_path, "--key-file", "other.key"), "user_data.db")
    assert path.read_bytes() == before


def test_a_damaged_book_is_refused(book: Path) -> None:
    """Flipped bytes in the schema are found at the start, and nothing is made in their place."""
    damaged = bytearray((book / "user_data.db").read_bytes())
    damaged[0:200] = bytes(200)
    (book / "user_data.db").write_bytes(damaged)
    assert_refused(serve(book), "restore it from a backup")
    assert (book / "user_data.db").read_bytes() == damaged


TAMPERED = {
    "sealed = zeroblob(46)": "get_password",
    "sealed = 'a text'": "get_password",
    "sealed = 5": "verify_password",
    "id = -1": "get_password",
    "id = id + 1": "verify_password",
    "version = -1": "get_password",
    "version = 2": "get_password",
    "key_id = 2": "get_password",
    "older = x'00'": "get_password",
    "labels = '[]'": "get_password",
    "saved_at_ms = saved_at_ms + 1": "verify_password",
    "saved_at_ms = 1 << 62": "password_history",
    "labels = 'no JSON'": "list_users",
    "labels = x'ff'": "list_users",
}
"""What somebody did to a row, and what is asked for then."""
SECRETS = ("get_password", "verify_password")


def test_an_altered_row_costs_its_own_request_only(service: Service, tmp_path: Path) -> None:
    """What was tampered with is not given out, but answered; no process dies of it."""
    names = [f"user {number}" for number in range(len(TAMPERED))]
    with service.owner() as peer:
        for name in names:
            save_as(peer, name, labels=["a"])
    children = eventually(
        lambda: found if len(found := service.children()) == 5 else None, "all children are named"
    )
    intruder = apsw.Connection(str(tmp_path / "user_data.db"))
    for name, change in zip(names, TAMPERED, strict=True):
        intruder.execute(f"UPDATE user SET {change} WHERE username = ?", (name,))
    intruder.close()
    answers = {}
    for name, (change, command) in zip(names, TAMPERED.items(), strict=True):
        asked: dict[str, str] = {"message": command, "username": name, "password": "abc123"}
        if command == "list_users":
            asked = {"message": command, "prefix": name, "label": "a"}
        answers[change] = "(no reply)"
        with service.owner() as peer, contextlib.suppress(OSError, AssertionError, ValueError):
            answers[change] = peer.ask(asked)["message"]
    assert "(no reply)" not in answers.values(), answers
    assert service.children() == children
    secrets = [answers[change] for change, command in TAMPERED.items() if command in SECRETS]
    assert set(secrets) == {"Unavailable!"}
    assert len(secrets) == 11
    altered = re.findall("the password of user .* cannot be given out", service.stderr)
    assert len(altered) == len(secrets), service.stderr


def test_a_sqlite_that_loses_data_is_refused(tmp_path: Path) -> None:
    """The service does not start on a SQLite with the WAL-reset bug, and says why."""
    program = (
        "import apsw; apsw.sqlite_lib_version = lambda: '3.51.2'\n"
        "import sys; from pwserver.cli import run; sys.exit(run(['serve', '--port', '0']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert_refused(result, "WAL-reset bug")


def test_a_full_disk_is_said_and_survived(start: Start, tmp_path: Path) -> None:
    """A save that does not fit is "Not saved!" with the reason; counts go on; room helps."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        service = start("--database", str(folder / "user_data.db"))
        with service.peer() as peer:
            saved = 0
            while (reply := peer.save("x" * 4000))["message"] == "Password saved!":
                saved += 1
            assert reply == {"message": "Not saved!", "error": "The disk is full."}
            assert saved > 50
            assert peer.count() == saved
            subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
            assert peer.save() == {"message": "Password saved!"}
            assert peer.count() == saved + 1
        assert service.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to make syncs fail")
def test_after_a_failed_sync_nothing_is_acknowledged(start: Start) -> None:
    """The save is told that nobody knows, and the service ends at once with its own exit code."""
    service = start()
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        writer = service.child("writer")
        inject = ["-e", "inject=fsync,fdatasync:error=EIO", "-o", "/dev/null"]
        command = ["strace", "-p", str(writer), "-e", "trace=fsync,fdatasync", *inject]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        if b"attached" not in tracer.stderr.readline():
            tracer.communicate()
            pytest.skip("needs the right to trace a process")
        began = time.monotonic()
        reply = peer.save()
        assert (reply["message"], "may or may not" in reply["error"]) == ("Unavailable!", True)
        assert service.ended() == 6
        assert time.monotonic() - began < 1.5
        tracer.communicate()
    assert "the disk failed" in service.stderr


def test_a_locked_database_is_said_and_survived(start: Start, tmp_path: Path) -> None:
    """Another program that locks the database makes saves wait, then fail, and counts go on."""
    service = start("--save-timeout-s", "1")
    with service.peer() as peer, service.peer() as other:
        peer.save()
        intruder = apsw.Connection(str(tmp_path / "user_data.db"))
        intruder.execute("BEGIN IMMEDIATE")
        replies: list[str] = []
        waiting = threading.Thread(target=lambda: replies.append(peer.save()["message"]))
        waiting.start()
        assert other.count() == 1
        waiting.join()
        assert replies == ["Not saved!"]
        intruder.execute("COMMIT")
        intruder.close()
        assert peer.save() == {"message": "Password saved!"}
