"""The service's processes: what they are called, how they stop, and what they share with others."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.harness import Peer, Service, eventually, process_title
from tests.support.processes import is_alive

PROCESSES = {"fork server", "worker 1", "worker 2", "checker", "console"}
SAVE = {"message": "save_password", "password": "abc123"}


def names_of(service: Service) -> set[str]:
    """Return the names of the children, once all of them run."""
    expected = PROCESSES
    eventually(lambda: set(service.children()) >= expected, "all children run")
    return set(service.children())


def test_the_process_list_says_what_each_process_is(service: Service) -> None:
    """Each process is called by its part in the service."""
    assert names_of(service) == PROCESSES
    assert process_title(service.process.pid) == "pwserver: listener"


def _readable(peer: Peer, timeout_s: float) -> bool:
    peer.socket.settimeout(timeout_s)
    try:
        return bool(peer.socket.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        peer.socket.settimeout(20)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_what_was_received(
    start: Start, signal_number: signal.Signals
) -> None:
    """A stop is clean: exit code 0, no orphan, and the book holds just what was acknowledged."""
    service = start()
    peers = [service.peer() for _ in range(20)]
    for peer in peers:
        assert peer.save()["message"] == "Password saved!"
    children = list(service.children().values())
    for peer in peers:
        peer.send(*[SAVE] * 50)
    assert service.stop(signal_number) == 0
    answered = 0
    for peer in peers:
        while peer.line() == b'{"message": "Password saved!"}\n':
            answered += 1
        peer.close()
    assert not [pid for pid in children if is_alive(pid)]
    again = start()
    with again.peer() as peer:
        assert peer.count() == 20 + answered
    assert answered > 0


def test_a_signal_to_the_whole_group_is_a_clean_stop(start: Start) -> None:
    """A terminal's Ctrl-C or a service manager reaches every process; still nothing is cut off."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        service = start(start_new_session=True)
        with service.peer() as peer:
            peer.save()
            peer.send(*[SAVE] * 100)
            os.killpg(service.process.pid, signal_number)
            assert service.ended() == 0
            assert [peer.reply()["message"] for _ in range(100)] == ["Password saved!"] * 100


def test_an_idle_client_does_not_hold_up_a_stop(service: Service, peer: Peer) -> None:
    """A client that says nothing is told to go, and the service ends well before its deadline."""
    peer.save()
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 5
    assert peer.ended()


def test_a_second_signal_ends_the_service_at_once(service: Service, peer: Peer) -> None:
    """Who cannot wait for a clean stop may ask again; the exit code says that it was not clean."""
    peer.save()
    os.kill(service.child("worker 1"), signal.SIGSTOP)
    peer.send(SAVE)
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: stopping" in service.stderr, "the stop has begun")
    time.sleep(1.1)  # sooner, it would be the same request
    began = time.monotonic()
    assert service.stop() == 7
    assert time.monotonic() - began < 5, "not at the deadline only"
    assert "SIGTERM again" in service.stderr


def test_a_stop_has_a_deadline(start: Start) -> None:
    """A child that cannot end is killed when the deadline passes, and the exit code tells."""
    service = start("--stop-timeout-s", "1")
    with service.peer() as peer:
        peer.save()
        os.kill(service.child("worker 1"), signal.SIGSTOP)
        peer.send(SAVE)
        assert service.stop() == 7
    assert "the deadline for stopping passed" in service.stderr


def test_a_port_in_use_is_refused_plainly(service: Service, tmp_path: Path) -> None:
    """A second service on the port ends at once and says why."""
    command = [sys.executable, "-m", "pwserver", "serve", "--port", str(service.port)]
    command += ["--database", str(tmp_path / "other.db")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 4
    assert f"127.0.0.1:{service.port} is in use by another program" in second.stderr
    assert not (tmp_path / "other.db").exists()
    assert "Traceback" not in second.stderr


def test_a_port_just_left_can_be_taken_again(start: Start) -> None:
    """Connections of a former service that linger in the kernel do not hold up a restart."""
    service = start()
    with service.peer() as peer:
        peer.save()
        assert service.stop() == 0
    again = start(port=service.port)
    assert again.port == service.port


def test_two_services_do_not_share_a_database(service: Service, tmp_path: Path) -> None:
    """A second service on the same database is refused: each would count without the other."""
    command = [sys.executable, "-m", "pwserver", "serve", "--port", "0"]
    second = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
    )
    assert second.returncode == 5
    assert "in use by another pwserver" in second.stderr


def test_who_looks_at_the_database_for_a_moment_is_waited_for(service: Service, peer: Peer) -> None:
    """A command that has it just when worker 1 is started again does not end the service."""
    assert peer.save()["message"] == "Password saved!"
    writer = service.child("worker 1")
    with service.database.open("rb") as held:
        os.kill(service.process.pid, signal.SIGSTOP)  # so that nobody starts another before
        os.kill(writer, signal.SIGKILL)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.kill(service.process.pid, signal.SIGCONT)
        eventually(lambda: service.children().get("worker 1", writer) != writer, "it is started")
        again = service.peer()
        again.send(SAVE)
        assert not _readable(again, 0.3), "without the database nothing is saved"
    with again:
        assert again.reply()["message"] == "Password saved!"
        assert again.count() == 2
