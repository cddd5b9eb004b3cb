"""A process is stopped, so that it is there and does nothing; or dies with clients on their way."""

import os
import signal

import pytest

from tests.faults.canary import SAVE
from tests.faults.conftest import Start
from tests.faults.inject import is_silent, open_files
from tests.support.books_wire import PING, on_each_worker
from tests.support.harness import Peer, Service, eventually, steady


def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    """It is killed after the deadline, and its clients with it; the rest are served meanwhile."""
    service = start("--hang-timeout-s", "1")
    with on_each_worker(service) as (one, two):
        stopped = service.child("worker 1")
        os.kill(stopped, signal.SIGSTOP)
        one.send(SAVE)
        served = 0
        while service.children().get("worker 1") in (None, stopped):
            assert two.save()["message"] == "Password saved!"
            with service.peer() as late:
                late.socket.settimeout(0.1)
                late.send(PING)
                served += not is_silent(late, 0.05)
        assert one.ended(), "it was killed"
        assert served > 0, "who comes later is served by the other one"
    assert "worker 1 showed no sign of life for 1 s" in service.stderr
    with service.peer() as peer:
        peer.save()


def test_a_writer_that_hangs_is_replaced(start: Start) -> None:
    """Saves on their way are told that nobody knows, counts go on, and then saves do as well."""
    service = start("--hang-timeout-s", "1")
    stopped = service.child("writer")
    with service.peer() as peer, service.peer() as other:
        peer.save()
        os.kill(stopped, signal.SIGSTOP)
        peer.send(SAVE)
        while service.children().get("writer") in (None, stopped):
            assert other.count() == 1
        assert peer.reply()["message"] == "Unavailable!"
        assert peer.save()["message"] == "Password saved!"
        assert peer.count() == 2
    assert "writer showed no sign of life for 1 s" in service.stderr


def test_a_service_that_was_suspended_goes_on(start: Start) -> None:
    """Where all of it stood still for longer than any deadline, nobody is killed for that."""
    service = start("--hang-timeout-s", "0.5", "--message-timeout-s", "0.5")
    with service.peer() as peer:
        peer.save()
        children = steady(service.children, "the set of children")
        os.killpg(service.process.pid, signal.SIGSTOP)
        peer.send(SAVE)
        assert is_silent(peer, 1.0)
        os.killpg(service.process.pid, signal.SIGCONT)
        assert peer.reply()["message"] == "Password saved!"
        assert steady(service.children, "the set of children") == children


@pytest.mark.root
def test_a_worker_that_dies_with_sockets_on_their_way(service: Service) -> None:
    """Handed to a worker that never took them, clients are closed; no descriptor is left open."""
    with service.peer() as peer:
        peer.save()
    before = steady(lambda: open_files(service.process.pid), "the listener's descriptors")
    closed: list[int] = []
    for clients in (20, 200, 20):
        worker = service.child("worker 1")
        os.kill(worker, signal.SIGSTOP)
        peers = [service.peer() for _ in range(clients)]
        for peer in peers:
            peer.send(PING)
        os.kill(worker, signal.SIGKILL)
        fates = [served_or_closed(peer) for peer in peers]
        closed.append(fates.count("closed"))
        assert closed[-1] <= clients / 2 + 1, "the other worker serves its half"
        eventually(lambda: service.children().get("worker 1", worker) != worker, "replaced")  # noqa: B023
    assert sum(closed) > 0, "some were on their way"
    eventually(lambda: open_files(service.process.pid) == before, "no descriptor is left")


def served_or_closed(peer: Peer) -> str:
    """Wait for the answer to a ping or the end; return which it was, and close."""
    with peer:
        try:
            line = peer.line()
        except ConnectionResetError:
            return "closed"
        assert line in (b"", b'{"message": "Alive!"}\n')
        return "served" if line else "closed"
