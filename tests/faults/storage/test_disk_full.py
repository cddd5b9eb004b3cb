"""The disk is full, or files may grow no further: saves are refused, the rest goes on."""

import contextlib
import os
import re
import resource
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pwserver.errors import ExitCode
from tests.faults.canary import SAVE
from tests.faults.conftest import Start
from tests.faults.tally import users_in
from tests.support.harness import Peer, Service, eventually
from tests.support.shell import Shell
from workers.storage.outage import DISK_LOW_FOR_GUESTS, QUIET_S

FULL = {"message": "Not saved!", "error": "The disk is full."}
LOW = {
    "message": "Not saved!",
    "error": "The disk has less room than disk_reserve_mib keeps free.",
}


NO_RESERVE = ("--disk-reserve-mib", "0")
"""For a disk that is smaller than the usual reserve."""


def fill(disk: Path) -> None:
    """Leave not a page of room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def saved_until_full(peer: Peer) -> int:
    """Save until the disk is full, and then some; return how many saves were acknowledged."""
    saved = 0
    while (reply := peer.save("x" * 4000))["message"] == "Password saved!":
        saved += 1
    for _ in range(20):
        assert reply == FULL
        reply = peer.save("x" * 4000)
    return saved


def write_error(owner: Peer) -> Any:
    """Return why nothing can be saved, as `status` says it; None where all is well."""
    return owner.ask({"message": "status"}).get("write_error")


def assert_outage(service: Service, owner: Peer) -> None:
    """Check that `status` and the log say what is wrong, and that `check` and exit codes do."""
    status = owner.ask({"message": "status"})
    assert status["write_error"] == "The disk is full."
    since = datetime.fromisoformat(status["write_error_since"])
    assert timedelta(0) <= datetime.now(UTC) - since < timedelta(minutes=5)
    assert owner.ask({"message": "ping"}) == {"message": "Alive!"}
    said = re.findall(
        r"worker 1: nothing can be saved\. The disk is full\. Changes refused: \d+\n",
        service.stderr,
    )
    assert said, "at once"
    assert len(said) < 5, "once a minute, however many are refused"
    shell = Shell(service.folder, {"PWSERVER_URL": service.url})
    told = shell.run("status")
    assert told.code == ExitCode.STORAGE
    assert told.err == "pwserver: nothing can be saved. The disk is full.\n"
    checked = shell.run("check", "--database", str(service.database))
    assert checked.code == ExitCode.STORAGE
    assert "all in order" in checked.out
    assert "there is no room for more" in checked.err


@pytest.mark.root("to mount a small disk")
def test_a_full_disk_is_said_and_survived(small_disk: Path, start: Start) -> None:
    """A save that does not fit is "Not saved!" with the reason; reads go on; room helps."""
    service = start("--database", str(small_disk / "user_data.db"), *NO_RESERVE)
    service.database, service.key_file = small_disk / "user_data.db", small_disk / "user_data.key"
    with service.peer() as peer, service.owner() as owner:
        owner.ask({**SAVE, "username": "alice"})
        saved = saved_until_full(peer)
        assert saved > 50
        got = owner.ask({"message": "get_password", "username": "alice"})
        assert got["message"] in ("return_password", "Unavailable!"), (
            "the record has no room either"
        )
        assert owner.count() == saved + 1
        assert owner.ask({"message": "list_users"})["users"][0]["username"] == "alice"
        assert_outage(service, owner)
        threading.Event().wait(QUIET_S + 1)  # nobody saves: what was wrong is so still
        assert write_error(owner) == FULL["error"]
        assert "saved again" not in service.stderr
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == saved + 2
        eventually(lambda: not write_error(owner), "the outage is over")
    assert service.stop() == 0
    assert users_in(service.database) == saved + 2
    assert re.search(r"worker 1: changes are saved again\. Refused in all: \d+\n", service.stderr)


@pytest.mark.root("to mount a small disk")
def test_a_service_killed_on_a_full_disk_starts_again(small_disk: Path, start: Start) -> None:
    """With no room left to recover in, it starts all the same, and everything is there."""
    flags = ("--database", str(small_disk / "user_data.db"), *NO_RESERVE)
    service = start(*flags)
    with service.peer() as peer:
        saved = saved_until_full(peer)
    fill(small_disk)
    service.kill_everything()
    service = start(*flags)
    with service.peer() as peer:
        assert peer.count() == saved
        assert peer.save("x" * 4000) == FULL
        (small_disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert peer.save() == {"message": "Password saved!"}


@pytest.mark.root("to mount a small disk")
def test_a_book_cannot_be_begun_on_a_full_disk(small_disk: Path) -> None:
    """Whatever has room and whatever not, the reason is said, and with room it is begun."""
    fill(small_disk)
    shell, filler = Shell(small_disk), small_disk / "filler"
    codes = []
    while (ran := shell.run("setup")).code:
        codes.append(ran.code)
        assert "No space left on device" in ran.err or "full" in ran.err, ran
        assert ran.err.count("\n") == 1, ran
        os.truncate(filler, filler.stat().st_size - 40 * 1024)
    assert set(codes) == {5, 6}, "the key file and the database had no room"
    assert shell.run("setup").code == 0


@pytest.mark.parametrize("room", [0, 1, 100_000], ids="{} bytes of room".format)
def test_files_that_may_grow_no_further(start: Start, room: int) -> None:
    """A limit on the size of files is met as a full disk is: not saved, until it is lifted."""
    service = start()
    with service.peer() as peer:
        assert peer.save()["message"] == "Password saved!"
        writer = service.child("worker 1")
        log = service.database.with_name("user_data.db-wal")
        limit = log.stat().st_size + room
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        saved = 1
        for _ in range(60):
            reply = peer.save("x" * 4000)
            if reply["message"] != "Password saved!":
                assert reply["message"] == "Not saved!"
                assert reply["error"] in ("The disk is full.", "The disk reported an error.")
                break
            saved += 1
        else:
            pytest.fail("the limit was not reached")
        assert peer.count() == saved
        resource.prlimit(
            writer, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        assert peer.save()["message"] == "Password saved!"
    service.kill_everything()
    assert users_in(service.database) == saved + 1


# --- Before it is full. ---


def test_saves_leave_a_reserve(start: Start) -> None:
    """Below it they are refused, with and without a name; what makes room, or none, goes on."""
    service = start()
    with service.owner() as owner:
        owner.ask({**SAVE, "username": "alice"})
        once = {**SAVE, "username": "bob", "request_id": "saved before"}
        assert owner.ask(once)["message"] == "Password saved!"
    assert service.stop() == 0
    service = start("--disk-reserve-mib", "1000000")
    with service.peer() as peer, service.owner() as owner:
        eventually(lambda: peer.save() == LOW, "the writer has looked")
        peer.send(*[SAVE] * 50)
        assert [peer.reply() for _ in range(50)] == [LOW] * 50
        restore = {"message": "restore_password", "username": "alice", "version": 1}
        for refused in ({**SAVE, "username": "alice"}, {**SAVE, "username": "new"}, restore):
            assert owner.ask(refused) == LOW
        assert owner.ask(once)["message"] == "Password saved!", "it was, before"
        got = {"message": "get_password", "username": "alice"}
        assert owner.ask(got)["password"] == SAVE["password"]
        assert write_error(owner) == LOW["error"]
        assert service.add_application("a new one")
        deleted = {"message": "delete_user", "username": "alice"}
        assert owner.ask(deleted) == {"message": "User deleted!"}
        assert owner.count() == 1
    assert "worker 1: nothing can be saved. The disk has less room" in service.stderr
    assert service.stop() == 0


@pytest.mark.root("to mount a small disk")
def test_clients_without_a_token_leave_room_for_applications(
    small_disk: Path, start: Start
) -> None:
    """They are refused first, while there is more than the reserve."""
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    database = small_disk / "user_data.db"
    service = start("--database", str(database), "--disk-reserve-mib", "4")
    service.database, service.key_file = database, database.with_suffix(".key")
    filler = small_disk / "filler"
    guests_low = {**LOW, "error": DISK_LOW_FOR_GUESTS}
    with service.peer() as guest, service.owner() as owner:
        assert guest.save() == owner.save() == {"message": "Password saved!"}
        filler.write_bytes(bytes(9 << 20))
        eventually(lambda: guest.save() == guests_low, "the writer has looked")
        guest.send(*[SAVE] * 50)
        assert [guest.reply() for _ in range(50)] == [guests_low] * 50
        assert guest.ask({**SAVE, "request_id": "once"}) == guests_low
        assert owner.save() == {"message": "Password saved!"}
        assert write_error(owner) is None
        filler.write_bytes(bytes(13 << 20))
        eventually(lambda: owner.save() == LOW, "the reserve is reached")
        assert guest.save() == LOW
        filler.unlink()
        eventually(lambda: guest.save() == {"message": "Password saved!"}, "there is room")
