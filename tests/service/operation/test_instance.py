"""One service to a book: two starts at once, and `pwserver stop`."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pwserver.errors import ConnectionFailed, DatabaseRefused, StopTimedOut, StoreError
from pwserver.server.instance import Instance, lock_path, stop
from tests.conftest import Start
from tests.support.harness import PATIENCE_S, Service, eventually
from tests.support.processes import is_alive
from tests.support.shell import Shell

SERVE = [sys.executable, "-m", "pwserver", "serve", "--port", "0"]


@pytest.mark.parametrize("apart_s", [0.0, 0.05])
def test_of_two_starts_at_once_one_serves(tmp_path: Path, apart_s: float) -> None:
    """The other names the process that serves, and ends without having said that it listens."""
    both = []
    for _ in range(2):
        both.append(
            subprocess.Popen(
                SERVE,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        time.sleep(apart_s)
    try:
        ended = eventually(lambda: [each for each in both if each.poll() is not None], "one ends")
        (refused,) = ended
        (serving,) = set(both) - {refused}
        assert serving.stdout is not None
        assert "listening" in serving.stdout.readline()
        out, err = refused.communicate(timeout=PATIENCE_S)
        assert refused.returncode == 5
        assert out == ""
        assert err == (
            f"pwserver: user_data.db is in use by another pwserver, process {serving.pid}.\n"
        )
    finally:
        for each in both:
            each.terminate()
            each.communicate(timeout=PATIENCE_S)
    assert serving.returncode == 0


def test_a_lock_that_was_left_is_nobodys(start: Start, tmp_path: Path) -> None:
    """After a kill the file of the lock is there and the next start takes it."""
    service = start()
    service.kill_everything()
    assert lock_path(service.database).exists()
    again = start()
    with again.peer() as peer:
        assert peer.save()["message"] == "Password saved!"
    assert again.stop() == 0
    assert not lock_path(service.database).exists()


def test_links_lead_to_the_same_lock(tmp_path: Path) -> None:
    """However a database is named, it is locked once."""
    database = tmp_path / "user_data.db"
    link = tmp_path / "link.db"
    link.symlink_to(database)
    with Instance(database), pytest.raises(DatabaseRefused, match=f"process {os.getpid()}"):
        Instance(link)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Somebody's file is not overwritten because a link in the folder leads to it."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "user_data.lock").symlink_to(victim)
    with pytest.raises(DatabaseRefused, match=r"user_data\.lock cannot be opened"):
        Instance(tmp_path / "user_data.db")
    assert victim.read_text() == "precious"


def test_a_lock_that_others_may_open_is_refused(tmp_path: Path) -> None:
    """Whoever may open it could lock it, or say which process is to be stopped."""
    database = tmp_path / "user_data.db"
    with Instance(database):
        assert lock_path(database).stat().st_mode & 0o777 == 0o600
        lock_path(database).chmod(0o644)
        with pytest.raises(StoreError, match=r"user_data\.lock may be used by others \(mode 644\)"):
            stop(database, 1.0)
    lock_path(database).touch(0o644)
    with pytest.raises(DatabaseRefused, match=r"\(mode 644\)\. Run: chmod 600 .*user_data\.lock"):
        Instance(database)


def test_stop_ends_the_service_and_waits(service: Service, tmp_path: Path) -> None:
    """When the command returns, the service has ended in order."""
    with service.peer() as peer:
        assert peer.save()["message"] == "Password saved!"
    ran = Shell(tmp_path).run("stop")
    assert (ran.code, ran.err) == (0, "")
    assert str(service.process.pid) in ran.out
    assert not is_alive(service.process.pid)
    assert service.ended() == 0


def test_stop_says_that_none_runs(tmp_path: Path, start: Start) -> None:
    """Neither before there is one, nor after one that was killed, is anything waited for."""
    ran = Shell(tmp_path).run("stop")
    assert (ran.code, ran.err) == (3, "pwserver: no pwserver runs on user_data.db.\n")
    start().kill_everything()
    assert Shell(tmp_path).run("stop").code == 3


def test_stop_does_not_signal_who_has_not_the_lock(tmp_path: Path) -> None:
    """A number that is left in the file is by now anybody's: only who has the lock is meant."""
    with subprocess.Popen(["sleep", "60"]) as other:
        lock = lock_path(tmp_path / "user_data.db")
        namespace = os.stat("/proc/self/ns/pid").st_ino
        lock.write_text(f"{other.pid} {namespace}\n")
        lock.chmod(0o600)
        try:
            with pytest.raises(ConnectionFailed):
                stop(tmp_path / "user_data.db", 1.0)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may signal others' processes")
def test_a_user_cannot_have_root_stop_another_process(tmp_path: Path) -> None:
    """Not even by a lock in its own folder that names the process: root stops only its own."""
    lock, nobody = lock_path(tmp_path / "user_data.db"), 65534
    with subprocess.Popen(["sleep", "60"]) as other, lock.open("w+") as held:
        held.write(f"{other.pid} {os.stat('/proc/self/ns/pid').st_ino}\n")
        held.flush()
        lock.chmod(0o600)
        for path in (lock, tmp_path):
            os.chown(path, nobody, nobody)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            with pytest.raises(StoreError, match=f"process {other.pid}, which is not one of"):
                stop(tmp_path / "user_data.db", 1.0)
            assert other.poll() is None
        finally:
            other.kill()


def test_stop_gives_up_at_its_deadline(service: Service) -> None:
    """A service that does not end is not waited for for ever; that it was asked is said."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StopTimedOut, match=str(service.process.pid)):
            stop(service.database, 0.2)
    finally:
        service.process.send_signal(signal.SIGCONT)
    assert service.ended() == 0


def test_a_signal_that_comes_twice_at_once_is_one_request(service: Service) -> None:
    """Wrappers pass on what the whole group was sent: the stop is in order all the same."""
    with service.peer() as peer:
        assert peer.save()["message"] == "Password saved!"
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: "SIGTERM: stopping" in service.stderr, "the stop has begun")
        service.process.send_signal(signal.SIGTERM)
    assert service.ended() == 0


def test_a_current_folder_that_was_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is named from there cannot be found, and the sentence says why."""
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(DatabaseRefused, match=r"^user_data.db cannot be found: the current folder"):
        lock_path(Path("user_data.db"))
