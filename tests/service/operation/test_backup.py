"""Backups of a running service, by hand and by itself, and the way back."""

import re
import shutil
import threading
from pathlib import Path

import pytest

from pwserver.errors import ExitCode
from tests.conftest import Start
from tests.support.books_wire import password_of, save
from tests.support.harness import Service, eventually, meanwhile
from tests.support.shell import Shell

PASSPHRASE = "correct horse battery staple"


def test_a_bad_day(start: Start, tmp_path: Path) -> None:
    """Backed up under saves, with a copy of the keys; all that was acknowledged before is back."""
    service = start()
    token = service.token
    acknowledged: list[int] = []

    def save_on(over: threading.Event) -> None:
        with service.owner() as peer:
            while not over.is_set():
                number = len(acknowledged)
                assert peer.ask(save(f"user {number}", f"password {number}"))["version"] == 1
                acknowledged.append(number)

    shell = Shell(tmp_path)
    with meanwhile(save_on):
        eventually(lambda: len(acknowledged) > 50, "some were saved")
        before = len(acknowledged)
        made = shell.run("backup", "copy.db", "--json").record
        count = len(acknowledged)
        eventually(lambda: len(acknowledged) > count, "saves go on")
    assert made["users"] >= before
    assert made["needs_keys"] == [1]
    said = shell.run("backup", "copy.db")
    assert (said.code, said.out) == (0, "")
    assert "Keys are not in it: it needs key 1 of user_data.key. `pwserver key export" in said.err
    exported = shell.run("key", "export", "keys", stdin=PASSPHRASE)
    assert exported.code == 0, exported
    refused = shell.run("restore", "copy.db")
    assert (refused.code, refused.out) == (ExitCode.FAILED, "")
    assert refused.err == (
        "pwserver: a service runs on user_data.db: stop it first (`pwserver stop`). Nothing was "
        "changed.\n"
    )
    service.kill_everything()

    elsewhere = tmp_path / "elsewhere"  # another machine
    elsewhere.mkdir()
    for name in ("copy.db", "keys"):
        shutil.move(tmp_path / name, elsewhere)
    shell = Shell(elsewhere)
    lacking = shell.run("restore", "copy.db")
    assert lacking.code == ExitCode.STORE
    assert lacking.err.startswith("pwserver: there is no key file user_data.key.")
    wrong = shell.run("key", "import", "keys", stdin="wrong")
    assert wrong.code == ExitCode.STORE
    assert "the passphrase is not the right one" in wrong.err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["copy.db", "keys"]
    assert shell.run("key", "import", "keys", stdin=PASSPHRASE).code == 0
    restored = shell.run("restore", "copy.db")
    assert restored.code == 0, restored
    assert restored.err.startswith(f"user_data.db is copy.db now, with {len(acknowledged)} users")
    assert "Keys are not in a backup: this one needs key 1." in restored.err
    assert "all in order" in shell.run("check").out
    with Service(elsewhere) as again, again.wait_until_listening().peer() as peer:
        peer.authenticate(token)
        assert peer.count() == len(acknowledged)
        for number in acknowledged[:before]:
            assert password_of(peer, f"user {number}") == f"password {number}"
        assert again.stop() == 0


def test_a_service_makes_backups_by_itself(start: Start, tmp_path: Path) -> None:
    """A failure shows in log and status until one succeeds; the oldest of too many is removed."""
    folder = tmp_path / "backups"
    folder.touch()
    flags = ("--backup-every", "1s", "--backup-dir", "backups", "--backup-keep", "2")
    service = start(*flags)
    with service.owner() as peer:
        peer.ask(save("alice", "s"))
        status = {"message": "status"}
        eventually(lambda: "backup_error" in peer.ask(status), "the failure shows")
        failed = peer.ask(status)
        assert failed["backup_error"] == "The folder backup_dir cannot be used."
        assert "backup_age_s" not in failed
        assert "the backup failed: " in service.stderr
        folder.unlink()
        eventually(lambda: "backup_age_s" in peer.ask(status), "a backup is made")
        assert "backup_error" not in peer.ask(status)
        eventually(lambda: "is removed: there are newer ones" in service.stderr, "one too many")
        names = sorted(path.name for path in folder.glob("*.db"))
        assert len(names) in (2, 3)  # the oldest is removed after the newest is there
        made = eventually(lambda: max(folder.glob("*.db"), default=None), "a backup")
        assert re.fullmatch(r"user_data-\d{8}T\d{6}Z\.db", made.name)
    assert service.stop() == 0
    assert not list(folder.glob("*.part")), "a stop leaves nothing unfinished"
    shell = Shell(tmp_path)
    assert shell.run("restore", str(max(folder.glob("*.db")))).code == 0


def test_a_backup_process_that_dies_is_replaced(start: Start, tmp_path: Path) -> None:
    """The next one knows from the folder when a backup is due, and nobody else notices."""
    service = start("--backup-every", "1h", "--backup-dir", "backups")
    folder = tmp_path / "backups"
    eventually(lambda: list(folder.glob("*.db")), "a backup is made")
    eventually(lambda: "verified, in " in service.stderr, "it is logged")
    service.replace("backup")
    with service.owner() as peer:
        peer.save()
        assert "backup_error" not in peer.ask({"message": "status"})
    assert service.stop() == 0
    assert len(list(folder.glob("*.db"))) == 1


@pytest.mark.parametrize("content", [b"", b"no backup" * 1000], ids=["empty", "foreign"])
def test_a_foreign_file_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    """Nothing is made or changed by it."""
    shell = Shell(tmp_path)
    assert shell.run("setup").code == 0
    (tmp_path / "file").write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused = shell.run("restore", "file")
    assert (refused.code, refused.out) == (ExitCode.STORE, "")
    assert refused.err == (
        "pwserver: file is no backup: it is not a database. Nothing was changed.\n"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_terminal_shows_what_was_done(tmp_path: Path) -> None:
    """The sentences are for people; a passphrase is typed twice and not shown."""
    shell = Shell(tmp_path)
    assert shell.run("setup").code == 0
    (tmp_path / "safe").mkdir()
    assert "is verified" in shell.type("backup", "safe").out.replace("\n", " ")
    twice = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    exported = shell.type("key", "export", "keys", typed=twice)
    assert exported.code == 0, exported
    imported = shell.type("key", "import", "keys", typed=f"{PASSPHRASE}\n")
    assert "had all keys of keys already" in imported.out.replace("\n", " ")
    assert PASSPHRASE not in exported.out + imported.out
