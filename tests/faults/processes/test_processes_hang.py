"""A process is stopped, so that it is there and does nothing; or dies with clients on their way."""

import os
import signal

import pytest

from tests.faults.canary import SAVE
from tests.faults.conftest import Start
from tests.faults.inject import is_silent, open_files
from tests.support.books_wire import PING, on_each_worker, peers_at
from tests.support.harness import Peer, Service, eventually, steady


def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    """It is killed after the deadline, and its clients with it; the rest are served meanwhile."""
    service = start("--hang-timeout-s", "4")
    with on_each_worker(service) as (going_on, ending):
        hanging = service.child("worker 2")
        os.kill(hanging, signal.SIGSTOP)
        ending.send(SAVE)
        served = 0
        while service.children().get("worker 2") in (None, hanging):
            assert going_on.save()["message"] == "Password saved!"
            served += is_served(service)
        assert ending.ended(), "it was killed"
        assert served > 0, "who comes later is served by the other one"
    assert "worker 2 showed no sign of life for 4 s" in service.stderr
    with service.peer() as peer:
        peer.save()


def is_served(service: Service) -> bool:
    """Tell whether a new connection is served at once."""
    with service.peer() as late:
        late.send(PING)
        return not is_silent(late, 0.05)


def test_a_writer_that_hangs_is_replaced(start: Start) -> None:
    """Saves on their way are told that nobody knows, counts go on, and then saves do as well."""
    service = start("--hang-timeout-s", "4")
    with peers_at(service, "worker 2", 2) as (peer, other):
        peer.save()
        hanging = service.child("worker 1")
        os.kill(hanging, signal.SIGSTOP)
        peer.send(SAVE)
        served = 0
        while service.children().get("worker 1") in (None, hanging):
            assert other.count() == 1
            served += is_served(service)
        assert served > 0, "who comes later is served by the other one"
        assert peer.reply()["message"] == "Unavailable!"
        eventually(lambda: peer.save()["message"] == "Password saved!", "saves go on")
        assert peer.count() == 2
    assert "worker 1 showed no sign of life for 4 s" in service.stderr


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
    """Handed to workers that never took them, clients are closed; no descriptor is left open."""
    with service.peer() as peer:
        peer.save()
    before = steady(lambda: open_files(service.process.pid), "the listener's descriptors")
    closed = 0
    for clients in (20, 200, 20):
        workers = {name: service.child(name) for name in ("worker 1", "worker 2")}
        for pid in workers.values():
            os.kill(pid, signal.SIGSTOP)
        peers = [service.peer() for _ in range(clients)]
        for peer in peers:
            peer.send(PING)
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        fates = [served_or_closed(peer) for peer in peers]
        closed += fates.count("closed")
        for name, pid in workers.items():
            eventually(lambda: service.children().get(name, pid) != pid, "replaced")  # noqa: B023
    assert closed > 0, "some were on their way"
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
