"""The book on the disk: made, guarded, and refused where it is no good."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.conftest import Start
from tests.support.harness import Peer, Service

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
    with Service(tmp_path_factory.mktemp("made")) as service:
        with service.wait_until_listening().peer() as peer:
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


def test_setup_says_whether_it_changed_something(tmp_path: Path) -> None:
    """`pwserver setup` makes what is not there; the second time it says that nothing changed."""
    for words in (b"Made the database user_data.db.", b"nothing was changed"):
        command = [sys.executable, "-m", "pwserver", "setup"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        assert words in result.stdout


def test_a_sqlite_that_loses_data_is_refused(tmp_path: Path) -> None:
    """The service does not start on a SQLite with the WAL-reset bug, and says why."""
    program = (
        "import apsw; apsw.sqlite_lib_version = lambda: '3.51.2'\n"
        "import sys; from pwserver.cli.main import run; sys.exit(run(['serve', '--port', '0']))"
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
