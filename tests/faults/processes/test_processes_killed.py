"""A worker, the one that writes, the listener, or all are killed, also again and again."""

import os
import signal
import time
from functools import partial

import pytest

from tests.faults.canary import SAVE
from tests.faults.conftest import Start
from tests.faults.inject import is_silent, open_files
from tests.faults.tally import saving, users_in
from tests.support.books_wire import peers_at
from tests.support.harness import Peer, Service, eventually, steady
from tests.support.processes import is_alive


@pytest.mark.root
@pytest.mark.parametrize(
    "victims",
    [["worker 1", "worker 2"], ["worker 1"], ["worker 2"]],
    ids=["both workers", "the one that writes", "the other"],
)
def test_killed_every_200_ms_under_load(start: Start, victims: list[str]) -> None:
    """What was acknowledged is there, nothing else but what nobody knew of, and nothing leaks."""
    service = start()
    service.all_children()
    before = steady(lambda: open_files(service.process.pid), "the listener's descriptors")
    with saving(service, 8) as savers:
        for number in range(12):
            if pid := service.children().get(victims[number % len(victims)]):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)  # the rhythm of the fault
        seen = savers.tally.saved
        eventually(lambda: savers.tally.saved > seen + 50, "saves go on")
    service.all_children()
    with service.peer() as peer:
        users = peer.count()
    assert savers.tally.accounts_for(users), (savers.tally, users)
    assert savers.tally.saved > 100
    eventually(lambda: open_files(service.process.pid) == before, "as many descriptors as before")
    for victim in victims:
        assert f"{victim} died" in service.stderr


@pytest.mark.parametrize(("killed", "other"), [("worker 1", "worker 2"), ("worker 2", "worker 1")])
def test_the_other_workers_connections_go_on(service: Service, killed: str, other: str) -> None:
    """Those of a killed worker end, the others notice nothing, whichever of the two writes."""
    with peers_at(service, killed, 2) as ending, peers_at(service, other, 2) as going_on:
        for peer in (*ending, *going_on):
            assert peer.save()["message"] == "Password saved!"
        service.replace(killed)
        assert [_still_saves(peer) for peer in (*ending, *going_on)] == [False] * 2 + [True] * 2


def _still_saves(peer: Peer) -> bool:
    try:
        peer.send(SAVE)
        return peer.line() == b'{"message": "Password saved!"}\n'
    except OSError:
        return False


def test_connections_of_the_others_outlive_the_writer(service: Service) -> None:
    """However often the worker that writes dies, those of another go on, and each saves on."""
    with peers_at(service, "worker 2", 10) as peers:
        saved = unknown = 0
        for _ in range(4):
            for peer in peers:
                peer.send(*[SAVE] * 200)
            service.replace("worker 1")
            words = [peer.reply()["message"] for peer in peers for _ in range(200)]
            assert set(words) <= {"Password saved!", "Unavailable!", "Not saved!"}
            saved += words.count("Password saved!")
            unknown += words.count("Unavailable!")
        eventually(lambda: peers[0].save()["message"] == "Password saved!", "saves go on")
        assert saved + 1 <= peers[0].count() <= saved + 1 + unknown


def test_a_save_in_flight_to_a_dead_writer_is_told_so(service: Service) -> None:
    """What nobody can know is said: not "saved", and never "not saved"."""
    with peers_at(service, "worker 2") as (peer,):
        assert peer.save()["message"] == "Password saved!"
        os.kill(service.child("worker 1"), signal.SIGSTOP)
        peer.send({**SAVE, "id": 5}, {"message": "ping", "id": 6})
        assert is_silent(peer), "a writer that is stopped cannot have answered"
        service.replace("worker 1")
        reply = peer.reply()
        assert (reply["message"], reply["id"]) == ("Unavailable!", 5)
        assert "may or may not" in reply["error"]
        assert peer.reply() == {"message": "Alive!", "id": 6}
        assert peer.save()["message"] == "Password saved!"


def test_repeated_death_is_met_with_a_pause(service: Service) -> None:
    """A child that dies as soon as it runs is not started in a hot loop, and the log says so."""
    for _ in range(4):
        service.replace("worker 1")
    assert service.stderr.count("worker 1 died; it is started again in ") >= 2
    with service.peer() as peer:
        assert peer.save()["message"] == "Password saved!"


def test_a_killed_listener_leaves_no_orphan(start: Start) -> None:
    """Its children end within 2 s, the port is free, a restart is ready within 3 s with all."""
    service = start()
    children = list(service.all_children().values())
    with saving(service, 4) as savers:
        eventually(lambda: savers.tally.saved > 50, "saves are acknowledged")
        os.kill(service.process.pid, signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, children)), "no child is alive", 2.0)
    service.ended()
    began = time.monotonic()
    again = start(port=service.port)
    with again.peer() as peer:
        users = peer.count()
    assert time.monotonic() - began < 3.0
    assert savers.tally.accounts_for(users), (savers.tally, users)


def _is_gone(pid: int) -> bool:
    return not is_alive(pid)


def test_everything_killed_at_once_loses_nothing(start: Start) -> None:
    """After SIGKILL to all, again and again, the file is sound, and has what was acknowledged."""
    users = 0
    for _ in range(3):
        service = start()
        with saving(service, 8) as savers:
            eventually(lambda: savers.tally.saved > 200, "saves are acknowledged")
            pids = [service.process.pid, *service.children().values()]
            os.killpg(service.process.pid, signal.SIGKILL)
        service.ended()
        for pid in pids:
            eventually(partial(_is_gone, pid), "its last system call has ended")
        users_before, users = users, users_in(service.database)
        assert savers.tally.accounts_for(users - users_before), (savers.tally, users)
    with start().peer() as peer:
        assert peer.count() == users
