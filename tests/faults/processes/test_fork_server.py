"""The fork server, from which all children come, dies."""

import contextlib
import os
import signal

import pytest

from tests.faults.conftest import Start
from tests.faults.inject import open_files
from tests.support.books_wire import peers_at
from tests.support.harness import Service, eventually, steady
from workers.admin import rotation


def fork_server(service: Service) -> int | None:
    """Return the process id of the fork server, if it runs."""
    return service.children().get("fork server")


@pytest.mark.root
def test_it_dies_while_it_makes_a_child(start: Start) -> None:
    """The child that it owes is taken for dead, and comes from another fork server."""
    service = start()
    with peers_at(service, "worker 2") as (peer,):
        old = service.all_children()["fork server"]
        writer = service.child("worker 1")
        os.kill(old, signal.SIGSTOP)
        os.kill(writer, signal.SIGKILL)
        eventually(lambda: "worker 1 died" in service.stderr, "the death is noticed")
        steady(lambda: open_files(service.process.pid), "a child was asked for")
        with contextlib.suppress(ProcessLookupError):  # it took too long, and was replaced
            os.kill(old, signal.SIGKILL)
        eventually(lambda: peer.save()["message"] == "Password saved!", "saves go on")
    assert "another one is started" in service.stderr


@pytest.mark.root
def test_a_key_comes_while_it_makes_the_writer(start: Start) -> None:
    """A writer that was given the keys before is started once more, with all of them."""
    service = start()
    with peers_at(service, "worker 2") as (peer,):
        held = service.all_children()["fork server"]
        os.kill(held, signal.SIGSTOP)
        os.kill(service.child("worker 1"), signal.SIGKILL)
        eventually(lambda: "worker 1 died" in service.stderr, "the death is noticed")
        steady(lambda: open_files(service.process.pid), "the listener waits for the fork server")
        with service.administration() as files:
            rotation.add_key(files)
        with service.administration() as files:
            rotation.rotate(files, lambda *_: None, beside_service=False)
        os.kill(held, signal.SIGCONT)
        eventually(lambda: peer.save()["message"] == "Password saved!", "saves go on")
    assert "the key file has changed" in service.stderr


def test_another_one_is_made_before_it_is_needed(start: Start) -> None:
    """So that nobody who comes waits while it loads its modules; the children live on."""
    service = start()
    old = service.all_children()["fork server"]
    with service.peer() as peer:
        os.kill(old, signal.SIGKILL)
        eventually(lambda: fork_server(service) not in (None, old), "another one runs")
        assert peer.save()["message"] == "Password saved!"
    assert "died; it is started again" not in service.stderr, "the children live on"
