"""The service's processes: what they are called, who replaces whom, and how they end."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness import Peer, Service, eventually, is_alive, load, process_title

SAVE = {"message": "save_password", "password": "abc123"}


def names_of(service: Service) -> set[str]:
    """Return the names of the children, once all of them run."""
    expected = {"writer", "worker 1", "worker 2", "checker", "console"}
    eventually(lambda: set(service.children()) >= expected, "all children run")
    return set(service.children())


def test_the_process_list_says_what_each_process_is(service: Service) -> None:
    """Each process is called by its part in the service."""
    assert names_of(service) == {"writer", "worker 1", "worker 2", "checker", "console"}
    assert process_title(service.process.pid) == "pwserver: listener"


@pytest.mark.parametrize("name", ["worker 1", "worker 2", "writer"])
def test_a_killed_child_is_replaced_and_nothing_acknowledged_is_lost(
    start: Start, name: str
) -> None:
    """Killed again and again under load, a child is replaced; every acknowledged save is there."""
    service = start()
    with load(service, 8) as acknowledged:
        for _ in range(5):
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 20, "saves are acknowledged")  # noqa: B023
            service.replace(name)
    with service.peer() as peer:
        assert peer.count() >= len(acknowledged) > 100
    assert f"{name} died" in service.stderr


def test_the_other_workers_connections_go_on(service: Service) -> None:
    """Connections are spread evenly; those of a killed worker end, the others notice nothing."""
    workers = [service.child("worker 1"), service.child("worker 2")]
    peers: list[Peer] = []

    def spread_evenly() -> bool:
        peers.append(service.peer())
        assert peers[-1].ask({"message": "ping"}) == {"message": "Alive!"}
        return len(peers) >= 4 and open_sockets(workers[0]) == open_sockets(workers[1])

    eventually(spread_evenly, "both workers have as many connections")
    service.replace("worker 1")
    alive = [peer for peer in peers if _still_answers(peer)]
    assert len(alive) == len(peers) / 2
    for peer in peers:
        peer.close()


def open_sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum(os.readlink(link).startswith("socket:") for link in links)


def _still_answers(peer: Peer) -> bool:
    try:
        peer.send({"message": "ping"})
        return peer.line() == b'{"message": "Alive!"}\n'
    except OSError:
        return False


def test_connections_outlive_the_writer(service: Service, peer: Peer) -> None:
    """After the writer's death its clients' connections go on and save."""
    assert peer.save()["message"] == "Password saved!"
    service.replace("writer")
    assert peer.save()["message"] == "Password saved!"
    assert peer.count() == 2


def test_a_save_in_flight_to_a_dead_writer_is_told_so(service: Service, peer: Peer) -> None:
    """What nobody can know is said: not "saved", and never "not saved"."""
    assert peer.save()["message"] == "Password saved!"
    os.kill(service.child("writer"), signal.SIGSTOP)
    peer.send({**SAVE, "id": 5}, {"message": "ping", "id": 6})
    assert not _readable(peer, 0.3), "a stopped writer cannot have answered"
    service.replace("writer")
    reply = peer.reply()
    assert (reply["message"], reply["id"]) == ("Unavailable!", 5)
    assert "may or may not" in reply["error"]
    assert peer.reply() == {"message": "Alive!", "id": 6}
    assert peer.save()["message"] == "Password saved!"


def _readable(peer: Peer, timeout_s: float) -> bool:
    peer.socket.settimeout(timeout_s)
    try:
        return bool(peer.socket.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        peer.socket.settimeout(20)


def test_a_child_that_hangs_is_replaced(start: Start) -> None:
    """A stopped worker is killed and replaced after the deadline, and the service goes on."""
    service = start("--hang-timeout-s", "2", "--workers", "1")
    with service.peer() as peer:
        peer.save()
    stopped = service.child("worker 1")
    os.kill(stopped, signal.SIGSTOP)
    eventually(lambda: service.children().get("worker 1") not in (None, stopped), "replaced")
    assert "worker 1 showed no sign of life for 2 s" in service.stderr
    with service.peer() as peer:
        assert peer.count() == 1


def test_repeated_death_is_met_with_a_pause(service: Service) -> None:
    """A child that dies as soon as it runs is not started in a hot loop, and the log says so."""
    for _ in range(4):
        service.replace("worker 1")
    assert service.stderr.count("worker 1 died; it is started again in ") >= 2
    with service.peer() as peer:
        assert peer.save()["message"] == "Password saved!"


def test_a_killed_listener_leaves_no_orphan(start: Start) -> None:
    """However the listener dies, its children end, the port is free and nothing is lost."""
    service = start()
    names_of(service)
    children = list(service.children().values())
    with load(service, 4) as acknowledged:
        eventually(lambda: len(acknowledged) > 50, "saves are acknowledged")
        os.kill(service.process.pid, signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, children)), "no child is alive", 2.0)
    service.ended()
    began = time.monotonic()
    again = start(port=service.port)
    with again.peer() as peer:
        assert peer.count() >= len(acknowledged)
    assert time.monotonic() - began < 3.0


def test_everything_killed_at_once_loses_nothing(start: Start) -> None:
    """After SIGKILL to all, a restart finds every acknowledged save."""
    acknowledged_before = 0
    for _ in range(3):
        service = start()
        with service.peer() as peer:
            found = peer.count()
        assert found >= acknowledged_before
        with load(service, 8) as acknowledged:
            eventually(lambda: len(acknowledged) > 200, "saves are acknowledged")
            service.kill_everything()
        acknowledged_before = found + len(acknowledged)


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
    os.kill(service.child("writer"), signal.SIGSTOP)
    peer.send(SAVE)
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: stopping" in service.stderr, "the stop has begun")
    assert service.stop() == 7


def test_a_stop_has_a_deadline(start: Start) -> None:
    """A child that cannot end is killed when the deadline passes, and the exit code tells."""
    service = start("--stop-timeout-s", "1")
    with service.peer() as peer:
        peer.save()
        os.kill(service.child("writer"), signal.SIGSTOP)
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
    """A command that has it just when the writer is started anew does not end the service."""
    assert peer.save()["message"] == "Password saved!"
    writer = service.child("writer")
    with service.database.open("rb") as held:
        os.kill(service.process.pid, signal.SIGSTOP)  # so that nobody starts another before
        os.kill(writer, signal.SIGKILL)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.kill(service.process.pid, signal.SIGCONT)
        eventually(lambda: service.children().get("writer", writer) != writer, "another is started")
        peer.send(SAVE)
        assert not _readable(peer, 0.3), "without the database nothing is saved"
    assert peer.reply()["message"] == "Password saved!"
    assert peer.count() == 2


def test_random_kills_under_load_lose_nothing(start: Start) -> None:
    """Workers and writer killed every 200 ms: the service answers on, and no save is lost."""
    service = start()
    names_of(service)
    stop = threading.Event()

    def kill_some() -> None:
        victims = ["worker 1", "writer", "worker 2"]
        for number in range(15):
            pid = service.children().get(victims[number % 3])
            if pid:
                os.kill(pid, signal.SIGKILL)
            if stop.wait(0.2):
                return

    with load(service, 8) as acknowledged:
        killer = threading.Thread(target=kill_some)
        killer.start()
        killer.join()
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 100, "saves are acknowledged again")
    with service.peer() as peer:
        assert peer.count() >= len(acknowledged)
