"""The disk fails or dawdles: syncs that fail, writes that fail, a sync that takes seconds."""

import contextlib
import json
import os
import signal
import time

import pytest

from tests.faults.canary import SAVE
from tests.faults.conftest import Start
from tests.faults.inject import is_silent, system_calls
from tests.faults.tally import saving, users_in
from tests.support.books_wire import PING, peers_at
from tests.support.harness import Service, eventually

SYNCS = "fsync,fdatasync"
GREAT = {"message": "save_password", "password": "x" * 4000}


@pytest.mark.root("to let system calls fail")
def test_after_a_failed_sync_nothing_is_acknowledged(start: Start) -> None:
    """Saves are told that nobody knows, and the service ends at once, with the reason."""
    service = start()
    with service.peer() as peer, service.peer() as idle:
        assert peer.save() == idle.save() == {"message": "Password saved!"}
        with system_calls(service.child("worker 1"), SYNCS, "error=EIO"):
            began = time.monotonic()
            peer.send(*[SAVE] * 3)
            for _ in range(3):
                reply = peer.reply()
                assert reply["message"] == "Unavailable!"
                assert "may or may not" in reply["error"]
            assert idle.ended()
            assert service.ended() == 6
            assert time.monotonic() - began < 3.0  # where nobody else wants the processor, under 1
    assert service.stderr.count("the disk failed while the database was written to") == 1
    assert "see to the disk, then start again." in service.stderr
    users = users_in(service.database)
    assert 2 <= users <= 2 + 3
    with start().peer() as peer:
        assert peer.count() == users
        assert peer.save()["message"] == "Password saved!"


@pytest.mark.root("to let system calls fail")
def test_a_failed_sync_is_heard_by_a_listener_that_was_held_up(start: Start) -> None:
    """The last words of worker 1 count, even where it ended with messages to it unread.

    Another worker is replaced while the sync lasts, so that the listener tells worker 1 about it;
    the listener itself stands still while worker 1 ends, and finds its connection reset.
    """
    service = start("--workers", "2")
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        with system_calls(service.child("worker 1"), SYNCS, "error=EIO:delay_enter=2500ms"):
            peer.send(SAVE)
            time.sleep(0.3)
            service.replace("worker 2")
            time.sleep(0.7)
            os.kill(service.process.pid, signal.SIGSTOP)
            time.sleep(2.0)
            os.kill(service.process.pid, signal.SIGCONT)
            assert service.ended() == 6
    assert "the disk failed while the database was written to" in service.stderr


@pytest.mark.root("to let system calls fail")
def test_a_sync_that_fails_under_load_loses_nothing(start: Start) -> None:
    """Whatever was under way, what was acknowledged before is there, and all of it is sound."""
    service = start()
    with saving(service, 8) as savers:
        eventually(lambda: savers.tally.saved > 100, "saves are acknowledged")
        with system_calls(service.child("worker 1"), SYNCS, "error=EIO"):
            assert service.ended() == 6
    users = users_in(service.database)
    assert savers.tally.accounts_for(users), (savers.tally, users)
    with start().peer() as peer:
        assert peer.count() == users


@pytest.mark.root("to let system calls fail")
def test_a_sync_that_fails_at_a_checkpoint_ends_the_service(start: Start) -> None:
    """What the log has is acknowledged and safe in it; what could come after is not taken."""
    service = start()
    with service.peer() as peer:
        peer.save()
        with system_calls(service.child("worker 1"), SYNCS, "error=EIO", service.database):
            replies, some = 0, [b"-"]
            with contextlib.suppress(ConnectionError):  # what was not read yet is given up
                while all(some):
                    peer.send(*[GREAT] * 50)
                    some = [peer.line() for _ in range(50)]
                    replies += sum(b'"Password saved!"' in line for line in some)
                    assert replies < 1500
            assert service.ended() == 6
        assert replies > 100
    assert "the disk failed while the database was written to" in service.stderr
    assert users_in(service.database) >= replies + 1
    with start().peer() as peer:
        assert peer.count() >= replies + 1
        peer.send(*[GREAT] * 1500)
        assert {peer.reply()["message"] for _ in range(1500)} == {"Password saved!"}


REASONS = {
    "ENOSPC": "The disk is full.",
    "EDQUOT": "The disk quota is exceeded.",
    "EFBIG": "The disk reported an error.",
    "EROFS": "The disk reported an error.",
    "EIO": "The disk reported an error.",
}


@pytest.mark.root("to let system calls fail")
@pytest.mark.parametrize("error", REASONS)
def test_writes_that_fail_are_not_saved(start: Start, error: str) -> None:
    """Each is told why and that it was not saved; counts go on; then saves do, and all is there."""
    service = start()
    with service.peer() as peer, service.owner() as other:
        for _ in range(3):
            assert peer.save()["message"] == "Password saved!"
        with system_calls(service.child("worker 1"), "pwrite64", f"error={error}"):
            for _ in range(3):
                reply = peer.save()
                assert reply["message"] == "Not saved!", reply
                assert reply["error"] == REASONS[error]
                assert other.count() == 3
                assert len(other.ask({"message": "list_users"})["users"]) == 3
        assert peer.save()["message"] == "Password saved!"
        assert peer.count() == 4
    service.kill_everything()
    assert users_in(service.database) == 4


@pytest.mark.root("to let system calls fail")
def test_a_checkpoint_that_has_no_room_is_tried_again(start: Start) -> None:
    """The log grows on and nothing is lost; once there is room the log is copied."""
    service = start()
    with service.peer() as peer:
        with system_calls(service.child("worker 1"), "pwrite64", "error=ENOSPC", service.database):
            peer.send(*[GREAT] * 1500)
            assert {peer.reply()["message"] for _ in range(1500)} == {"Password saved!"}
            warning = "the log cannot be copied to the database: The disk is full."
            eventually(lambda: warning in service.stderr, "that is said")
            assert service.database.stat().st_size < 100_000
        peer.send(*[GREAT] * 1000)
        assert {peer.reply()["message"] for _ in range(1000)} == {"Password saved!"}
        eventually(lambda: service.database.stat().st_size > 4_000_000, "the log is copied")
    service.kill_everything()
    assert users_in(service.database) == 2500


@pytest.mark.root("to let system calls fail")
def test_a_slow_disk_keeps_only_saves_waiting(start: Start) -> None:
    """While a sync takes two seconds, pings, counts and reads at another worker go on at once."""
    service = start()
    with service.peer() as saver, peers_at(service, "worker 2") as (other,):
        other.authenticate(service.token)
        other.ask({**SAVE, "username": "alice"})
        with system_calls(service.child("worker 1"), SYNCS, "delay_enter=2s"):
            began = time.monotonic()
            saver.send(SAVE)
            answered = 0
            while time.monotonic() - began < 1.5:
                assert other.ask(PING) == {"message": "Alive!"}
                assert other.count() == 1
                got = other.ask({"message": "get_password", "username": "alice"})
                assert got["password"] == SAVE["password"]
                answered += 1
            assert answered > 10
            assert saver.reply() == {"message": "Password saved!"}
            assert time.monotonic() - began > 1.9, "the disk was slow"
            assert saver.count() == 2


@pytest.mark.root("to let system calls fail")
def test_clients_of_the_worker_that_writes_wait_as_long_as_the_disk(start: Start) -> None:
    """All their requests are answered after the sync; who connects meanwhile does not wait."""
    service = start()
    with peers_at(service, "worker 1", 2) as (saver, other):
        with system_calls(service.child("worker 1"), SYNCS, "delay_enter=2s"):
            saver.send(SAVE)
            assert is_silent(saver, 0.3)
            other.send(PING)
            with service.peer() as late:
                assert late.ask(PING) == {"message": "Alive!"}
                assert is_silent(other, 0.05), "the sync is not over"
            assert saver.reply() == {"message": "Password saved!"}
            assert other.reply() == {"message": "Alive!"}
        assert other.count() == 1


def test_what_waits_for_a_slow_disk_is_bounded(start: Start) -> None:
    """Past the limit saves are "Not saved!" at once, counts go on; those before it are saved."""
    service = start("--in-flight-max", "1000000", "--save-timeout-s", "60")
    with peers_at(service, "worker 2", 2) as (peer, other):
        writer = service.child("worker 1")
        peer.save()
        os.kill(writer, signal.SIGSTOP)  # a disk that is as slow as can be
        peer.socket.sendall((json.dumps(GREAT).encode() + b"\n") * 6000)
        refused = eventually(lambda: refusal(service), "a save is refused, whoever sends it", 8.0)
        assert "too many" in refused
        assert other.count() == 1
        os.kill(writer, signal.SIGCONT)
        words = [peer.reply()["message"] for _ in range(6000)]
        assert set(words) == {"Password saved!", "Not saved!"}
        assert set(words[:1000]) == {"Password saved!"}, "replies are in the order of the saves"


def refusal(service: Service) -> str:
    """Return why a save is refused, or nothing where it waits."""
    with service.peer() as another:
        another.send(SAVE)
        return "" if is_silent(another) else str(another.reply()["error"])


def test_saves_that_wait_too_long_are_given_up_in_order(start: Start) -> None:
    """Saves that waited too long are answered after those that were sent before them."""
    service = start("--save-timeout-s", "0.5")
    with peers_at(service, "worker 2", 2) as (peer, other):
        writer = service.child("worker 1")
        assert peer.save() == {"message": "Password saved!"}
        os.kill(writer, signal.SIGSTOP)
        for number in range(4):  # two batches go to the writer, the others wait
            peer.send({**SAVE, "id": number})
            for _ in range(2):  # answered at the beginning of a turn: the second is in the next
                assert other.ask(PING) == {"message": "Alive!"}
        refused = other.save()
        assert (refused["message"], "waited too long" in refused["error"]) == ("Not saved!", True)
        os.kill(writer, signal.SIGCONT)
        replies = [peer.reply() for _ in range(4)]
        assert [reply["id"] for reply in replies] == [0, 1, 2, 3]
        words = [reply["message"] for reply in replies]
        assert words == ["Password saved!"] * 2 + ["Not saved!"] * 2
        assert peer.count() == 3
